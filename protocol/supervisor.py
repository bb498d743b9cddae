"""Several worker processes behind one port, each a server of one store; and the one that looks after them."""

from __future__ import annotations

import logging
import os
import queue
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from protocol import address as addresses
from protocol.logs import log_event
from protocol.serving import STOPS
from securedl.errors import InputError

#: Pauses before a worker that died is started again: the first, and the longest. One that lived for STEADY_S
#: begins with the first again.
FIRST_RESTART_S, LONGEST_RESTART_S, STEADY_S = 0.2, 30.0, 10.0


def reserve(address: str) -> tuple[socket.socket, str]:
    """A socket that keeps a port for the workers and never listens; and the address with its real port.

    It is bound before it says that it shares, so a second deployment finds the port in use.

    Raises:
        InputError: a Unix socket, which cannot be shared, or the address cannot be bound.
    """
    found = addresses.parse_address(address)
    if found.unix:
        raise InputError(
            f"several workers share a TCP port, which {address} is not: use HOST:PORT, or one worker"
        )
    try:
        infos = socket.getaddrinfo(found.host, found.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        family, kind, protocol, _, where = infos[0]
        held = socket.socket(family, kind, protocol)
        try:
            try:
                held.bind(where)
            except OSError:  # perhaps connections that ended lately: unlike listeners, they keep no port
                held.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                held.bind(where)
            held.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        except BaseException:
            held.close()
            raise
    except OSError as error:
        raise InputError(
            f"cannot listen on {address}: it is in use, not this machine's, or not allowed"
        ) from error
    return held, f"{address.rpartition(':')[0]}:{held.getsockname()[1]}"


def follow_supervisor() -> None:
    """In a worker: stop when the supervisor is gone, whose end of standard input the kernel then closes."""

    def wait() -> None:
        while os.read(0, 1):
            pass
        log_event("stopping", logging.WARNING, reason="the supervisor is gone")
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=wait, name="protocol-supervisor", daemon=True).start()


class _Worker:
    """One process, which prints a line when it is ready."""

    def __init__(
        self, number: int, command: Sequence[str], environment: Mapping[str, str], tell: Callable[..., None]
    ) -> None:
        self.number, self.began, self.ready = number, time.monotonic(), False
        # A SIGHUP that comes before the worker can take it would end it: it waits until `serve` lets it in.
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGHUP})
        try:
            self.popen = subprocess.Popen(
                command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env={**os.environ, **environment},
                start_new_session=True,  # a terminal's signals come from the supervisor alone
            )  # fmt: skip
        finally:
            signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGHUP})
        self._tell = tell
        threading.Thread(target=self._watch, name="protocol-worker", daemon=True).start()

    def _watch(self) -> None:
        assert self.popen.stdout is not None
        if self.popen.stdout.readline():
            self._tell("ready", self)
        self.popen.wait()
        self.popen.stdout.close()
        self._tell("ended", self)


class Supervisor:
    """Starts workers, and again those that die, until it is told to stop. Call `run` from the main thread.

    Args:
        command: of a worker.
        count: of them.
        environment: what it is given beyond this process's.
        ready: called when all of them are.
        reload: called at SIGHUP, which the workers get, too.
        ended: called with the process id of each worker that ended.
    """

    def __init__(
        self,
        command: Sequence[str],
        count: int,
        environment: Mapping[str, str],
        ready: Callable[[], object],
        reload: Callable[[], object] = lambda: None,
        ended: Callable[[int], object] = lambda pid: None,
    ) -> None:
        self._command, self._count, self._environment = command, count, environment
        self._on_ready, self._on_reload, self._on_ended = ready, reload, ended
        self._events: queue.SimpleQueue[tuple[str, Any]] = queue.SimpleQueue()
        self._workers: dict[int, _Worker] = {}
        self._due: dict[int, float] = {}
        self._pauses: dict[int, float] = {}
        self._started = self._stopping = False
        self._status = 0

    def run(self) -> int:
        """Until all workers have ended; the exit status."""
        for one in (*STOPS, signal.SIGHUP):
            signal.signal(one, lambda number, _: self._events.put(("signal", number)))
        handlers: dict[str, Callable[[Any], None]] = {
            "signal": self._signalled,
            "ready": self._is_ready,
            "ended": self._has_ended,
        }
        self._spawn(0)  # alone: it may compile kernels, which the others then find
        while self._workers or (self._due and not self._stopping):
            try:
                event, what = self._events.get(timeout=self._patience())
            except queue.Empty:
                for number in [number for number, due in self._due.items() if due <= time.monotonic()]:
                    self._spawn(number)
                continue
            handlers[event](what)
        return self._status

    def _patience(self) -> float | None:
        """Until a worker is due."""
        return max(0.0, min(self._due.values()) - time.monotonic()) if self._due else None

    def _spawn(self, number: int) -> None:
        self._due.pop(number, None)

        def tell(event: str, worker: _Worker) -> None:
            self._events.put((event, worker))

        self._workers[number] = _Worker(number, self._command, self._environment, tell)

    def _signalled(self, number: int) -> None:
        if number in STOPS:
            self._stopping = True
            self._due.clear()
        else:
            self._on_reload()
        for worker in self._workers.values():
            worker.popen.send_signal(number)

    def _is_ready(self, worker: _Worker) -> None:
        worker.ready = True
        log_event("worker", number=worker.number, pid=worker.popen.pid, state="ready")
        if self._started or self._stopping:
            return
        for number in range(self._count):
            if number not in self._workers:
                self._spawn(number)
        if all(other.ready for other in self._workers.values()):
            self._started = True
            self._on_ready()

    def _has_ended(self, worker: _Worker) -> None:
        number, status = worker.number, worker.popen.returncode
        del self._workers[number]
        if worker.popen.stdin is not None:
            worker.popen.stdin.close()
        self._on_ended(worker.popen.pid)
        if self._stopping:
            log_event("worker", number=number, pid=worker.popen.pid, state="ended", status=status)
            return
        if not self._started:  # it has said why
            self._status = status if status > 0 else 1
            self._signalled(signal.SIGTERM)
            return
        steady = time.monotonic() - worker.began > STEADY_S
        pause = FIRST_RESTART_S if steady else self._pauses.get(number, FIRST_RESTART_S)
        self._pauses[number] = min(2 * pause, LONGEST_RESTART_S)
        self._due[number] = time.monotonic() + pause
        log_event(
            "worker", logging.ERROR, number=number, pid=worker.popen.pid, state="died", status=status,
            pause_s=pause,
        )  # fmt: skip
