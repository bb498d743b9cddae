"""Servers as processes of their own: for the demonstration, benchmarks and tests."""

from __future__ import annotations

import contextlib
import select
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from securedl.errors import ServerError

COMMAND_LINE = (sys.executable, "-m", "securedl.cli")
#: Kernels may have to be compiled, on a busy machine.
START_S = 600.0
#: After a request to stop.
STOP_S = 20.0


class ServerProcess:
    """A server that is ready to be spoken to.

    Args:
        command: prints "... on ADDRESS" as its first line once it listens, as `securedl serve` does.
        log: file for its standard error.
        cwd: where it runs.

    Attributes:
        popen: the process.
        address: where it listens, with the real port.

    Raises:
        ServerError: it ended, or was not ready in time; the message holds what it logged.
    """

    def __init__(self, command: Sequence[str], log: Path, cwd: Path | None = None) -> None:
        self._log = log
        with open(log, "wb") as file:
            self.popen = subprocess.Popen(
                command, stdout=subprocess.PIPE, stderr=file, stdin=subprocess.DEVNULL, bufsize=0, cwd=cwd
            )
        try:
            self.address = self._ready(time.monotonic() + START_S)
        except BaseException:
            self.kill()
            raise

    def _ready(self, deadline: float) -> str:
        line, stdout = b"", self.popen.stdout
        assert stdout is not None
        while not line.endswith(b"\n"):
            left = deadline - time.monotonic()
            if left <= 0 or not select.select([stdout], [], [], left)[0]:
                break
            octet = stdout.read(1)  # a whole line at once could wait beyond the deadline
            if not octet:
                break
            line += octet
        _, found, address = line.decode(errors="replace").strip().rpartition(" on ")
        if not found:
            raise ServerError(f"the server did not start: {self.logged().strip()}")
        return address

    @property
    def pid(self) -> int:
        """Of the process."""
        return self.popen.pid

    def logged(self) -> str:
        """What it has logged so far."""
        return self._log.read_text(errors="replace")

    def kill(self) -> str:
        """SIGKILL, and wait for the end; what it logged."""
        self.popen.kill()
        return self._ended()

    def stop(self) -> str:
        """SIGTERM, SIGKILL if that takes too long, and wait for the end; what it logged."""
        self.popen.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.popen.wait(timeout=STOP_S)
        return self.kill()

    def _ended(self) -> str:
        self.popen.wait()
        assert self.popen.stdout is not None
        self.popen.stdout.close()
        return self.logged()


def serve_command(store: Path, address: str, *options: str, kind: str = "serve") -> list[str]:
    """`securedl serve` on a store, or with `kind` "dishonest" its opposite."""
    return [*COMMAND_LINE, kind, "--listen", address, "--store", str(store), *options]


@contextlib.contextmanager
def running(command: Sequence[str], log: Path, cwd: Path | None = None) -> Iterator[ServerProcess]:
    """A server process that ends with the block.

    Args, Raises: as `ServerProcess`.
    """
    server = ServerProcess(command, log, cwd)
    try:
        yield server
    finally:
        server.stop()
