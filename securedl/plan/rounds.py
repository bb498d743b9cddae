"""Networks whose layers are computed one by one: the client does all that is between them, in the clear."""

from __future__ import annotations

from collections.abc import Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import numpy as np

from securedl.network.graph import Array
from securedl.network.script import ChainLayer, Script
from securedl.plan.network import Checkpoint, Conversation, Exchange, Inner, Network, of, under
from securedl.plan.projection import Projection
from securedl.plan.served import Served, ServedLinear, served_from
from securedl.plan.served_chain import ServedChain, chain_from
from securedl.program.program import Program
from securedl.program.steps import Values

#: Random values that a layer is tested with reach this part of what the scheme decrypts.
PROBE_REACH = 0.5
#: Samples that go through the network in the clear at a time.
IN_CLEAR_AT_ONCE = 64
#: Operations that move values and change none, by which nobody tells a network.
_MOVES = frozenset(["reshape", "view", "flatten", "transpose", "permute", "sym_size", "slice", "unflatten"])


@dataclass(frozen=True, eq=False, repr=False)
class Rounds:
    """What the client does between the layers; no kernel.

    Attributes:
        script: with the layers' sizes. input_shape: of one sample. outputs: its logits.
        served: each layer, in the order in which the script meets them.
    """

    script: Script
    input_shape: tuple[int, ...]
    outputs: int
    served: tuple[Served, ...]

    def converse(self, flat: Array) -> Conversation:
        """See `network.Conversation`."""
        running = self.script.run(flat.reshape(len(flat), *self.input_shape))
        layer, value = next(running)
        while True:
            served = self.served[layer]
            received = yield served.normalised(value).reshape(len(flat), -1)
            try:
                layer, value = running.send(served.result(received))
            except StopIteration as end:
                logits: Array = end.value
                return logits.reshape(len(flat), -1)

    @property
    def checkpoints(self) -> tuple[Checkpoint, ...]:
        """The query, each refresh and tap, and the answer."""
        return tuple(self._checkpoints())

    def _checkpoints(self) -> Iterator[Checkpoint]:
        """Each with its value of the network (`Checkpoint`)."""
        linear, received = 0, None
        for served in self.served:
            begins = isinstance(served, ServedLinear) or (
                isinstance(served, ServedChain) and served.parts[0].sources > 0
            )
            yield Checkpoint(2 * linear if begins else 2 * linear - 1, received, served.sent)
            for number, layout in enumerate(served.tapped):
                yield Checkpoint(2 * (linear + number) + 1, layout, None)
            linear += served.affine
            received = served.received
        yield Checkpoint(2 * linear, received, None)

    @property
    def pieces(self) -> list[tuple[int, int]]:
        """Of each segment, its layer, and which piece of it."""
        return [(n, k) for n, served in enumerate(self.served) for k in range(1 + len(served.tapped))]


