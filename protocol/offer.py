"""A server's prices: measured when somebody first asks for them, while nobody else wants anything of it."""

from __future__ import annotations

import contextlib
import logging
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

from securedl.he.backends import Backend
from securedl.he.prices import ServerPrices, server_prices, setup_id

_log = logging.getLogger("protocol.server")

#: How long a measurement waits for others before it is given up; it begins again when it is asked for.
PATIENCE_S = 20.0
_LOOK_S = 0.005
#: How long `stop` waits for a measurement.
_STOP_S = 5.0


class _GivenUpError(Exception):
    """The server has other things to do, or stops."""


class Offer:
    """What one server's operations take.

    Args:
        measure: `server_prices`, or another in tests.

    Attributes:
        setup: whose prices they are, see `setup_id`.
    """

    def __init__(
        self,
        backend: Backend[Any],
        threads: int,
        measure: Callable[..., ServerPrices] = server_prices,
    ) -> None:
        self._backend, self._threads, self._measure = backend, threads, measure
        self.setup = setup_id(backend.name, threads)
        self._lock = threading.Lock()
        self._others = 0
        self._stopping = False
        self._prices: ServerPrices | None = None
        self._working: threading.Thread | None = None
        self._impossible = False

    @contextlib.contextmanager
    def aside(self) -> Iterator[None]:
        """Whatever is done in this block is not kept waiting: nothing is measured meanwhile."""
        with self._lock:
            self._others += 1
        try:
            yield
        finally:
            with self._lock:
                self._others -= 1

    def prices(self) -> tuple[ServerPrices | None, bool]:
        """The prices, if they are known, and whether they are being measured now. Never waits."""
        with self._lock:
            idle = self._working is None and not self._impossible and not self._stopping
            if self._prices is None and idle:
                self._working = threading.Thread(target=self._work, name="protocol-prices", daemon=True)
                self._working.start()
            return self._prices, self._working is not None

    def stop(self) -> None:
        """Measure nothing any more; a measurement under way ends soon."""
        with self._lock:
            self._stopping, working = True, self._working
        if working is not None:
            working.join(_STOP_S)

    def start(self) -> None:
        """The opposite of `stop`."""
        with self._lock:
            self._stopping = False

    def _work(self) -> None:
        began = time.monotonic()
        found, impossible = None, False
        try:
            found = self._measure(self._backend, self._threads, self._wait)
            _log.info("prices ms=%.0f %s", 1e3 * (time.monotonic() - began), found)
        except _GivenUpError:
            _log.info("prices not measured: the server is not idle")
        except Exception as error:  # of whatever back end: it serves on without prices
            impossible = True
            _log.warning("prices cannot be measured: %s", error)
        with self._lock:
            self._prices, self._impossible, self._working = found, impossible, None

    def _wait(self) -> None:
        """Until nothing else is done.

        Raises:
            _GivenUpError: that takes too long.
        """
        until = time.monotonic() + PATIENCE_S
        while self._others or self._stopping:
            if self._stopping or time.monotonic() > until:
                raise _GivenUpError
            time.sleep(_LOOK_S)
