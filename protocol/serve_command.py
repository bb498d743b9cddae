"""What `securedl serve` does: one server, or a supervisor and its workers."""

from __future__ import annotations

import contextlib
import logging
import os
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from protocol.server import Server
    from protocol.store import Limits


@dataclass(frozen=True)
class ServeOptions:
    """Of one deployment.

    Attributes:
        limits: fields of `protocol.Limits`.
        metrics: HOST:PORT. metrics_anywhere: beyond loopback, too.
        workers: processes. worker: whether this is one of them.
        server: more arguments of `protocol.Server`.
        executor: "here" or "ray". actors, ray_address: of the latter.
    """

    store: Path
    listen: str
    token_file: Path | None = None
    tls: tuple[Path, Path] | None = None
    limits: dict[str, Any] = field(default_factory=dict)
    grace_s: float = 30.0
    metrics: str | None = None
    metrics_anywhere: bool = False
    log_format: str = "text"
    quiet: bool = False
    workers: int = 1
    worker: bool = False
    server: dict[str, Any] = field(default_factory=dict)
    executor: str = "here"
    actors: int | None = None
    ray_address: str | None = None


def run_server(options: ServeOptions, command: Sequence[str] = ()) -> int:
    """Serve until stopped; the exit status.

    Args:
        command: what was called; for workers, `--worker --listen ADDRESS` is put behind it.

    Raises:
        InputError: an option cannot be used.
    """
    # gRPC's core would print lines of its own before our one sentence, when it cannot listen.
    os.environ.setdefault("GRPC_VERBOSITY", "NONE")
    from protocol.exposition import check_exposed
    from protocol.logs import set_up_logging
    from protocol.store import Limits

    set_up_logging(options.log_format, logging.WARNING if options.quiet else logging.INFO)
    if options.metrics is not None:
        check_exposed(options.metrics, options.metrics_anywhere)
    limits = Limits(**options.limits)
    _check_executor(options)
    if options.workers > 1 and not options.worker:
        return _supervise(options, limits, command)
    _serve(options, limits)
    return 0


def _check_executor(options: ServeOptions) -> None:
    from securedl.errors import InputError

    if options.executor != "ray" and (options.actors, options.ray_address) != (None, None):
        raise InputError("--actors and --ray-address are of --executor ray")
    if options.executor == "ray" and options.workers > 1:
        raise InputError(
            "--executor ray takes one server, whose queries go to --actors processes: leave --workers at 1"
        )


def _serve(options: ServeOptions, limits: Limits) -> None:
    from protocol.cache import default_cache_bytes
    from protocol.exposition import StoreCollector, expose
    from protocol.opening import Opening
    from protocol.serving import serve
    from protocol.supervisor import follow_supervisor

    server = dict(options.server)
    if options.worker:
        follow_supervisor()
        server |= {"shared": True, "cache_bytes": default_cache_bytes() // options.workers}

    if options.executor == "ray":
        from protocol.ray_executor import RayExecutor

        server["executor"] = RayExecutor(options.actors or 2, options.ray_address)

    with Opening(options.store, limits) as opening:
        store = opening.store

        def started(running: Server) -> None:
            if options.metrics is not None and not options.worker:
                more = [StoreCollector(store, running.access)]
                expose(running.metrics.registry, more, options.metrics, options.metrics_anywhere)

        serve(
            store, options.listen, ready=_announce(options), grace_s=options.grace_s, started=started,
            token_file=options.token_file, tls=options.tls, **server,
        )  # fmt: skip


def _announce(options: ServeOptions) -> Callable[[str], None]:
    def announce(address: str) -> None:
        print(f"serving {options.store} on {address}", flush=True)

    return announce


def _supervise(options: ServeOptions, limits: Limits, command: Sequence[str]) -> int:
    from prometheus_client.multiprocess import mark_process_dead

    from protocol.access import Access
    from protocol.exposition import StoreCollector, expose, registry_of_workers
    from protocol.opening import Opening
    from protocol.supervisor import Supervisor, reserve
    from protocol.tokens import read_tokens
    from securedl.errors import InputError

    token_file = options.token_file
    tokens = read_tokens(token_file) if token_file else {}
    held, address = reserve(options.listen)
    with (
        held,
        Opening(options.store, limits) as opening,
        tempfile.TemporaryDirectory(prefix="securedl-metrics-") as folder,
    ):
        access = Access(opening.store, tokens)

        def reload() -> None:
            if token_file is not None:
                with contextlib.suppress(InputError):  # the workers say why
                    access.replace(read_tokens(token_file))

        environment = {}
        if options.metrics is not None:
            environment["PROMETHEUS_MULTIPROC_DIR"] = folder
            registry, more = registry_of_workers(Path(folder)), [StoreCollector(opening.store, access)]
            expose(registry, more, options.metrics, options.metrics_anywhere)
        status = Supervisor(
            [*command, "--worker", "--listen", address],
            options.workers,
            environment,
            ready=lambda: _announce(options)(address),
            reload=reload,
            ended=lambda pid: mark_process_dead(pid, folder),  # type: ignore[no-untyped-call]
        ).run()
        if status:  # they never came to serve
            opening.undo()
        return status
