"""Ray, started or joined without a word: the only place that imports it, and only when it is asked for."""

from __future__ import annotations

import contextlib
import logging
import os
import secrets
import shutil
import signal
import socket
import sys
import tempfile
import threading
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from protocol.address import parse_address
from securedl.errors import InputError, ServerError

#: Bytes of shared memory for records that cross, where the cluster is our own.
OBJECT_BYTES = 256 << 20
#: Seconds that a head node has to answer.
HEAD_S = 10.0
#: Up to so many bytes an argument or a result goes straight to its reader, and not by the shared memory:
#: 0.5 MB there and a little back took 4 ms instead of 6 on two busy cores (medians of 50).
DIRECT_BYTES = 2 << 20
_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class RayCluster:
    """One on this machine that ends with this object, one that runs, or the one that this process has joined.

    Ray takes settings from the environment: those that are ours are set there unless they are set already.

    Args:
        address: HOST:PORT of one that runs; None for the others.
        cores: of each actor, which a cluster that runs sets aside.

    Raises:
        InputError: Ray is not installed, or the address cannot be used.
        ServerError: it does not start, or does not answer.
    """

    def __init__(self, address: str | None, cores: int) -> None:
        if address is not None:
            _check_head(address)
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
        if address is None:
            os.environ.setdefault("RAY_max_direct_call_object_size", str(DIRECT_BYTES))
            os.environ.setdefault("RAY_worker_niceness", "0")  # else 15: everything else would go first
        if address is None and "RAY_AUTH_MODE" not in os.environ and "ray" not in sys.modules:
            # Its processes listen at ports: nobody else on this machine or its network may use them. Ray
            # reads this when it is imported; who has done so before has chosen.
            os.environ.update(RAY_AUTH_MODE="token", RAY_AUTH_TOKEN=secrets.token_hex(32))
        try:
            import ray
        except ImportError as error:
            raise InputError("the executor ray needs Ray: pip install '.[ray]'") from error
        self.ray: Any = ray
        self._cores = cores if address is not None else 0
        self._folder: Path | None = None
        self._joined = not ray.is_initialized()
        if self._joined:
            with _quietly():
                self._join(address)

    def _join(self, address: str | None) -> None:
        options: dict[str, Any] = {"address": address}
        if address is None:
            self._folder = Path(tempfile.mkdtemp(prefix="securedl-"))  # 0700: Ray opens its own to all
            options = {
                "address": "local",
                "num_cpus": 0,
                "include_dashboard": False,
                "object_store_memory": OBJECT_BYTES,
                "_temp_dir": str(self._folder / "ray"),
            }
        try:
            self.ray.init(
                **options, namespace=f"securedl-{secrets.token_hex(4)}", log_to_driver=False,
                logging_level=logging.CRITICAL,
            )  # fmt: skip
        except Exception as error:  # of many kinds
            self.stop()
            where = "cannot be started on this machine" if address is None else f"at {address} cannot be used"
            reason = (str(error).strip() or type(error).__name__).splitlines()[0]
            raise ServerError(f"a Ray cluster {where}: {reason}") from error
        # It would print a line for each actor that is lost, whatever `log_to_driver` says: our log has one.
        self.ray._private.worker.print_to_stdstream = _say_nothing

    def actor(self, kind: type, calls: int, *arguments: Any) -> Any:
        """The handle of a new actor, which is started meanwhile, and not again when it dies.

        Args:
            calls: that it works on at once, at most.
        """
        options = {"num_cpus": self._cores, "max_concurrency": calls, "max_restarts": 0}
        remote = self.ray.remote(kind).options(**options, scheduling_strategy="SPREAD")
        return remote.remote(*arguments)

    def stop(self) -> None:
        """End what was begun."""
        if self._joined:
            with contextlib.suppress(Exception), _quietly():
                self.ray.shutdown()
        if self._folder is not None:
            shutil.rmtree(self._folder, ignore_errors=True)


def _check_head(address: str) -> None:
    """Refuse an address where nobody listens: Ray would try for minutes.

    Raises:
        InputError: it is not HOST:PORT. ServerError: nobody listens there.
    """
    found = parse_address(address)
    if found.unix:
        raise InputError(f"a Ray cluster's address is HOST:PORT of its head node, got {address}")
    try:
        socket.create_connection((found.host, found.port), timeout=HEAD_S).close()
    except OSError as error:
        raise ServerError(f"no Ray cluster answers at {address}: {error.strerror or error}") from error


def _say_nothing(*lines: Any, **options: Any) -> None:
    """In place of what prints."""


@contextlib.contextmanager
def _quietly() -> Iterator[None]:
    """Without warnings of Ray's own, and with the signal handlers that there were."""
    ours = threading.current_thread() is threading.main_thread()
    handlers = {number: signal.getsignal(number) for number in _SIGNALS} if ours else {}
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)
