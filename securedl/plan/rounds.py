"""Networks whose layers alone are the server's: the client does all that is between them, in the clear."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import numpy as np

from securedl.network.graph import Array
from securedl.network.script import Script
from securedl.plan.bands import Bands
from securedl.plan.network import Checkpoint, Conversation, Exchange, Network, of, under
from securedl.program.program import Program
from securedl.program.steps import Values

#: Random values that a layer is tested with reach this part of what the scheme decrypts.
PROBE_REACH = 0.5
#: What is sent counts as so many parts of what is received. At 128 times the limit of that the noise of the
#: weights makes an error of 2^-10 of the range of a result.
SENT_PART = 1 / 128

#: Operations that move values and change none, by which nobody tells a network.
_MOVES = frozenset(["reshape", "view", "flatten", "transpose", "permute", "sym_size", "slice", "unflatten"])


@dataclass(frozen=True, eq=False, repr=False)
class Ranges:
    """Normalisation of one layer: sent = (value - offset) / scale, result = received · gain + shift.

    Attributes:
        offset, scale: [channels]. gain: [maps]. shift: [maps, rows, columns] or [maps, 1, 1], what the layer
            makes of the offset.
    """

    offset: Array
    scale: Array
    gain: Array
    shift: Array

    def reaching(self, target: float) -> Ranges:
        """The same, results so many times as large."""
        return replace(self, gain=self.gain / target)

    def sent(self, values: Array) -> Array:
        """[images, channels, rows, columns], normalised."""
        normalised: Array = (values - self.offset[:, None, None]) / self.scale[:, None, None]
        return normalised

    def result(self, received: Array, output: tuple[int, int, int]) -> Array:
        """[samples, features] to [images, *output]."""
        return received.reshape(-1, *output) * self.gain[:, None, None] + self.shift


@dataclass(frozen=True, eq=False, repr=False)
class Rounds:
    """What the client does between the layers; no kernel.

    Attributes:
        script: with the layers' sizes. input_shape: of one sample. outputs: its logits.
        ranges, bands: of each layer, in the order in which the script meets them.
    """

    script: Script
    input_shape: tuple[int, ...]
    outputs: int
    ranges: tuple[Ranges, ...]
    bands: tuple[Bands, ...]

    def converse(self, flat: Array) -> Conversation:
        """See `network.Conversation`."""
        running = self.script.run(flat.reshape(len(flat), *self.input_shape))
        layer, value = next(running)
        while True:
            ranges, geometry = self.ranges[layer], self.script.layers[layer].geometry
            received = yield ranges.sent(value).reshape(len(flat), -1)
            try:
                layer, value = running.send(ranges.result(received, geometry.output))
            except StopIteration as end:
                logits: Array = end.value
                return logits.reshape(len(flat), -1)

    @property
    def checkpoints(self) -> tuple[Checkpoint, ...]:
        """The query, each refresh, and the answer."""
        ends = [None, *(bands.received for bands in self.bands)]
        starts = [*(bands.sent for bands in self.bands), None]
        return tuple(Checkpoint(2 * k, *pair) for k, pair in enumerate(zip(ends, starts, strict=True)))


@dataclass(frozen=True, eq=False, repr=False)
class LayerWeights(Values):
    """The weights of one layer (`steps.Values`)."""

    bands: Bands
    kernel: Array

    def diagonals(self, step: Any) -> Iterator[Array]:
        """None."""
        return iter(())

    def vector(self) -> Iterator[Array]:
        """None."""
        return iter(())

    def polynomials(self) -> Iterator[Array]:
        """Coefficients [N] of every weight."""
        return self.bands.weights(self.kernel)


@dataclass(frozen=True, eq=False, repr=False)
class Layerwise(Network):
    """Rounds with the kernels, secret.

    Attributes:
        kernels: of each layer, normalised: for what is sent they give what is received.
    """

    rounds: Rounds
    kernels: tuple[Array, ...]

    alone: ClassVar[bool] = True

    def _layer(self, number: int, sent: Array) -> Array:
        """Normalised values [samples, features] through one layer."""
        layer = self.rounds.script.layers[number]
        found = layer.geometry.convolve(sent.reshape(-1, *layer.geometry.image), self.kernels[number])
        return found.reshape(len(sent), -1)

    def _run(self, flat: Array) -> tuple[list[Exchange], Array]:
        talk, found = self.rounds.converse(flat), list[Exchange]()
        sent = next(talk)
        while True:
            found.append(Exchange(sent, self._layer(len(found), sent)))
            try:
                sent = talk.send(found[-1].received)
            except StopIteration as end:
                return found, end.value

    def exchanges(self, flat: Array, points: Sequence[Checkpoint]) -> list[Exchange]:
        """See `Network`; each point ends a segment."""
        return self._run(flat)[0]

    def __call__(self, flat: Array) -> Array:
        """Logits [samples, outputs] of samples [samples, features]."""
        return self._run(flat)[1]

    @property
    def features(self) -> int:
        """Of a sample."""
        return int(np.prod(self.rounds.input_shape))

    def probed(self, flat: Array, points: Sequence[Checkpoint], limit: float) -> list[Exchange]:
        """The first layer as the samples [samples, features] have it, all others with random values.

        Every weight of a layer then counts, also where an activation gives zeros for all natural samples.
        """
        random, found = np.random.default_rng(), self.exchanges(flat, points)
        for number in range(1, len(found)):
            sent = random.uniform(-1.0, 1.0, found[number].sent.shape)
            peaks = np.abs(self._layer(number, sent)).max(axis=1, keepdims=True)
            sent *= np.minimum(1.0, PROBE_REACH * limit / np.maximum(peaks, 1e-300))
            found[number] = Exchange(sent, self._layer(number, sent))
        return found

    def values(self, program: Program) -> Iterator[Values]:
        """See `Network`."""
        for bands, kernel in zip(self.rounds.bands, self.kernels, strict=True):
            yield LayerWeights(bands, kernel)

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
        worst = np.zeros(len(flat))
        with np.errstate(over="ignore", invalid="ignore"):
            for sent, received in self.exchanges(flat, ()):
                for value, part in ((sent, SENT_PART), (received, 1.0)):
                    largest = np.nan_to_num(np.abs(value).max(axis=1), nan=np.inf)
                    worst = np.maximum(worst, part * largest)
        return worst

    @property
    def remarks(self) -> list[str]:
        """What the client does between the layers, and that it sees their values."""
        named = [one.operation.split(".") for one in self.rounds.script.instructions]
        done = dict.fromkeys(parts[1] for parts in named if len(parts) == 3 and parts[1] not in _MOVES)
        listed = ", ".join(done) or "nothing"
        return [f"between the layers, by the client, who sees their values: {listed}"]

    @property
    def sizes(self) -> tuple[int, int]:
        """See `Network`."""
        return self.features, self.rounds.outputs

    def rows(self, program: Program) -> list[str]:
        """See `Network`."""
        found = []
        for number, (layer, bands) in enumerate(
            zip(self.rounds.script.layers, self.rounds.bands, strict=True)
        ):
            weights = sum(stop - start for start, stop in bands.spans)
            taken = f"{weights} weights, {bands.sent.tiles} tiles sent, {bands.answers} received"
            found.append(f"{number + 1}. {layer.name}: {layer.geometry}; {taken}")
        return found

    def to_parts(self) -> tuple[Any, dict[str, Any]]:
        """The client's script, ranges and layouts, and the kernels."""
        script, arrays = self.rounds.script.to_parts()
        found = under("script", arrays)
        for number, (ranges, kernel) in enumerate(zip(self.rounds.ranges, self.kernels, strict=True)):
            found |= under(f"ranges{number}", vars(ranges)) | {f"kernel{number}": kernel}
        bands = [(b.samples, b.ring, b.height, b.width, b.channels, b.lanes) for b in self.rounds.bands]
        meta = {
            "script": script,
            "input_shape": self.rounds.input_shape,
            "outputs": self.rounds.outputs,
            "bands": bands,
        }
        return meta, found

    @staticmethod
    def from_parts(meta: Any, arrays: Mapping[str, Any]) -> Layerwise:
        """The inverse of `to_parts`.

        Raises:
            InputError: not such parts.
        """
        script = Script.from_parts(meta["script"], of("script", arrays))
        count = range(len(script.layers))
        ranges = tuple(Ranges(**of(f"ranges{k}", arrays)) for k in count)
        bands = tuple(
            Bands(layer.geometry, *map(int, row))
            for layer, row in zip(script.layers, meta["bands"], strict=True)
        )
        rounds = Rounds(script, tuple(meta["input_shape"]), int(meta["outputs"]), ranges, bands)
        return Layerwise(rounds, tuple(arrays[f"kernel{k}"] for k in count))
