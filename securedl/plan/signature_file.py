"""A signature in a file: what JSON can hold, and arrays."""

from __future__ import annotations

from collections.abc import Mapping
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
        "checkpoints": [(p.value, _described(p.sent), _described(p.back)) for p in signature.checkpoints],
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
    points = tuple(
        Checkpoint(value, _layout(sent, program), _layout(back, program))
        for value, sent, back in meta["checkpoints"]
    )
    client = None
    if meta["requantised"] is not None:
        factor, limit, count, largest = meta["requantised"]
        factors = tuple(np.asarray(arrays[f"factor{k}"]) for k in range(count))
        client = Requantised(float(factor), int(limit), factors, int(largest))
    head = meta["output"]["head"]
    output = Output(
        tuple(meta["output"]["shape"]), meta["output"]["task"], Head(head["kind"], int(head["axis"]))
    )
    a, b, c, d = (np.asarray(arrays[name]) for name in ENDS)
    return Signature(
        (program,), points, tuple(meta["input_shape"]), a, b, c, d, float(meta["input_limit"]),
        Cost(**meta["cost"]), tuple(meta["columns"]), output, None, client, float(meta["error"]),
    )  # fmt: skip


def _described(layout: Layout | None) -> Any:
    assert layout is None or isinstance(layout, Interleaved)
    return None if layout is None else descriptor(layout)


def _layout(parts: Any, program: Program) -> Interleaved | None:
    return None if parts is None else described(parts, program)