@dataclass(frozen=True, eq=False, repr=False)
class Layerwise(Network):
    """Rounds with the kernels, secret.

    Attributes:
        kernels: of each layer, normalised: for what is sent they give what is received. Of a chain, layers.
    """

    rounds: Rounds
    kernels: tuple[Any, ...]

    alone: ClassVar[bool] = True

    @property
    def _whole(self) -> list[tuple[ServedLinear, Any]]:
        """Layers of whole numbers, with their kernels."""
        pairs = zip(self.rounds.served, self.kernels, strict=True)
        return [(one, kernel) for one, kernel in pairs if isinstance(one, ServedLinear) and one.whole]

    @property
    def bounds(self) -> list[Array]:
        """Of each layer of whole numbers, the largest magnitude of each map's results, whatever is sent."""
        return [one.ranges.bounds(kernel) for one, kernel in self._whole]

    @property
    def largest(self) -> float:
        """See `Network`."""
        return max((float(bound.max()) for bound in self.bounds), default=0.0)

    def _layer(self, number: int, sent: Array) -> list[Exchange]:
        """Normalised values [samples, features] through one layer."""
        return self.rounds.served[number].exchanges(sent, self.kernels[number])

    def quick(self) -> Layerwise:
        """See `Network`."""
        pairs = zip(self.rounds.served, self.kernels, strict=True)
        return replace(self, kernels=tuple(served.in_single(kernel) for served, kernel in pairs))

    def inside(self, point: int, sent: Array, points: Sequence[Checkpoint]) -> Iterator[Inner]:
        """See `Network`; each point ends a layer, or a piece of one."""
        number, piece = self.rounds.pieces[point - 1]
        return self.rounds.served[number].inside(sent, self.kernels[number], piece)

    def projected(self, point: int, rows: Array, points: Sequence[Checkpoint]) -> Projection | None:
        """See `Network`."""
        number, piece = self.rounds.pieces[point - 1]
        return self.rounds.served[number].projected(rows, self.kernels[number], piece)

    def _run(self, flat: Array) -> Generator[list[Exchange], None, Array]:
        """Layer by layer, each in its pieces; returns the logits."""
        talk = self.rounds.converse(flat)
        sent, number = next(talk), 0
        while True:
            found = self._layer(number, sent)
            yield found
            try:
                sent, number = talk.send(found[-1].received), number + 1
            except StopIteration as end:
                return np.asarray(end.value)

    def exchanges(self, flat: Array, points: Sequence[Checkpoint]) -> list[Exchange]:
        """See `Network`; each point ends a segment."""
        return [exchange for found in self._run(flat) for exchange in found]

    def __call__(self, flat: Array) -> Array:
        """Logits [samples, outputs] of samples [samples, features]."""
        parts = [
            self._logits(flat[at : at + IN_CLEAR_AT_ONCE])
            for at in range(0, max(1, len(flat)), IN_CLEAR_AT_ONCE)
        ]
        return np.concatenate(parts)

    def _logits(self, flat: Array) -> Array:
        running = self._run(flat)
        try:
            while True:
                next(running)
        except StopIteration as end:
            return np.asarray(end.value)

    @property
    def features(self) -> int:
        """Of a sample."""
        return int(np.prod(self.rounds.input_shape))

    def probed(self, flat: Array, points: Sequence[Checkpoint], limit: float) -> list[Exchange]:
        """The first layer as the samples [samples, features] have it, all others with random values.

        Every weight of a layer then counts, also where an activation gives zeros for all natural samples.
        """
        random, running = np.random.default_rng(), self._run(flat)
        found = next(running)
        for number, exchanges in enumerate(running, 1):
            served, kernel = self.rounds.served[number], self.kernels[number]
            sent = served.drawn(random, exchanges[0].sent.shape, kernel, PROBE_REACH * limit)
            found += self._layer(number, sent)
        return found

    def values(self, program: Program) -> Iterator[Values]:
        """See `Network`."""
        for served, kernel in zip(self.rounds.served, self.kernels, strict=True):
            yield from served.values(kernel)

    def peaks(self, flat: Array) -> Array:
        """See `Network`. What is sent may be larger: it has no weight's scale beside its own.

        A sample on which the client's operations fail, as a number outside a table, is infinitely large.
        """
        try:
            return self._peaks(flat)
        except Exception:  # whatever torch raises
            if len(flat) == 1:
                return np.full(1, np.inf)
            return np.concatenate([self.peaks(flat[at : at + 1]) for at in range(len(flat))])

    def _peaks(self, flat: Array) -> Array:
        if self._whole:  # inputs alone: all that is sent later is clipped
            first = self.rounds.served[0]
            assert isinstance(first, ServedLinear)
            _, value = next(self.rounds.script.run(flat.reshape(len(flat), *self.rounds.input_shape)))
            return np.asarray(first.reach(value).reshape(len(flat), -1).max(axis=1))
        worst = np.zeros(len(flat))
        with np.errstate(over="ignore", invalid="ignore"):
            for number, ((sent, _), *_) in enumerate(self._run(flat)):
                served = self.rounds.served[number]
                inner = served.peak(sent, self.kernels[number])
                for largest in (served.sent_part * np.abs(sent).max(axis=1), inner):
                    worst = np.maximum(worst, np.nan_to_num(largest, nan=np.inf))
        return worst

    @property
    def remarks(self) -> list[str]:
        """What the client does between the layers, and that it sees their values."""
        named = [one.operation.split(".") for one in self.rounds.script.instructions]
        done = dict.fromkeys(parts[1] for parts in named if len(parts) == 3 and parts[1] not in _MOVES)
        listed = ", ".join(done) or "nothing"
        found = [f"between the layers, by the client, who sees their values: {listed}"]
        limits = {one.whole for one, _ in self._whole}
        if limits:
            size, bits = max(limits), f"results below 2^{np.log2(self.largest):.1f}"
            found.append(f"whole numbers: -{size} to {size} are sent, {bits}; the client rounds and clips")
        return found

    @property
    def sizes(self) -> tuple[int, int]:
        """See `Network`."""
        return self.features, self.rounds.outputs

    def rows(self, program: Program) -> list[str]:
        """See `Network`."""
        return [f"{number}. {served.row}" for number, served in enumerate(self.rounds.served, 1)]

    def to_parts(self) -> tuple[Any, dict[str, Any]]:
        """The client's script, ranges and layouts, and the kernels."""
        script, arrays = self.rounds.script.to_parts()
        found = under("script", arrays)
        rows = []
        for number, (served, kernel) in enumerate(zip(self.rounds.served, self.kernels, strict=True)):
            row, ranges = served.to_parts()
            rows.append(row)
            found |= under(f"ranges{number}", ranges)
            found |= under(f"kernel{number}", served.weight_arrays(kernel))
        meta = {
            "script": script,
            "input_shape": self.rounds.input_shape,
            "outputs": self.rounds.outputs,
            "served": rows,
        }
        return meta, found

    @staticmethod
    def from_parts(meta: Any, arrays: Mapping[str, Any], program: Program) -> Layerwise:
        """The inverse of `to_parts`; what they must be beside is for `plan.fitting` to say.

        Raises:
            InputError: not such parts.
        """
        script = Script.from_parts(meta["script"], of("script", arrays))
        served = list[Served]()
        for k, (layer, row) in enumerate(zip(script.layers, meta["served"], strict=True)):
            ranges = of(f"ranges{k}", arrays)
            if isinstance(layer, ChainLayer):
                served.append(chain_from(layer, row, ranges, program))
            else:
                served.append(served_from(layer, row, ranges))
        rounds = Rounds(script, tuple(meta["input_shape"]), int(meta["outputs"]), tuple(served))
        kernels = (one.weights_from(of(f"kernel{k}", arrays)) for k, one in enumerate(served))
        return Layerwise(rounds, tuple(kernels))
