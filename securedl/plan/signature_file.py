"""A signature in a file: what JSON can hold, and arrays."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np

from securedl.errors import CompileError
from securedl.network.outputs import Head, Output
from securedl.plan.layouts import Interleaved, Layout, described, descriptor
from securedl.plan.network import Checkpoint
from securedl.plan.quantised import Requantised
from securedl.plan.signature import Cost, Signature
from securedl.program.program import Program

#: Scale and offset, of input and output.
ENDS = ("input_scale", "input_offset", "output_scale", "output_offset")


def signature_parts(signature: Signature) -> tuple[dict[str, Any], dict[str, Any]]:
    """Of a plan all of whose values stand in slots.

    Raises:
        CompileError: it is another one.
    """
    if signature.rounds is not None:
        raise CompileError("the client computes parts of this network: its signature is in the plan")
    arrays = {name: getattr(signature, name) for name in ENDS}
    client = signature.requantised
    if client is not None:
        arrays |= {f"factor{k}": factor for k, factor in enumerate(client.factors)}
    meta = {
        "program": signature.program.to_json().decode(),
        "checkpoints": checkpoint_parts(signature.checkpoints),
        "input_shape": signature.input_shape,
        "input_limit": signature.input_limit,
        "columns": signature.columns,
        "cost": asdict(signature.cost),
        "error": signature.error,
        "output": asdict(signature.output),
        "requantised": None
        if client is None
        else (client.input_factor, client.input_limit, len(client.factors), client.limit),
    }
    return meta, arrays


def signature_from_parts(meta: Mapping[str, Any], arrays: Mapping[str, Any]) -> Signature:
    """The inverse of `signature_parts`.

    Raises:
        FormatError, InputError: not such parts.
    """
    program = Program.from_json(meta["program"].encode())
    points = checkpoints_from(meta["checkpoints"], program)
    client = None
    if meta["requantised"] is not None:
        factor, limit, count, largest = meta["requantised"]
        factors = tuple(np.asarray(arrays[f"factor{k}"]) for k in range(count))
        client = Requantised(float(factor), int(limit), factors, int(largest))
    a, b, c, d = (np.asarray(arrays[name]) for name in ENDS)
    return Signature(
        (program,), points, tuple(meta["input_shape"]), a, b, c, d, float(meta["input_limit"]),
        Cost(**meta["cost"]), tuple(meta["columns"]), output_from(meta["output"]), None, client,
        float(meta["error"]),
    )  # fmt: skip


def output_from(fields: Mapping[str, Any]) -> Output:
    """An output from its fields in a file."""
    head = fields["head"]
    return Output(tuple(map(int, fields["shape"])), fields["task"], Head(head["kind"], int(head["axis"])))


def checkpoint_parts(points: Sequence[Checkpoint]) -> list[Any]:
    """Checkpoints whose values stand in slots, in a file."""

    def parts(layout: Layout | None) -> Any:
        assert layout is None or isinstance(layout, Interleaved)
        return None if layout is None else descriptor(layout)

    return [(point.value, parts(point.sent), parts(point.back)) for point in points]


def checkpoints_from(parts: Sequence[Any], program: Program) -> tuple[Checkpoint, ...]:
    """The inverse of `checkpoint_parts`."""

    def layout(found: Any) -> Interleaved | None:
        return None if found is None else described(found, program)

    return tuple(Checkpoint(value, layout(sent), layout(back)) for value, sent, back in parts)
