"""The gRPC server: where it listens, and its methods."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from typing import Any

import grpc

from protocol import address as addresses
from protocol import messages_pb2 as pb
from protocol import sessions
from protocol.access import Access, Tenant
from protocol.calls import Calls
from protocol.certificate import Certificate
from protocol.drain import Drain
from protocol.executor import Executor, Here
from protocol.health import Health
from protocol.loading import Loader
from protocol.logs import log_event
from protocol.metrics import Metrics
from protocol.offer import Offer
from protocol.service import SERVER_OPTIONS, handler, health_handler
from protocol.sessions import MAX_RANGES, check_version
from protocol.store import Limits, Store
from protocol.tokens import tokens_of
from protocol.usage import Usage
from protocol.wire import CHUNK_BYTES, PROTOCOL_VERSION, parse, ranges
from securedl.arguments import count
from securedl.errors import InputError, ProtocolError, ServerError, UnreachableError
from securedl.he.backends import Backend, backend

#: A client may be silent for this long, say while it encrypts a query, or take nothing that is sent.
IDLE_S = 600.0
#: The same before its first message, and in a short call.
GREETING_S = 10.0


class Server:
    """Serves the models of a store. Use as a context manager, or `start` and `stop`.

    Args:
        store: a Store, or the folder of one.
        address: HOST:PORT (port 0: any free one) or unix:PATH. Anything but loopback and Unix sockets
            needs a token and TLS.
        evaluator: "vector" or "seal", or a `securedl.he.backends.Backend`.
        threads: of one evaluation, for back ends that have them.
        token: a bearer token, or several; each is a client of its own and sees only its own models. A mapping
            gives each the name of its tenant, in logs and metrics, or "".
        tls: files (certificate chain, private key), PEM.
        cache_bytes: memory for loaded models; half of the machine's when None.
        idle_s: seconds of silence after which a stream is closed.
        greeting_s: the same before its first message, and of short calls.
        executor: where evaluations run; in the threads of the sessions when None.
        shared: others listen at the same port (SO_REUSEPORT).

    Attributes:
        metrics: what it counts. access: whom it knows. certificate: None without TLS.

    Raises:
        InputError: an argument cannot be used.
    """

    def __init__(
        self,
        store: Store | str | os.PathLike[str],
        address: str = addresses.DEFAULT,
        evaluator: str | Backend[Any] = "vector",
        threads: int = 1,
        token: str | Iterable[str] | Mapping[str, str] | None = None,
        tls: tuple[str | os.PathLike[str], str | os.PathLike[str]] | None = None,
        cache_bytes: int | None = None,
        idle_s: float = IDLE_S,
        greeting_s: float = GREETING_S,
        executor: Executor[Any] | None = None,
        shared: bool = False,
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
        self.access = Access(self._store, tokens)
        self._backend = backend(evaluator) if isinstance(evaluator, str) else evaluator
        self._backend.prepare()
        self._executor: Executor[Any] = executor or Here()
        self._shared, self._threads, self._cache_bytes = shared, threads, cache_bytes
        self.metrics, self._usage, self._drain = Metrics(), Usage(self._store.folder), Drain()
        self._loader = Loader(self._store, self._backend, threads, cache_bytes, self._executor, self.metrics)
        self._offer = Offer(self._backend, threads)
        self._calls = Calls(
            self.access, self.limits, self._store.folder / "seats", self._drain, self._offer, self.metrics,
            self._usage, threads, idle_s, greeting_s,
        )  # fmt: skip
        self._health = Health(self._calls, self._store, self._drain)
        self.certificate = None if tls is None else Certificate(*tls)
        self._grpc: Any = None
        self.address = address

    @property
    def limits(self) -> Limits:
        """Those of the store."""
        return self._store.limits

    def start(self) -> Server:
        """Listen; `address` then holds the real port.

        Raises:
            InputError: the address cannot be bound. ServerError: the executor cannot start.
        """
        self._executor.start(self._store, self._backend, self._threads, self._cache_bytes)
        try:
            return self._listening()
        except BaseException:
            self._executor.stop()
            raise

    def _listening(self) -> Server:
        self._drain.forget()
        self._offer.start()
        workers = self._calls.workers
        pool = ThreadPoolExecutor(workers, thread_name_prefix="protocol")
        options = [*SERVER_OPTIONS, ("grpc.so_reuseport", int(self._shared))]
        self._grpc = grpc.server(pool, options=options, maximum_concurrent_rpcs=workers)
        self._grpc.add_generic_rpc_handlers((handler(self), health_handler(self._health)))
        port = self._bind()
        if not self._listen.unix:
            host = self._listen.text.rpartition(":")[0]
            self.address = f"{host}:{port}"
        self._grpc.start()
        log_event(
            "listening", address=self.address, evaluator=self._backend.name, tls=bool(self.certificate)
        )  # fmt: skip
        return self

    def reload(self, tokens: Mapping[str, str]) -> None:
        """Know these tokens from now on, and no others. Sessions that run go on to their end.

        Raises:
            InputError: they cannot be used; then all stays as it was.
        """
        if not tokens and not self._listen.local:
            raise InputError("a server that others can reach needs a token")
        self.access.replace(tokens_of(tokens))
        self._calls.share()
        log_event("tokens", clients=self.access.count)

    def drain(self, grace_s: float) -> threading.Event:
        """Take no new calls, and end streams between their queries; after `grace_s` seconds, all.

        Returns:
            What is set when all have ended.
        """
        self._drain.begin()
        self._offer.stop()
        ended = threading.Event() if self._grpc is None else self._grpc.stop(grace_s)
        if self._grpc is None:
            ended.set()
        return ended

    def stop(self, grace_s: float = 0.0) -> None:
        """`drain`, and wait until all have ended."""
        self.drain(grace_s).wait()
        self._grpc = None
        self._executor.stop()
        self._usage.close()

    def __enter__(self) -> Server:
        return self.start()

    def __exit__(self, *error: object) -> None:
        self.stop()

    def _bind(self) -> int:
        text = self._listen.text
        before = os.umask(0o177) if self._listen.unix else None
        try:
            if self.certificate is None:
                return int(self._grpc.add_insecure_port(text))
            return int(self._grpc.add_secure_port(text, self.certificate.credentials()))
        except RuntimeError as error:
            raise InputError(
                f"cannot listen on {text}: it is in use, not this machine's, or not allowed"
            ) from error
        finally:
            if before is not None:
                os.umask(before)

    # The methods. Each begins with `_calls`, which is where a client is recognised.

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
        reply: Callable[[Tenant, bytes], Any],
    ) -> Iterator[bytes]:
        """A short method: its one message, and what `reply` makes of it."""
        with self._calls.short(method, requests, context) as (tenant, call):
            answer = reply(tenant, call.request()).SerializeToString()
            yield from call.sending(iter([answer]))

    def _describe(self, tenant: Tenant, raw: bytes) -> Any:
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

    def _status(self, tenant: Tenant, raw: bytes) -> Any:
        request: Any = parse(pb.ModelRequest, raw)
        check_version(request.version)
        stored = self._store.find(tenant.client, request.model_id)
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

    def _remove(self, tenant: Tenant, raw: bytes) -> Any:
        request: Any = parse(pb.ModelRequest, raw)
        check_version(request.version)
        known = self._store.remove(tenant.client, request.model_id)
        self._loader.discard(tenant.client, request.model_id)
        self._usage.forget(tenant.client, request.model_id)
        log_event("remove", tenant=tenant.label, model=request.model_id.hex(), known=known)
        return pb.Removed(known=known)

    def upload(self, requests: Iterator[bytes], context: Any) -> Iterator[bytes]:
        """Receive what is missing of a model."""
        with self._calls.session("upload", requests, context) as account:
            raw, hello = self._calls.hello(account)
            call, tenant = account.call, account.tenant
            yield from call.sending(
                sessions.upload(self._store, tenant.client, raw, hello, call.source, call.traffic)
            )
            if call.traffic.items:
                self._loader.warm(tenant, hello.model_id, context.is_active, self._offer, self._drain)

    def predict(self, requests: Iterator[bytes], context: Any) -> Iterator[bytes]:
        """Answer queries."""
        with self._calls.session("predict", requests, context) as account:
            raw, hello = self._calls.hello(account)
            call, tenant = account.call, account.tenant
            model = self._loader.get(tenant, hello.model_id)
            if model.program_id != hello.program_id:
                raise ProtocolError("the server keeps another plan under this model's id: remove it first")
            try:
                yield from call.sending(
                    sessions.predict(
                        model, self._executor, raw, call.source, context.is_active, call.traffic, account
                    )
                )
            except UnreachableError:
                raise
            except ServerError:
                self._loader.discard(tenant.client, hello.model_id)
                raise
