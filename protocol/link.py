"""The client's channel: where it leads, what secures it, and streams whose every wait has a limit."""

from __future__ import annotations

import contextlib
import os
import queue
import threading
from collections.abc import Callable, Generator, Iterable, Iterator
from pathlib import Path
from typing import Any, TypeAlias

import grpc

from protocol import address as addresses
from protocol.deadline import Deadline
from protocol.failures import from_rpc
from protocol.service import CLIENT_OPTIONS, method_path
from protocol.wire import M, parse
from securedl.errors import InputError, ProtocolError, SecureDLError, ServerError

#: True: the system's roots. A file: the authority to trust, PEM. Three files: with a certificate and key
#: of the client's own.
Tls: TypeAlias = bool | str | os.PathLike[str] | tuple[str | os.PathLike[str], ...] | None

#: Messages of an upload that are made before the network has taken the first of them.
MESSAGES_AHEAD = 8


class Connection:
    """A channel to one server.

    Args:
        timeout_s: longest wait for one message.
        connect_s: longest wait for a short method.

    Raises:
        InputError: an argument cannot be used, or the token would travel in the clear.
    """

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
        if tls:
            self._channel = grpc.secure_channel(parsed.text, _credentials(tls), CLIENT_OPTIONS)
        else:
            self._channel = grpc.insecure_channel(parsed.text, CLIENT_OPTIONS)

    def ask(self, method: str, request: Any, reply: type[M]) -> M:
        """One short method.

        Raises:
            ServerError: no answer. ProtocolError: refused, or not understood. InputError: closed.
        """
        self.check_open()
        call = self._channel.unary_unary(method_path(method))
        try:
            raw = call(request.SerializeToString(), timeout=self._connect_s, metadata=self._metadata)
        except grpc.RpcError as error:
            doing = (
                "check that `securedl serve` runs there, that the address is right, and that both sides use "
                "TLS or neither does"
            )
            raise from_rpc(error, self.address, doing) from error
        return parse(reply, raw)

    def stream(self, method: str, doing: str) -> Stream:
        """Open a stream; `doing` says what to do when the server goes away during it.

        Raises:
            InputError: closed.
        """
        self.check_open()

        def open_call(requests: Iterator[bytes]) -> Any:
            return self._channel.stream_stream(method_path(method))(requests, metadata=self._metadata)

        return Stream(open_call, self.address, doing, self.timeout_s)

    def check_open(self) -> None:
        """Refuse to go on with a closed channel.

        Raises:
            InputError: so it is.
        """
        if self._closed:
            raise InputError(
                f"this client is closed: open another, protocol.Client({self.address!r}, owner), and use it "
                "inside its `with`"
            )

    def close(self) -> None:
        """Close the channel; running calls end."""
        self._closed = True
        self._channel.close()


class Stream:
    """One bidirectional stream of byte messages.

    Args:
        open_call: starts the call on an iterator of requests.
    """

    def __init__(
        self, open_call: Callable[[Iterator[bytes]], Any], address: str, doing: str, timeout_s: float
    ) -> None:
        self._address, self._doing, self._timeout_s = address, doing, timeout_s
        self._queue: queue.SimpleQueue[Iterable[bytes] | None] = queue.SimpleQueue()
        self._failure: BaseException | None = None
        self._deadline = Deadline(timeout_s, lambda: self._call.cancel())
        self._room, self._over = threading.Semaphore(MESSAGES_AHEAD), False
        self._call = open_call(self._requests())
        if not self._call.add_callback(self._end):
            self._end()
        self.source: Iterator[bytes] = self._responses()

    def send(self, messages: Iterable[bytes]) -> None:
        """Hand over messages; they are made one by one as the network takes them."""
        self._queue.put(messages)

    def feed(self, messages: Generator[bytes, None, None]) -> None:
        """Send messages that are made here one by one, as the network takes them, and then closed. It ends
        early where the call does; `source` says why.

        Raises:
            ServerError: the server took none for too long.
        """
        with contextlib.closing(messages):
            for message in messages:
                if not self._room.acquire(timeout=self._timeout_s):
                    self._call.cancel()
                    raise self._silent()
                if self._over:
                    return
                self._queue.put(self._fed(message))

    def _fed(self, message: bytes) -> Iterator[bytes]:
        yield message
        self._room.release()

    def _end(self) -> None:
        self._over = True
        self._room.release()

    def finish(self) -> None:
        """Nothing more will be sent."""
        self._queue.put(None)

    def __enter__(self) -> Stream:
        return self

    def __exit__(self, *error: object) -> None:
        self.finish()
        self._call.cancel()
        self._deadline.close()

    def _requests(self) -> Iterator[bytes]:
        while (messages := self._queue.get()) is not None:
            try:
                for message in messages:
                    self._deadline.touch()
                    yield message
                    self._deadline.touch()
            except GeneratorExit:
                raise
            except BaseException as error:  # raised again where the caller waits
                self._failure = error
                self._call.cancel()
                return

    def _responses(self) -> Iterator[bytes]:
        try:
            yield from self._deadline.each(self._call)
        except grpc.RpcError as error:
            raise self._reason(error) from error
        if self._failure is not None:
            raise self._failure

    def _reason(self, error: Any) -> BaseException:
        if self._failure is not None:
            return self._failure
        if self._deadline.expired:
            return self._silent()
        reason: SecureDLError = from_rpc(error, self._address, self._doing)
        return reason

    def _silent(self) -> ServerError:
        return ServerError(
            f"the server at {self._address} was silent for {self._timeout_s:g} s; {self._doing}"
        )

    def expect_end(self) -> None:
        """Wait for the server to close its half.

        Raises:
            ProtocolError: it sent something more.
        """
        if next(self.source, None) is not None:
            raise ProtocolError(f"the server at {self._address} sent more than it should")


def _credentials(tls: Tls) -> Any:
    if tls is True:
        return grpc.ssl_channel_credentials()
    files = tls if isinstance(tls, tuple) else (tls,)
    if len(files) not in (1, 3) or isinstance(files[0], bool):
        raise InputError("tls is True, an authority's PEM file, or (authority, certificate, key)")
    try:
        contents = [Path(str(file)).read_bytes() for file in files]
    except OSError as error:
        raise InputError(f"the TLS file {error.filename} cannot be read: {error.strerror}") from error
    root, chain, key = contents if len(contents) == 3 else (contents[0], None, None)
    return grpc.ssl_channel_credentials(root, key, chain)
