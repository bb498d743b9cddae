"""The gRPC server: who may speak, to how many at once, and which session answers them."""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from typing import Any

import grpc

from protocol import address as addresses
from protocol import messages_pb2 as pb
from protocol import sessions
from protocol.access import Access, server_credentials, tokens_of
from protocol.cache import ModelCache
from protocol.deadline import Deadline
from protocol.executor import Executor, Gone, Here, rehearse
from protocol.failures import status
from protocol.incoming import Incoming
from protocol.models import load_model
from protocol.offer import Offer
from protocol.seats import Seats
from protocol.service import SERVER_OPTIONS, handler
from protocol.sessions import MAX_RANGES, check_version
from protocol.store import Limits, Store
from protocol.wire import CHUNK_BYTES, PROTOCOL_VERSION, parse, ranges
from securedl.arguments import count
from securedl.errors import FormatError, InputError, ProtocolError, ServerError
from securedl.he.backends import Backend, backend

_log = logging.getLogger("protocol.server")
#: Seconds that an upload waits until its model is loaded.
WARM_S = 5.0

#: Short calls of one client at once; and threads for those who turn out to be no clients.
SHORT_CALLS = 4
#: A client may be silent for this long, say while it encrypts a query, or take nothing that is sent.
IDLE_S = 600.0
#: The same before its first message, and in a short call.
GREETING_S = 10.0
#: What running calls get to finish when the server is told to stop.
GRACE_S = 5.0


