"""The client's channel: where it leads, what secures it, and streams whose every wait has a limit.

What threads and event loops have in common; `protocol.blocking` and `protocol.aio` are the two.
"""

from __future__ import annotations

import contextlib
import os
from abc import ABC, abstractmethod
from collections.abc import Generator, Iterable, Iterator
from pathlib import Path
from typing import Any, ClassVar, TypeAlias

import grpc
from cryptography.x509 import load_pem_x509_certificates

from protocol import address as addresses
from protocol.failures import from_rpc
from protocol.service import CLIENT_OPTIONS, method_path
from protocol.waits import Dialogue, Wait
from protocol.wire import M, parse
from securedl.errors import InputError, ProtocolError, SecureDLError, ServerError

#: True: the system's roots. A file: the authority to trust, PEM. Three files: with a certificate and key
#: of the client's own.
Tls: TypeAlias = bool | str | os.PathLike[str] | tuple[str | os.PathLike[str], ...] | None

#: Messages of an upload that are made before the network has taken the first of them.
MESSAGES_AHEAD = 8


class Connection(ABC):
    """A channel to one server.

    Args:
        timeout_s: longest wait for one message.
        connect_s: longest wait for a short method.

    Raises:
        InputError: an argument cannot be used, or the token would travel in the clear.
    """

    #: Who opens it, and how: for the sentence about one that is closed.
    client: ClassVar[tuple[str, str]]

    def __init__(self, address: str, token: str | None, tls: Tls, timeout_s: float, connect_s: float) -> None:
        parsed = addresses.parse_address(address)
        if token is not None and not (tls or parsed.local):
            raise InputError(
                f"refusing to send the token to {address} in the clear: pass tls=True, or tls=the server's "
                "authority (a PEM file)"
            )
        if token is not None:
            addresses.check_token(token)
        self.address, self.timeout_s, self._connect_s = address, timeout_s, connect_s
        self._closed = False
        self._metadata = [] if token is None else [("authorization", f"Bearer {token}")]
        self._target, self._credentials = parsed.text, credentials(tls) if tls else None

    def _open(self, library: Any) -> Any:
        """A channel of gRPC, or of its library for event loops."""
        if self._credentials is None:
            return library.insecure_channel(self._target, CLIENT_OPTIONS)
        return library.secure_channel(self._target, self._credentials, CLIENT_OPTIONS)

    def ask(self, method: str, request: Any, reply: type[M]) -> Dialogue[M]:
        """One short method.

        Raises:
            ServerError: no answer. ProtocolError: refused, or not understood. InputError: closed.
        """
        self.check_open()
        asked = self._ask(method_path(method), request.SerializeToString())
        yield asked
        try:
            raw = asked.reply()
        except grpc.RpcError as error:
            doing = (
                "check that `securedl serve` runs there, that the address is right, and that both sides use "
                "TLS or neither does"
            )
            raise from_rpc(error, self.address, doing) from error
        return parse(reply, raw)

    @abstractmethod
    def _ask(self, path: str, request: bytes) -> ShortCall:
        """A short method's call."""

    @abstractmethod
    def stream(self, method: str, doing: str) -> Stream:
        """Open a stream; `doing` says what to do when the server goes away during it.

        Raises:
            InputError: closed.
        """

    def check_open(self) -> None:
        """Refuse to go on with a closed channel.

        Raises:
            InputError: so it is.
        """
        if self._closed:
            name, how = self.client
            raise InputError(
                f"this client is closed: open another, protocol.{name}({self.address!r}, owner), and use it "
                f"inside its `{how}`"
            )


class ShortCall(Wait, ABC):
    """One short method's call."""

    @abstractmethod
    def reply(self) -> bytes:
        """What came back, once it was waited for.

        Raises:
            grpc.RpcError: it failed.
        """


class Room(Wait, ABC):
    """Room for one more message of those made ahead.

    Attributes:
        late: whether there was none for too long.
    """

    late = False

    @abstractmethod
    def free(self) -> None:
        """One more, from any thread."""


class Stream(Wait, ABC):
    """One bidirectional stream of byte messages, of which the next can be waited for.

    Attributes:
        source: messages that come.
    """

    source: Iterator[bytes]
    _room: Room
    _over = False

    def __init__(self, address: str, doing: str, timeout_s: float) -> None:
        self._address, self._doing, self._timeout_s = address, doing, timeout_s
        self._failure: BaseException | None = None

    @abstractmethod
    def send(self, messages: Iterable[bytes]) -> None:
        """Hand over messages; they are made one by one as the network takes them."""

    @abstractmethod
    def finish(self) -> None:
        """Nothing more will be sent."""

    @abstractmethod
    def close(self) -> None:
        """End the call, if it has not ended."""

    def __enter__(self) -> Stream:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def message(self) -> Dialogue[bytes | None]:
        """The next one; None where the server has closed its half."""
        yield self
        return next(self.source, None)

    def expect_end(self) -> Dialogue[None]:
        """Wait for the server to close its half.

        Raises:
            ProtocolError: it sent something more.
        """
        if (yield from self.message()) is not None:
            raise ProtocolError(f"the server at {self._address} sent more than it should")

    def feed(self, messages: Generator[bytes, None, None]) -> Dialogue[None]:
        """Send messages that are made here one by one, as the network takes them, and then closed. It ends
        early where the call does; `source` says why.

        Raises:
            ServerError: the server took none for too long.
        """
        with contextlib.closing(messages):
            for message in messages:
                yield self._room
                if self._room.late:
                    self.close()
                    raise self._silent()
                if self._over:
                    return
                self.send(self._fed(message))

    def _fed(self, message: bytes) -> Iterator[bytes]:
        yield message
        self._room.free()

    def _end(self) -> None:
        """The call has ended."""
        self._over = True
        self._room.free()

    def _reason(self, error: Any, expired: bool) -> BaseException:
        """What to raise for a failed call, or for one that was ended after too long a wait."""
        if self._failure is not None:
            return self._failure
        if expired:
            return self._silent()
        reason: SecureDLError = from_rpc(error, self._address, self._doing)
        return reason

    def _silent(self) -> ServerError:
        return ServerError(
            f"the server at {self._address} was silent for {self._timeout_s:g} s; {self._doing}"
        )


def credentials(tls: Tls) -> Any:
    """gRPC's, of a channel.

    Raises:
        InputError: the files cannot be read, or the authority is no certificate.
    """
    if tls is True:
        return grpc.ssl_channel_credentials()
    files = tls if isinstance(tls, tuple) else (tls,)
    if len(files) not in (1, 3) or isinstance(files[0], bool):
        raise InputError("tls is True, an authority's PEM file, or (authority, certificate, key)")
    try:
        contents = [Path(str(file)).read_bytes() for file in files]
    except OSError as error:
        raise InputError(f"the TLS file {error.filename} cannot be read: {error.strerror}") from error
    try:
        load_pem_x509_certificates(contents[0])
    except ValueError as error:
        raise InputError(f"the TLS file {files[0]} is no authority: it has no PEM certificate") from error
    root, chain, key = contents if len(contents) == 3 else (contents[0], None, None)
    return grpc.ssl_channel_credentials(root, key, chain)
