"""A plan: public program, the client's signature and the secret weights, in one file the owner keeps."""

from __future__ import annotations

import io
import json
import warnings
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from securedl.arguments import count
from securedl.arguments import path as checked_path
from securedl.display import Card
from securedl.errors import InputError
from securedl.files import OWNER, write_atomically
from securedl.he.record import Shape
from securedl.he.scheme import Simulator
from securedl.network.graph import NODES, Array, Graph, matrix_arrays, matrix_from
from securedl.network.outputs import Head, Output
from securedl.plan.forms import FORMS
from securedl.plan.layouts import Interleaved, LayerValues, Layout
from securedl.plan.normalised import Layer, Normalised, within_headroom
from securedl.plan.outliers import Screened, listed, screen
from securedl.plan.signature import Checkpoint, Cost, Signature
from securedl.plan.summary import plan_card, summary
from securedl.program.drive import drive
from securedl.program.execute import RefreshRequest, execute
from securedl.program.program import Program

FORMAT = 4


@dataclass(frozen=True, eq=False)
class Plan:
    """How one network runs encrypted.

    Attributes:
        signature: the client's, the public program in it. network: normalised, secret. graph: the fused
        network in its own units, secret: the reference for verification. samples: some of the
        calibration data [samples, features], private: starts for sensitive samples.
    """

    signature: Signature
    network: Normalised
    graph: Graph
    samples: Array

    @property
    def program(self) -> Program:
        """The public part: what the server runs."""
        return self.signature.program

    @property
    def batch(self) -> int:
        """Samples in one ciphertext."""
        return self.program.batch

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
        inside = within_headroom(self.network, zeros, self.program.scheme.value_limit)[0]
        neutral: Array = zeros[0] if inside else self.samples[0]
        return neutral

    def weight_slots(self) -> Iterator[tuple[Shape, Array]]:
        """Every weight as (shape, slots [n]), in the program's order."""
        shapes = iter(self.program.weight_shapes)
        values = self._values()
        for step in self.program.steps:
            if step.first_weight is not None:
                for slots in step.slots(next(values)):
                    yield next(shapes), slots

    def _values(self) -> Iterator[LayerValues]:
        """What goes into the steps that have weights, in their order."""
        source = Interleaved(len(self.signature.input_scale), self.program.width, self.batch)
        for layer in self.network.layers:
            target = Interleaved(layer.features, source.width, source.batch)
            yield LayerValues(layer.matrices, layer.bias, source, target)
            for constant in layer.form.constants:
                yield LayerValues((), constant, source, target)
            source = target

    def expected(self, x: Array) -> list[Array]:
        """Normalised values [samples, features] at the query, each refresh and the answer."""
        pre, reads = self.network.stages(x)
        values = [value for read, after in zip(reads, pre, strict=False) for value in (read[0], after)]
        return [values[point.value] for point in self.signature.checkpoints]

    def simulate(self, x: Any, noise_seed: int | None = 0, outliers: str = "skip") -> Array:
        """What the network gives, without encryption: by the program itself on slot vectors, noise modelled.

        Args:
            x: samples [samples, ...]. noise_seed: None for exact arithmetic.
            outliers: what is done about samples that would overflow under encryption: "skip" gives them rows
                of NaN and "clip" moves them into the plan's range, both with a warning; "raise" refuses.

        Returns:
            float64 [samples, ...] in the shape of the network's own answers: logits, with the Softmax or
            Sigmoid that the network ends in applied, as a client does.

        Raises:
            InputError: wrong shape, NaN or infinite; with outliers="raise", a sample that would overflow.
        """
        if noise_seed is not None:
            count(noise_seed, "noise_seed", least=0)
        screened = self.screened(x, outliers)
        for done, which in (("left out: NaN", screened.skipped), ("clipped", screened.clipped)):
            if len(which):
                text = (
                    f"{len(which)} sample(s) would overflow under encryption and are {done}: {listed(which)}"
                )
                warnings.warn(text, stacklevel=2)
        answers = [seen[-1] for seen in self.simulate_checkpoints(self.batches(screened.samples), noise_seed)]
        output = self.signature.output
        logits = output.shaped(self.signature.outputs(np.concatenate(answers)[: len(screened.samples)]))
        logits[screened.skipped] = np.nan
        return output.head(logits)

    def batches(self, flat: Array) -> list[Array]:
        """[samples, features] cut into ciphertext batches, the last one filled with `neutral`."""
        count = -(-len(flat) // self.batch)
        padded = np.tile(self.neutral, (count * self.batch, 1))
        padded[: len(flat)] = flat
        return list(padded.reshape(count, self.batch, -1))

    def simulate_checkpoints(self, parts: list[Array], noise_seed: int | None) -> list[list[Array]]:
        """Simulated normalised values [batch, features] at each refresh and the answer, for each part.

        One model is "encrypted" for all parts: the noise of its weights is drawn once.
        """
        noise = None if noise_seed is None else np.random.default_rng(noise_seed)
        evaluator = self.program.scheme.simulator(self.program.params, noise)
        weights = [evaluator.fresh(slots, shape) for shape, slots in self.weight_slots()]
        return [self._simulate(evaluator, weights, part) for part in parts]

    def _simulate(self, evaluator: Simulator[Any], weights: list[Any], part: Array) -> list[Array]:
        signature = self.signature

        def fresh(point: int, values: Array) -> list[Any]:
            return [evaluator.fresh(slots, shape) for slots, shape in signature.slots(point, values)]

        def values(point: int, tiles: list[Any]) -> Array:
            return signature.values(point, np.array([evaluator.slots(tile) for tile in tiles]))

        def refresh(request: RefreshRequest) -> list[Any]:
            seen.append(values(request.index + 1, request.tiles))
            return fresh(request.index + 1, seen[-1])

        seen: list[Array] = []
        query = fresh(0, signature.query(part))
        answer = drive(execute(self.program, evaluator, weights, query), refresh)
        return [*seen, values(len(signature.checkpoints) - 1, answer)]

    def summary(self) -> str:
        """Layers, levels, refreshes, keys, bytes and estimated time, to read."""
        return summary(self.signature, self.network.layers)

    def __repr__(self) -> str:
        return self._card().text()

    def _repr_html_(self) -> str:
        return self._card().html()

    def _card(self) -> Card:
        return plan_card(self.signature, self.network.layers)

    def save(self, path: str | Path) -> None:
        """Write the plan, weights included: keep it secret. `path` is replaced whole or not at all."""
        write_atomically(checked_path(path, "save"), self.to_bytes())

    def to_bytes(self) -> bytes:
        """What `save` writes: arrays and JSON, no pickle."""
        arrays: dict[str, Any] = {
            "input_scale": self.signature.input_scale,
            "input_offset": self.signature.input_offset,
            "output_scale": self.signature.output_scale,
            "output_offset": self.signature.output_offset,
            "samples": self.samples,
        }
        meta: dict[str, Any] = {
            "format": FORMAT,
            "program": self.program.to_json().decode(),
            "input_shape": self.signature.input_shape,
            "input_limit": self.signature.input_limit,
            "columns": self.signature.columns,
            "cost": asdict(self.signature.cost),
            "output": asdict(self.signature.output),
            "checkpoints": [
                (p.value, _features(p.sent), _features(p.back)) for p in self.signature.checkpoints
            ],
            "layers": [
                (la.name, la.form.name, la.form.degree, len(la.matrices)) for la in self.network.layers
            ],
            "nodes": [(type(n).__name__, n.name) for n in self.graph.nodes],
        }
        for i, layer in enumerate(self.network.layers):
            arrays |= {f"layer{i}.bias": layer.bias, f"layer{i}.constant": layer.form.constant}
            for j, matrix in enumerate(layer.matrices):
                arrays |= _under(f"layer{i}.matrix{j}", matrix_arrays(matrix))
        for i, node in enumerate(self.graph.nodes):
            arrays |= _under(f"node{i}", node.to_arrays())
        buffer = io.BytesIO()
        np.savez(buffer, meta=np.array(json.dumps(meta)), **arrays)
        return buffer.getvalue()


def _features(layout: Layout | None) -> int:
    """The descriptor of a layout as a file keeps it: width and batch are the program's; 0 is none."""
    return 0 if layout is None else len(layout.place)


def _under(name: str, arrays: dict[str, Any]) -> dict[str, Any]:
    """Arrays of one thing, by the names that a file has for them."""
    return {f"{name}.{key}": array for key, array in arrays.items()}


def _of(name: str, arrays: Any) -> dict[str, Any]:
    """The inverse of `_under`."""
    return {key[len(name) + 1 :]: arrays[key] for key in arrays if key.startswith(f"{name}.")}


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
            return _plan(json.loads(str(arrays["meta"])), arrays)
    except Exception as error:  # a damaged archive makes zipfile, zlib, numpy and tokenize raise their own
        raise InputError(f"{name} is not a plan that this version can read: {error}") from error


def _output(fields: dict[str, Any]) -> Output:
    head = fields["head"]
    return Output(tuple(map(int, fields["shape"])), fields["task"], Head(head["kind"], int(head["axis"])))


def _plan(meta: dict[str, Any], arrays: Any) -> Plan:
    if meta["format"] != FORMAT:
        raise InputError(
            f"the plan has format {meta['format']}, this version reads {FORMAT}: compile it again"
        )
    program = Program.from_json(meta["program"].encode())
    layers = []
    for i, (name, form, degree, stored) in enumerate(meta["layers"]):
        matrices = tuple(matrix_from(_of(f"layer{i}.matrix{j}", arrays)) for j in range(stored))
        layers.append(
            Layer(name, matrices, arrays[f"layer{i}.bias"], FORMS[form](degree, arrays[f"layer{i}.constant"]))
        )
    nodes = tuple(
        NODES[kind].from_arrays(_of(f"node{i}", arrays), name) for i, (kind, name) in enumerate(meta["nodes"])
    )

    def layout(features: int) -> Interleaved | None:
        return Interleaved(features, program.width, program.batch) if features else None

    checkpoints = tuple(
        Checkpoint(value, layout(sent), layout(back)) for value, sent, back in meta["checkpoints"]
    )
    shape = tuple(meta["input_shape"])
    inputs, outputs = ((arrays[f"{end}_scale"], arrays[f"{end}_offset"]) for end in ("input", "output"))
    signature = Signature(
        (program,), checkpoints, shape, *inputs, *outputs, float(meta["input_limit"]), Cost(**meta["cost"]),
        tuple(meta["columns"]), _output(meta["output"]),
    )  # fmt: skip
    network = Normalised(*inputs, tuple(layers), *outputs)
    return Plan(signature, network, Graph(shape, nodes), arrays["samples"])