class Server:
    """Serves the models of a store. Use as a context manager, or `start` and `stop`.

    Args:
        store: a Store, or the folder of one.
        address: HOST:PORT (port 0: any free one) or unix:PATH. Anything but loopback and Unix sockets
            needs a token and TLS.
        evaluator: "vector" or "seal", or a `securedl.he.backends.Backend`.
        threads: of one evaluation, for back ends that have them.
        token: a bearer token, or several; each is a client of its own and sees only its own models.
        tls: files (certificate chain, private key), PEM.
        cache_bytes: memory for loaded models; half of the machine's when None.
        idle_s: seconds of silence after which a stream is closed.
        greeting_s: the same before its first message, and of short calls.
        executor: where evaluations run; in the threads of the sessions when None.

    Raises:
        InputError: an argument cannot be used.
    """

    def __init__(
        self,
        store: Store | str | os.PathLike[str],
        address: str = addresses.DEFAULT,
        evaluator: str | Backend[Any] = "vector",
        threads: int = 1,
        token: str | Iterable[str] | None = None,
        tls: tuple[str | os.PathLike[str], str | os.PathLike[str]] | None = None,
        cache_bytes: int | None = None,
        idle_s: float = IDLE_S,
        greeting_s: float = GREETING_S,
        executor: Executor | None = None,
    ) -> None:
        self._listen = addresses.parse_address(address)
        count(threads, "threads", least=1)
        tokens = tokens_of(token)
        if not self._listen.local and not (tokens and tls):
            raise InputError(
                f"refusing to listen on {address}: anything but loopback needs a token and TLS "
                "(give both, or listen on 127.0.0.1 or unix:PATH)"
            )
        self._store = store if isinstance(store, Store) else Store(store)
        self._access = Access(self._store, tokens)
        self._backend = backend(evaluator) if isinstance(evaluator, str) else evaluator
        self._backend.prepare()
        self._threads, self._executor = threads, executor or Here()
        self._idle_s, self._greeting_s = idle_s, min(greeting_s, idle_s)
        self._cache = ModelCache(cache_bytes)
        self._offer = Offer(self._backend, threads)
        clients = self._access.count
        self._sessions = Seats("sessions", self.limits.max_sessions, self.limits.sessions_of(clients))
        self._short = Seats("short calls", SHORT_CALLS * clients, SHORT_CALLS)
        self._credentials = None if tls is None else server_credentials(*tls)
        self._grpc: Any = None
        self._warming = threading.Lock()
        self._stopping = threading.Event()
        self.address = address

    @property
    def limits(self) -> Limits:
        """Those of the store."""
        return self._store.limits

    def start(self) -> Server:
        """Listen; `address` then holds the real port.

        Raises:
            InputError: the address cannot be bound.
        """
        self._stopping.clear()
        self._offer.start()
        workers = self.limits.max_sessions + SHORT_CALLS * (self._access.count + 1)
        pool = ThreadPoolExecutor(workers, thread_name_prefix="protocol")
        self._grpc = grpc.server(pool, options=SERVER_OPTIONS, maximum_concurrent_rpcs=workers)
        self._grpc.add_generic_rpc_handlers((handler(self),))
        port = self._bind()
        if not self._listen.unix:
            host = self._listen.text.rpartition(":")[0]
            self.address = f"{host}:{port}"
        self._grpc.start()
        name, secure = self._backend.name, bool(self._credentials)
        _log.info("listening address=%s evaluator=%s tls=%s", self.address, name, secure)
        return self

    def stop(self, grace_s: float = 0.0) -> None:
        """Refuse new calls, and end those that run after `grace_s` seconds."""
        self._stopping.set()
        self._offer.stop()
        if self._grpc is not None:
            self._grpc.stop(grace_s).wait()
            self._grpc = None

    def __enter__(self) -> Server:
        return self.start()

    def __exit__(self, *error: object) -> None:
        self.stop()

    def _bind(self) -> int:
        text = self._listen.text
        before = os.umask(0o177) if self._listen.unix else None
        try:
            if self._credentials is None:
                return int(self._grpc.add_insecure_port(text))
            return int(self._grpc.add_secure_port(text, self._credentials))
        except RuntimeError as error:
            raise InputError(
                f"cannot listen on {text}: it is in use, not this machine's, or not allowed"
            ) from error
        finally:
            if before is not None:
                os.umask(before)

    # The methods. Each begins with `_call`, which is where a client is recognised.

    def describe(self, requests: Iterator[bytes], context: Any) -> Iterator[bytes]:
        """Version and limits, and prices where they are wanted."""
        return self._answered("describe", requests, context, self._describe)

    def status(self, requests: Iterator[bytes], context: Any) -> Iterator[bytes]:
        """What is missing of a model."""
        return self._answered("status", requests, context, self._status)

    def remove(self, requests: Iterator[bytes], context: Any) -> Iterator[bytes]:
        """Delete a model."""
        return self._answered("remove", requests, context, self._remove)

    def _answered(
        self,
        method: str,
        requests: Iterator[bytes],
        context: Any,
        reply: Callable[[str, bytes], Any],
    ) -> Iterator[bytes]:
        """A short method: its one message, and what `reply` makes of it."""
        with (
            self._call(method, context) as client,
            self._short.one(client),
            self._watched(requests, context) as call,
        ):
            answer = reply(client, call.request()).SerializeToString()
            yield from call.sending(iter([answer]))

    def _describe(self, client: str, raw: bytes) -> Any:
        request: Any = parse(pb.DescribeRequest, raw)
        limits = self.limits
        reply: Any = pb.Description(
            version=PROTOCOL_VERSION,
            evaluator=self._backend.name,
            max_models=limits.max_models,
            max_bytes=limits.max_bytes,
            max_sessions=limits.max_sessions,
            chunk_bytes=CHUNK_BYTES,
        )
        if request.prices:
            prices, reply.measuring = self._offer.prices()
            reply.setup = self._offer.setup
            if prices is not None:
                reply.prices.CopyFrom(pb.Prices(**asdict(prices)))
        return reply

    def _status(self, client: str, raw: bytes) -> Any:
        request: Any = parse(pb.ModelRequest, raw)
        check_version(request.version)
        stored = self._store.find(client, request.model_id)
        if stored is None:
            return pb.Status()
        missing = stored.missing()
        runs = [pb.Range(first=f, count=c) for f, c in ranges(missing, MAX_RANGES)]
        return pb.Status(
            known=True,
            blobs=stored.figures.blobs,
            total_bytes=sum(stored.figures.sizes.values()),
            missing_blobs=len(missing),
            missing=runs,
        )

    def _remove(self, client: str, raw: bytes) -> Any:
        request: Any = parse(pb.ModelRequest, raw)
        check_version(request.version)
        known = self._store.remove(client, request.model_id)
        self._cache.discard((client, request.model_id))
        _log.info("remove model=%s known=%s", request.model_id.hex(), known)
        return pb.Removed(known=known)

    def upload(self, requests: Iterator[bytes], context: Any) -> Iterator[bytes]:
        """Receive what is missing of a model."""
        with self._stream("upload", requests, context) as (client, session):
            raw, hello = session.hello(self._idle_s)
            yield from session.sending(
                sessions.upload(self._store, client, raw, hello, session.source, session.traffic)
            )
            if session.traffic.items:
                self._warm((client, hello.model_id), context.is_active).join(WARM_S)

    def predict(self, requests: Iterator[bytes], context: Any) -> Iterator[bytes]:
        """Answer queries."""
        with self._stream("predict", requests, context) as (client, session):
            raw, hello = session.hello(self._idle_s)
            key = (client, hello.model_id)
            model = self._cache.get(key, lambda: self._load(key))
            if model.program_id != hello.program_id:
                raise ProtocolError("the server keeps another plan under this model's id: remove it first")
            try:
                yield from session.sending(
                    sessions.predict(
                        model, self._executor, raw, session.source, context.is_active, session.traffic
                    )
                )
            except ServerError:
                self._cache.discard(key)
                raise

    def _warm(self, key: tuple[str, bytes], waiting: Callable[[], bool]) -> threading.Thread:
        """Load a new model, and try it as long as somebody waits, so that the first query finds it ready.
        Whatever fails, fails again there.
        """

        until = time.monotonic() + WARM_S

        def alive() -> bool:
            return waiting() and not self._stopping.is_set() and time.monotonic() < until

        def work() -> None:
            if not self._warming.acquire(blocking=False):  # one at a time: it takes no session's place
                return
            try:
                with contextlib.suppress(Exception), self._offer.aside():
                    model = self._cache.get(key, lambda: self._load(key))
                    model.weights.warm(alive)
                    rehearse(self._executor, model, alive)
            finally:
                self._warming.release()

        thread = threading.Thread(target=work, name="protocol-warm", daemon=True)
        thread.start()
        return thread

    def _load(self, key: tuple[str, bytes]) -> Any:
        stored = self._store.find(*key)
        if stored is None:
            raise ProtocolError(
                "this server has no such model of this client: call upload() first, with the same token"
            )
        self.limits.check(stored.program)  # another server, or an older one, may have allowed more
        began = time.monotonic()
        model = load_model(stored, self._backend, self._threads, self._cache.max_bytes)
        _log.info("load model=%s ms=%.0f cost=%d", key[1].hex(), 1e3 * (time.monotonic() - began), model.cost)
        return model

    @contextlib.contextmanager
    def _call(self, method: str, context: Any) -> Iterator[str]:
        """The caller's client name; an exception ends the call with its status code."""
        failure: Exception | None = None
        try:
            yield self._access.client(context)
        except Gone:
            return
        except Exception as error:
            failure = error
        if failure is not None:
            code, sentence = status(failure)
            level = logging.ERROR if code is grpc.StatusCode.INTERNAL else logging.WARNING
            _log.log(level, "%s refused code=%s reason=%s", method, code.name, sentence)
            if not isinstance(failure, (ProtocolError, ServerError, FormatError)):
                _log.error("%s failed", method, exc_info=failure)
            context.abort(code, sentence)

    @contextlib.contextmanager
    def _watched(self, requests: Iterator[bytes], context: Any) -> Iterator[Incoming]:
        """A call that ends when its client is silent for too long."""
        deadline = Deadline(self._greeting_s, context.cancel)
        with contextlib.closing(deadline):
            yield Incoming(requests, deadline, lambda: context.is_active() and not deadline.expired)

    @contextlib.contextmanager
    def _stream(self, method: str, requests: Iterator[bytes], context: Any) -> Iterator[tuple[str, Incoming]]:
        """A session of one of the two long methods: the caller's client name, and the stream."""
        with (
            self._call(method, context) as client,
            self._sessions.one(client),
            self._watched(requests, context) as session,
        ):
            began, outcome = time.monotonic(), "failed"
            try:
                with self._offer.aside():
                    yield client, session
                outcome = "ok"
            except (Gone, GeneratorExit):
                outcome = "idle" if session.expired else "client-gone"
                raise
            finally:
                spent = 1e3 * (time.monotonic() - began)
                _log.info("%s %s ms=%.0f outcome=%s", method, session.figures(), spent, outcome)


def serve(
    store: Store | str | os.PathLike[str],
    address: str = addresses.DEFAULT,
    ready: Callable[[str], object] | None = None,
    grace_s: float = GRACE_S,
    **options: Any,
) -> None:
    """Serve until SIGINT or SIGTERM; call it from the main thread.

    Args:
        ready: called with the real address once the server listens.
        grace_s: seconds that running calls get to finish.
        options: as for `Server`.
    """
    ended = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: ended.set())
    server = Server(store, address, **options).start()
    if ready is not None:
        ready(server.address)
    ended.wait()
    server.stop(grace_s)
