"""A plan: public program, the client's signature and the secret weights, in one file the owner keeps."""

from __future__ import annotations

import io
import json
import warnings
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np

from securedl.arguments import count
from securedl.arguments import path as checked_path
from securedl.display import Card
from securedl.errors import CompileError, InputError
from securedl.files import OWNER, write_atomically
from securedl.he.record import Shape
from securedl.he.scheme import Simulator
from securedl.network.graph import NODES, Array, Graph
from securedl.plan.congruent import Congruent
from securedl.plan.fitting import check_channels, check_network, check_signature
from securedl.plan.layouts import SlotLayout, in_rows
from securedl.plan.network import Conversation, Network, of, under, within_headroom
from securedl.plan.normalised import Normalised
from securedl.plan.outliers import Screened, listed, screen
from securedl.plan.quantised import Quantised
from securedl.plan.rounds import Layerwise
from securedl.plan.signature import Cost, Signature
from securedl.plan.signature_file import checkpoint_parts, checkpoints_from, output_from
from securedl.plan.summary import plan_card, summary
from securedl.program.drive import drive
from securedl.program.execute import Shown, execute
from securedl.program.program import Program
from securedl.progress import Progress, check_progress, stage

FORMAT = 11
_KINDS: dict[str, type[Normalised] | type[Quantised]] = {
    kind.__name__: kind for kind in (Normalised, Quantised, Congruent)
}


class Reference(Protocol):
    """A network in its own units."""

    @property
    def features(self) -> int:
        """Of a sample."""

    def __call__(self, flat: Array, /) -> Array:
        """Flat logits [samples, outputs] of samples [samples, features]."""


class Simulated(NamedTuple):
    """One batch in the clear: normalised values [batch, features] received at each point after the query, and
    flat logits [batch, outputs].
    """

    received: list[Array]
    logits: Array


