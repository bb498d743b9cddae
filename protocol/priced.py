"""A client's question for a server's prices. What comes back is believed only where it can be true."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from protocol import messages_pb2 as pb
from protocol.link import Connection
from protocol.waits import Dialogue, Pause
from protocol.wire import ID_BYTES, PROTOCOL_VERSION
from securedl.errors import AuthenticationError, InputError, ProtocolError, QuotaError, ServerError
from securedl.he.prices import TYPICAL_MS, ServerPrices

#: How long a server may measure, and how often it is asked meanwhile.
MEASURING_S = 30.0
_ASK_S = 0.2

_DEFAULTS = "compile without `prices`, which takes those of one core of a Zen 5"


def ask_prices(
    link: Connection,
    known: Callable[[str, bytes], ServerPrices | None],
    note: Callable[[str, bytes, ServerPrices], None],
) -> Dialogue[ServerPrices]:
    """The server's prices, or what is known of them from an earlier time while it measures.

    Args:
        known: by address and setup (`he.prices.setup_id`). note: is told what the server says.

    Raises:
        ServerError, ProtocolError: as `protocol.client.prices`.
    """
    until = time.monotonic() + MEASURING_S
    while True:
        found = yield from _describe(link)
        if found.HasField("prices"):
            prices = _checked(found.prices, link.address)
            note(link.address, found.setup, prices)
            return prices
        if (earlier := known(link.address, found.setup)) is not None:
            return earlier
        if not found.measuring:
            raise ProtocolError(f"the server at {link.address} cannot measure its prices: {_DEFAULTS}")
        if time.monotonic() > until:
            raise ServerError(
                f"the server at {link.address} has not measured its prices in {MEASURING_S:g} s; it does so "
                f"when it is idle: ask later, or {_DEFAULTS}"
            )
        yield Pause(_ASK_S)


def _describe(link: Connection) -> Dialogue[Any]:
    request = pb.DescribeRequest(version=PROTOCOL_VERSION, prices=True)
    try:
        found: Any = yield from link.ask("Describe", request, pb.Description)
    except (AuthenticationError, QuotaError):
        raise
    except ProtocolError as error:  # a server of an earlier release refuses the question
        raise ProtocolError(f"{error}; a server of an earlier release has no prices: {_DEFAULTS}") from error
    if found.version != PROTOCOL_VERSION or len(found.setup) != ID_BYTES:
        raise ProtocolError(f"the server at {link.address} offers no prices: {_DEFAULTS}")
    return found


def _checked(prices: Any, address: str) -> ServerPrices:
    try:
        return ServerPrices(**{name: getattr(prices, name) for name in TYPICAL_MS})
    except InputError as error:
        raise ProtocolError(
            f"the server at {address} offers prices that no server can have: {error}; {_DEFAULTS}"
        ) from error
