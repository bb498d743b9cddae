"""A dishonest server, in a process of its own: a real one that is told, query by query, what to do.

    python -m bench.detection.hostile --store DIR --listen ADDRESS --orders FILE

It has what any server has: a public program, keys that evaluate, encrypted weights and queries. Its orders
are a file, which `Order.write` writes and each query reads.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from bench.detection import altered, frames, moves, pushes
from bench.detection.moves import Honest, Move, Scene, Seen
from protocol import messages_pb2 as pb
from protocol.executor import Evaluation, Here
from protocol.models import LoadedModel
from protocol.server import Server
from securedl.files import write_atomically
from securedl.he.arithmetic import Evaluator
from securedl.he.backends import Backend, backend
from securedl.he.params import Parameters
from securedl.he.record import HEADER, SEED_BYTES, Record
from securedl.he.weights import ModelWeights, Records

_MOVES: dict[str, Callable[..., Move]] = {
    kind.__name__: kind
    for kind in (
        *(moves.Honest, moves.Reweighted, moves.Older, moves.Skip, moves.Behind, moves.Replay),
        *(altered.Echo, altered.Times, altered.Told, altered.Offset, altered.Noise, altered.Crafted),
        *(pushes.NormPush, pushes.VictimPush),
    )
}


@dataclass(frozen=True)
class Order:
    """What a server is to do.

    Attributes:
        move: name of a `Move`, and its `options`.
        share: of so many queries (the second), so many at random (the first) are tampered with.
        turns: or of so many queries (the length), those that are marked.
        frames: a name of `frames.CHANGES`, or nothing.
        record: a file for what crosses the link, a line a message, or nothing.
    """

    move: str = "Honest"
    options: dict[str, Any] = field(default_factory=dict)
    share: tuple[int, int] = (1, 1)
    turns: tuple[bool, ...] = (True,)
    frames: str = ""
    record: str = ""

    def write(self, path: Path) -> None:
        """Where a server looks for it."""
        write_atomically(path, json.dumps(asdict(self)).encode())


class Kept(ModelWeights[Any]):
    """Honest weights that know their records."""

    def __init__(self, honest: ModelWeights[Any], records: Records) -> None:
        self._honest, self.records, self.room = honest, records, honest.room

    def __getitem__(self, index: int) -> Any:
        return self._honest[index]

    def warm(self, alive: Callable[[], bool]) -> None:
        self._honest.warm(alive)


class Keeping(Backend[Any]):
    """The honest back end; remembers every model's records by the name of its folder."""

    def __init__(self) -> None:
        self._honest = backend("vector")
        self.name = self._honest.name
        self.records: dict[str, Records] = {}

    def prepare(self) -> None:
        self._honest.prepare()

    def open(self, params: Parameters, threads: int = 1) -> Evaluator[Any]:
        return self._honest.open(params, threads)

    def weights(self, evaluator: Evaluator[Any], records: Records, folder: Path, room: int) -> Kept:
        self.records[folder.name] = records
        return Kept(self._honest.weights(evaluator, records, folder, room), records)


class Hostile(Here):
    """Evaluates queries as its orders say, and remembers what it saw."""

    def __init__(self, kept: Keeping, orders: Path) -> None:
        self._kept, self._orders, self._read = kept, orders, b""
        self.order, self._number, self._chosen = Order(), 0, np.ones(1, dtype=np.bool_)
        self._past: deque[Seen] = deque(maxlen=moves.REMEMBERED)
        self._random = np.random.default_rng(0)

    def look(self) -> None:
        """Read the orders; another order starts counting anew."""
        read = self._orders.read_bytes() if self._orders.exists() else b"{}"
        if read != self._read:
            self._read, self.order, self._number = read, Order(**json.loads(read)), 0

    def begin(self, model: LoadedModel, alive: Callable[[], bool]) -> Evaluation:
        self.look()
        move = _MOVES[self.order.move](**self.order.options) if self._turn() else Honest()
        assert isinstance(model.weights, Kept)
        now = Seen()
        scene = Scene(model, model.weights.records, self._kept.records, now, self._past, self._random)
        return _Moved(Here().begin(move.model(scene), alive), scene, move)

    def _turn(self) -> bool:
        """Whether it is the turn of this query."""
        few, of = self.order.share
        if self._number % of == 0:
            self._chosen = self._random.permutation(of) < few
        marked = self.order.turns[self._number % len(self.order.turns)]
        chosen = bool(marked and self._chosen[self._number % of])
        self._number += 1
        return chosen


@dataclass
class _Moved(Evaluation):
    honest: Evaluation
    scene: Scene
    move: Move
    point: int = 0

    def step(self, tiles: Iterable[Record] | None) -> list[Record]:
        seen, given = self.scene.now, [] if tiles is None else list(tiles)
        seen.fresh.append(given)
        due = self.honest.step(self.move.fresh(self.scene, self.point, given) if given else None)
        seen.due.append(due)
        self.point += 1
        return self.move.sent(self.scene, self.point, due)

    def close(self) -> None:
        self.honest.close()
        self.scene.past.appendleft(self.scene.now)


class HostileServer(Server):
    """A server whose sessions are recorded, and whose messages may be changed."""

    def __init__(self, store: Path, address: str, orders: Path) -> None:
        kept = Keeping()
        self._hostile = Hostile(kept, orders)
        super().__init__(store, address, evaluator=kept, executor=self._hostile)

    def predict(self, requests: Iterator[bytes], context: Any) -> Iterator[bytes]:
        self._hostile.look()
        order, hello = self._hostile.order, list[bytes]()
        record = Path(order.record) if order.record else None

        def came() -> Iterator[bytes]:
            for raw in requests:
                _note(record, "in", raw, first=not hello)
                hello.append(raw) if not hello else None
                yield raw

        out = super().predict(came(), context)
        if order.frames:
            out = frames.changed(order.frames, lambda: hello[0], out)
        for number, raw in enumerate(out):
            _note(record, "out", raw, first=not number)
            yield raw


def _note(record: Path | None, way: str, raw: bytes, first: bool) -> None:
    """One message: its way, length, place, and all its bytes that are no residue, seed, nonce or digest."""
    if record is None:
        return
    line: dict[str, Any] = {"way": way, "length": len(raw)}
    if not first:
        frame = pb.Frame.FromString(raw)
        line |= {name: getattr(frame, name) for name in ("kind", "query", "stage", "index", "offset")}
        line["header"] = frame.data[: HEADER.size].hex() if not frame.offset else ""
        line["seed"] = frame.data[-SEED_BYTES:].hex() if way == "in" else ""
    with open(record, "a") as file:
        file.write(json.dumps(line) + "\n")


def main() -> None:
    """The command line."""
    assert __doc__ is not None
    parser = argparse.ArgumentParser(prog="bench.detection.hostile", description=__doc__.split("\n\n")[0])
    for name in ("store", "orders"):
        parser.add_argument(f"--{name}", type=Path, required=True)
    parser.add_argument("--listen", required=True)
    chosen, ended = parser.parse_args(), threading.Event()
    os.environ.setdefault("GRPC_VERBOSITY", "NONE")
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: ended.set())
    with HostileServer(chosen.store, chosen.listen, chosen.orders) as server:
        print(f"hostile on {server.address}", flush=True)
        ended.wait()


if __name__ == "__main__":
    main()