@dataclass(frozen=True, eq=False)
class Plan:
    """How one network runs encrypted.

    Attributes:
        signature: the client's, the public program in it. network: normalised, secret. reference: the network
        in its own units, secret: what answers are compared with. samples: some of the calibration data
        [samples, features], private: starts for sensitive samples.
        runners_up: a line on each plan that was not chosen, and what it would cost.
    """

    signature: Signature
    network: Network
    reference: Reference
    samples: Array
    runners_up: tuple[str, ...] = ()

    @property
    def program(self) -> Program:
        """The public part: what the server runs.

        Raises:
            InputError: there are several, one for each of `channels`.
        """
        return self.signature.program

    @cached_property
    def channels(self) -> tuple[Plan, ...]:
        """A plan for each program: this one, or where there are several those of each plain modulus, whose
        answers are residues (`Signature.joined`).
        """
        if len(self.signature.channels) == 1:
            return (self,)
        network, found = self.network, list[Plan]()
        assert isinstance(network, Congruent)
        for number, t in enumerate(network.primes):
            signature = self.signature.channel(number)
            found.append(Plan(signature, network.modulo(t), self.reference, self.samples))
        return tuple(found)

    @property
    def graph(self) -> Graph:
        """The reference where the polynomials are the server's: the fused network.

        Raises:
            InputError: they are the client's, who has no graph.
        """
        if not isinstance(self.reference, Graph):
            raise InputError("a plan with activations='client' has no graph: its reference is a script")
        return self.reference

    def with_error(self, error: float) -> Plan:
        """The same plan, its simulated error noted."""
        return replace(self, signature=replace(self.signature, error=error))

    def with_runners_up(self, lines: Iterable[str]) -> Plan:
        """The same plan, with a line on each that was not chosen."""
        return replace(self, runners_up=tuple(lines))

    @property
    def batch(self) -> int:
        """Samples in one query."""
        return self.signature.batch

    @property
    def input_shape(self) -> tuple[int, ...]:
        """Shape of one sample."""
        return self.signature.input_shape

    @property
    def task(self) -> str:
        """What an answer is: "classes", "binary", "multilabel" or "regression"."""
        return self.signature.output.task

    @property
    def classes(self) -> int:
        """Number of logits."""
        return len(self.signature.output_scale)

    def screened(self, x: Any, outliers: str = "raise", what: str = "x") -> Screened:
        """Samples [samples, ...] that can be encrypted; which were left out or clipped.

        Raises:
            InputError: wrong shape, NaN or infinite; with outliers="raise", a sample that would overflow.
        """
        return screen(self.signature, self.network, self.samples, x, outliers, what)

    def checked(self, x: Any, what: str = "x") -> Array:
        """Samples [samples, features] as float64, refused when one would overflow.

        Raises:
            InputError: wrong shape, NaN, infinite, or far outside the range of the calibration data.
        """
        return self.screened(x, "raise", what).samples

    @property
    def neutral(self) -> Array:
        """A sample [features] that does not overflow: zeros, or a calibration sample where zeros would.

        Zeros are far outside the data where a column is 2000 ± 10; an overflow in one lane spoils all others.
        """
        zeros = np.zeros((1, self.samples.shape[1]))
        inside = within_headroom(self.network, zeros, self.signature.channels[0].scheme.value_limit)[0]
        neutral: Array = zeros[0] if inside else self.samples[0]
        return neutral

    def weight_slots(self) -> Iterator[tuple[Shape, Array]]:
        """Every weight as (shape, slots [n] or [rows, n], or coefficients [N]), in the program's order."""
        shapes = iter(self.program.weight_shapes)
        values, program = self.network.values(self.program), self.program
        for step in program.steps:
            if step.first_weight is not None:
                for found in step.slots(next(values)):
                    if step.in_coefficients:
                        yield next(shapes), found
                    else:
                        yield next(shapes), in_rows(found[None], program.rows, self.batch)[0]

    def expected(self, x: Array) -> list[Array]:
        """Normalised values [samples, features] of the query, and received at each refresh and the answer."""
        exchanges = self.network.exchanges(x, self.signature.checkpoints)
        return [exchanges[0].sent, *(exchange.received for exchange in exchanges)]

    def simulate(
        self, x: Any, noise_seed: int | None = 0, outliers: str = "skip", progress: Progress = None
    ) -> Array:
        """What the network gives, without encryption: by the program itself on slot vectors, noise modelled.

        Args:
            x: samples [samples, ...]. noise_seed: None for exact arithmetic.
            outliers: what is done about samples that would overflow under encryption: "skip" gives them rows
                of NaN and "clip" moves them into the plan's range, both with a warning; "raise" refuses.
            progress: of the work, stage "simulate"; see `securedl.progress`.

        Returns:
            float64 [samples, ...] in the shape of the network's own answers: logits, with the Softmax or
            Sigmoid that the network ends in applied, as a client does.

        Raises:
            InputError: wrong shape, NaN or infinite; with outliers="raise", a sample that would overflow.
        """
        check_progress(progress)
        if noise_seed is not None:
            count(noise_seed, "noise_seed", least=0)
        screened = self.screened(x, outliers)
        for done, which in (("left out: NaN", screened.skipped), ("clipped", screened.clipped)):
            if len(which):
                text = (
                    f"{len(which)} sample(s) would overflow under encryption and are {done}: {listed(which)}"
                )
                warnings.warn(text, stacklevel=2)
        parts, output = self.batches(screened.samples), self.signature.output
        with stage("simulate", progress) as told:
            told.count(0, len(self.channels) * len(parts))
            answers = [
                np.concatenate([run.logits for run in channel.simulate_batches(parts, noise_seed, told.tick)])
                for channel in self.channels
            ]
        joined = answers[0] if len(answers) == 1 else self.signature.joined(answers)
        logits = output.shaped(joined[: len(screened.samples)])
        logits[screened.skipped] = np.nan
        return output.head(logits)

    def batches(self, flat: Array) -> list[Array]:
        """[samples, features] cut into ciphertext batches, the last one filled with `neutral`."""
        count = -(-len(flat) // self.batch)
        padded = np.tile(self.neutral, (count * self.batch, 1))
        padded[: len(flat)] = flat
        return list(padded.reshape(count, self.batch, -1))

    def simulate_batches(
        self, parts: list[Array], noise_seed: int | None, tick: Callable[[], object] = lambda: None
    ) -> list[Simulated]:
        """What happens to batches of samples [batch, features], each by itself, and ticks after it."""

        def talks() -> Iterator[Conversation]:
            for part in parts:
                yield self.signature.converse(part)
                tick()

        return self.simulate_talks(talks(), noise_seed)

    def simulate_talks(self, talks: Iterable[Conversation], noise_seed: int | None) -> list[Simulated]:
        """What is received in each conversation.

        One model is "encrypted" for all: the noise of its weights is drawn once.
        """
        noise = None if noise_seed is None else np.random.default_rng(noise_seed)
        return self._run(self.program.scheme.simulator(self.program.params, noise), talks)

    def variances(self, talks: Iterable[Conversation], secret: Any = None) -> list[list[Array]]:
        """Of an honest server's errors in every normalised value [batch, features] that is received after the
        query, for what each conversation sends; it is given these variances in place of values.

        Args:
            secret: |s|² of the secret key in each slot, [n]; else the mean of all keys.
        """
        runs = self._run(self.program.scheme.variances(self.program.params, secret), talks)
        return [run.received for run in runs]

    def _run(self, evaluator: Simulator[Any], talks: Iterable[Conversation]) -> list[Simulated]:
        weights = [evaluator.fresh(slots, shape) for shape, slots in self.weight_slots()]
        return [self._simulate(evaluator, weights, talk) for talk in talks]

    def _simulate(self, evaluator: Simulator[Any], weights: list[Any], talk: Conversation) -> Simulated:
        signature, seen = self.signature, list[Array]()
        decoded = [
            evaluator.coefficients if port.coefficients else evaluator.slots for port in signature.sent
        ]

        def fresh(point: int, values: Array) -> list[Any]:
            return [evaluator.fresh(slots, shape) for slots, shape in signature.slots(point, values)]

        def values(point: int, tiles: list[Any]) -> Array:
            seen.append(signature.values(point, np.array([decoded[point - 1](tile) for tile in tiles])))
            return seen[-1]

        def known(point: int, held: list[Any]) -> list[Any]:
            layout = signature.checkpoints[point].sent
            assert isinstance(layout, SlotLayout)
            return [evaluator.known(*pair) for pair in zip(held, layout.read, strict=True)]

        def client(shown: Shown) -> list[Any] | None:
            point = shown.index + 1
            received = values(point, shown.tiles)
            return fresh(point, talk.send(received)) if shown.refresh else known(point, shown.held)

        answer = drive(execute(self.program, evaluator, weights, fresh(0, next(talk))), client)
        return Simulated(seen, finish(talk, values(len(signature.checkpoints) - 1, answer)))

    def summary(self) -> str:
        """Layers, levels, refreshes, keys, bytes and estimated time, to read."""
        return summary(self.signature, self.network, self.runners_up)

    def __repr__(self) -> str:
        return self._card().text()

    def _repr_html_(self) -> str:
        return self._card().html()

    def _card(self) -> Card:
        return plan_card(self.signature, self.network)

    def save(self, path: str | Path) -> None:
        """Write the plan, weights included: keep it secret. `path` is replaced whole or not at all."""
        write_atomically(checked_path(path, "save"), self.to_bytes())

    def to_bytes(self) -> bytes:
        """What `save` writes: arrays and JSON, no pickle."""
        signature = self.signature
        arrays: dict[str, Any] = {
            "input_scale": signature.input_scale,
            "input_offset": signature.input_offset,
            "output_scale": signature.output_scale,
            "output_offset": signature.output_offset,
            "samples": self.samples,
        }
        network, found = self.network.to_parts()
        arrays |= under("network", found)
        meta: dict[str, Any] = {
            "format": FORMAT,
            "program": self.signature.channels[0].to_json().decode(),
            "others": [program.to_json().decode() for program in self.signature.channels[1:]],
            "input_shape": signature.input_shape,
            "input_limit": signature.input_limit,
            "columns": signature.columns,
            "cost": asdict(signature.cost),
            "error": signature.error,
            "output": asdict(signature.output),
            "rounds": signature.rounds is not None,
            "kind": type(self.network).__name__,
            "runners_up": self.runners_up,
            "network": network,
        }
        if isinstance(self.reference, Graph):
            meta["checkpoints"] = checkpoint_parts(signature.checkpoints)
            meta["nodes"] = [(type(n).__name__, n.name) for n in self.reference.nodes]
            for i, node in enumerate(self.reference.nodes):
                arrays |= under(f"node{i}", node.to_arrays())
        buffer = io.BytesIO()
        np.savez(buffer, meta=np.array(json.dumps(meta)), **arrays)
        return buffer.getvalue()


def finish(talk: Conversation, received: Array) -> Array:
    """The logits of a conversation whose answer has come.

    Raises:
        CompileError: it goes on, or had ended before.
    """
    try:
        talk.send(received)
    except StopIteration as end:
        if end.value is not None:
            logits: Array = end.value
            return logits
        raise CompileError("the client's part of this batch had ended before its answer came") from None
    raise CompileError("the client has more to ask than the program answers")


def load_plan(path: str | Path) -> Plan:
    """A plan from the file that `Plan.save` wrote.

    Raises:
        InputError: no such file, or not a plan of this version.
    """
    try:
        data = checked_path(path, "load_plan").read_bytes()
    except OSError as error:
        raise InputError(f"cannot read the plan {path}: {error.strerror}") from error
    if data.startswith(OWNER):
        raise InputError(f"{path} holds an owner, not a plan: securedl.Owner.load(path, passphrase=...)")
    return plan_from_bytes(data, str(path))


def plan_from_bytes(data: bytes, name: str = "the plan") -> Plan:
    """The inverse of `Plan.to_bytes`.

    Raises:
        InputError: not a plan of this version.
    """
    if not data.startswith(b"PK"):  # numpy would advise unsafe loading here
        raise InputError(f"{name} is not a plan that this version can read: it is no archive of arrays")
    try:
        with np.load(io.BytesIO(data), allow_pickle=False) as arrays:
            if sum(part.file_size for part in arrays.zip.infolist()) > len(data):
                raise InputError("its arrays are packed, which `Plan.save` does not do")
            return _plan(json.loads(str(arrays["meta"])), arrays)
    except Exception as error:  # a damaged archive makes zipfile, zlib, numpy and tokenize raise their own
        raise InputError(f"{name} is not a plan that this version can read: {error}") from error


def _plan(meta: dict[str, Any], arrays: Any) -> Plan:
    if meta["format"] != FORMAT:
        raise InputError(
            f"the plan has format {meta['format']}, this version reads {FORMAT}: compile it again"
        )
    program, *others = (Program.from_json(one.encode()) for one in (meta["program"], *meta["others"]))
    shape = tuple(meta["input_shape"])
    ends = [arrays[f"{end}_{part}"] for end in ("input", "output") for part in ("scale", "offset")]
    found = of("network", arrays)
    network: Network
    reference: Reference
    if meta["rounds"]:
        network = reference = Layerwise.from_parts(meta["network"], found, program)
        check_network(network, program, arrays["samples"])
        rounds, points = network.rounds, network.rounds.checkpoints
    else:
        network = _KINDS[meta["kind"]].from_parts(meta["network"], found, ends, program)
        rounds, points = None, checkpoints_from(meta["checkpoints"], program)
        nodes = tuple(
            NODES[kind].from_arrays(of(f"node{i}", arrays), name)
            for i, (kind, name) in enumerate(meta["nodes"])
        )
        reference = Graph(shape, nodes)
    requantised = network.client if isinstance(network, Quantised) else None
    signature = Signature(
        (program, *others), points, shape, ends[0], ends[1], ends[2], ends[3], float(meta["input_limit"]),
        Cost(**meta["cost"]),
        tuple(meta["columns"]), output_from(meta["output"]), rounds, requantised, float(meta["error"]),
    )  # fmt: skip
    told = tuple(map(str, meta["runners_up"]))
    check_signature(signature, arrays["samples"], network.sizes)
    if isinstance(network, Congruent):
        check_channels(network, signature.channels)
    return Plan(signature, network, reference, arrays["samples"], told)
