"""A link that is slower than the machine's own: a TCP proxy that holds back what passes it.

    python -m bench.delay --to HOST:PORT [--listen HOST:PORT] [--rtt-ms MS] [--mbit-s RATE]

It stands in for a network emulator, which needs a kernel module and an administrator. In each direction the
bytes leave one after the other at the rate given, and arrive half a round trip later; hardly more of them are
taken in than are on their way. What the processes themselves take comes on top, and some Gbit/s are the most
that they carry. Nothing gets lost, and TCP's slow start is not seen: to both ends the proxy is near.
"""

from __future__ import annotations

import argparse
import contextlib
import queue
import socket
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field

#: Taken at once: so much as crosses in this time, but not less than a packet.
PIECE_S, LEAST_PIECE, MOST_PIECE = 1e-3, 1500, 1 << 18
#: What has not left yet is taken in so long before, or a sleep that ends late would cost the link some time.
AHEAD_S = 2e-3


@dataclass
class Way:
    """One direction of a link, when bytes that enter it arrive.

    Attributes:
        delay_s: half a round trip. byte_s: at the rate. free: when the last byte will have left.
    """

    delay_s: float
    byte_s: float
    free: float = field(default=0.0)

    @property
    def piece(self) -> int:
        """Bytes taken at once."""
        return int(min(max(PIECE_S / self.byte_s, LEAST_PIECE), MOST_PIECE))

    def enter(self, size: int, now: float) -> float:
        """Seconds, by the clock of `now`, at which so many bytes arrive that are there now."""
        self.free = max(self.free, now) + size * self.byte_s
        return self.free + self.delay_s


def carry(source: socket.socket, target: socket.socket, way: Way) -> None:
    """Everything from one socket to the other, until the first one ends."""
    on_their_way: queue.SimpleQueue[tuple[float, bytes]] = queue.SimpleQueue()

    def deliver() -> None:
        with contextlib.suppress(OSError):
            while True:
                due, data = on_their_way.get()
                if (early := due - time.perf_counter()) > 0:
                    time.sleep(early)
                if not data:
                    break
                target.sendall(data)
        with contextlib.suppress(OSError):
            target.shutdown(socket.SHUT_WR)

    out = threading.Thread(target=deliver, daemon=True)
    out.start()
    with contextlib.suppress(OSError):
        while data := source.recv(way.piece):
            on_their_way.put((way.enter(len(data), time.perf_counter()), data))
            if (early := way.free - time.perf_counter() - AHEAD_S) > 0:
                time.sleep(early)
    on_their_way.put((way.enter(0, time.perf_counter()), b""))
    out.join()


class Delayed:
    """A proxy that listens, until it is closed.

    Args:
        to: where everything goes. listen: port 0 for any.
    """

    def __init__(
        self, to: tuple[str, int], rtt_ms: float, mbit_s: float, listen: tuple[str, int] = ("127.0.0.1", 0)
    ) -> None:
        self._to, self._delay_s, self._byte_s = to, rtt_ms / 2e3, 8e-6 / mbit_s
        self._listening = socket.create_server(listen)
        host, port = self._listening.getsockname()
        self.address = f"{host}:{port}"

    def serve(self) -> None:
        """All that comes; ways are a connection's own, and a client has one."""
        with contextlib.suppress(OSError):
            while True:
                near, _ = self._listening.accept()
                threading.Thread(target=self._connect, args=(near,), daemon=True).start()

    def _connect(self, near: socket.socket) -> None:
        with near, socket.create_connection(self._to) as far:
            for end in (near, far):
                end.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            back = threading.Thread(
                target=carry, args=(far, near, Way(self._delay_s, self._byte_s)), daemon=True
            )
            back.start()
            carry(near, far, Way(self._delay_s, self._byte_s))
            back.join()

    def close(self) -> None:
        """Take no more connections."""
        with contextlib.suppress(OSError):
            self._listening.shutdown(socket.SHUT_RDWR)
        self._listening.close()


@contextlib.contextmanager
def delayed(to: tuple[str, int], rtt_ms: float, mbit_s: float) -> Iterator[str]:
    """The address of a proxy in this process, which ends with the block."""
    proxy = Delayed(to, rtt_ms, mbit_s)
    threading.Thread(target=proxy.serve, daemon=True).start()
    try:
        yield proxy.address
    finally:
        proxy.close()


def ends(address: str) -> tuple[str, int]:
    """Host and port."""
    host, _, port = address.rpartition(":")
    return host, int(port)


def main() -> None:
    """See the module."""
    parser = argparse.ArgumentParser(
        prog="python -m bench.delay", description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--to", type=ends, required=True)
    parser.add_argument("--listen", type=ends, default=("127.0.0.1", 0))
    parser.add_argument("--rtt-ms", type=float, default=20.0)
    parser.add_argument("--mbit-s", type=float, default=100.0)
    options = parser.parse_args()
    proxy = Delayed(options.to, options.rtt_ms, options.mbit_s, options.listen)
    print(f"delaying on {proxy.address}", flush=True)
    proxy.serve()


if __name__ == "__main__":
    main()
