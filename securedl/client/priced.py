"""Prices of servers and of this client in the user's cache folder: a file for each, checked when read."""

from __future__ import annotations

import contextlib
import hashlib
import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TypeVar

from securedl.client.calibrate import ClientPrices, client_prices, joined_prices
from securedl.compiler.cost import CoefficientPrices as CoefficientPrices
from securedl.errors import InputError
from securedl.files import write_atomically
from securedl.he.prices import ServerPrices, setup_id
from securedl.version import __version__

P = TypeVar("P", ServerPrices, ClientPrices)


@dataclass(frozen=True)
class KnownPrices:
    """What was measured before.

    Args:
        fresh: take nothing of it; what is measured now takes its place.
    """

    fresh: bool = False

    def server(self, address: str, setup: bytes) -> ServerPrices | None:
        """Of a server there that says this of its machine, if they are known."""
        return self._read(ServerPrices, address, setup.hex())

    def note(self, address: str, setup: bytes, prices: ServerPrices) -> None:
        """Keep what a server says."""
        _write(prices, address, setup.hex())

    def joined(self, server: ServerPrices) -> CoefficientPrices:
        """With this client's, which are measured where they are not known."""
        here = setup_id("client", 1).hex()
        client = self._read(ClientPrices, here)
        if client is None:
            client = client_prices()
            _write(client, here)
        return joined_prices(server, client)

    def _read(self, kind: type[P], *names: str) -> P | None:
        if self.fresh:
            return None
        try:
            found: P = kind(**json.loads(_path(kind, names).read_bytes()))
        except (OSError, ValueError, TypeError):  # not there, damaged, or of another release
            return None
        return found


def _write(prices: ServerPrices | ClientPrices, *names: str) -> None:
    """Keep them, where that is possible."""
    path = _path(type(prices), names)
    with contextlib.suppress(OSError, InputError):
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(path, json.dumps(asdict(prices)).encode())


def _path(kind: type, names: tuple[str, ...]) -> Path:
    import pooch

    digest = hashlib.sha256(repr((kind.__name__, __version__, *names)).encode()).hexdigest()[:32]
    return Path(pooch.os_cache("securedl")) / "prices" / f"{digest}.json"
