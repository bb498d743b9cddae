"""ONNX files: read, bounded and checked before anything is made of them."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from securedl.arguments import SHOWN_CHARACTERS, path
from securedl.errors import InputError

if TYPE_CHECKING:
    from onnx import AttributeProto, ModelProto, TensorProto

#: Protocol buffers hold no more.
MAX_BYTES = 2**31
#: Of all constants of a network together, and of one value for one sample.
MAX_NUMBERS = 2**28
MAX_NODES = 20_000
#: Older operators have other meanings.
OLDEST_OPSET = 9


def read_model(given: Any) -> ModelProto:
    """A model with all its constants, none of them larger than the file says and than is sensible.

    Args:
        given: a path, or a model of the package onnx.

    Raises:
        InputError: no package onnx, no such file, or none that holds an ONNX network.
    """
    try:
        import onnx
    except ImportError as error:
        raise InputError(
            "from_onnx reads files with the package onnx: pip install 'securedl[onnx]'"
        ) from error
    if isinstance(given, onnx.ModelProto):
        model, folder = given, None
    else:
        file = path(given, "from_onnx")
        model, folder = _parsed(file), file.parent
    nodes = len(model.graph.node)
    if nodes > MAX_NODES:
        raise InputError(f"the ONNX network has {nodes} operators, and at most {MAX_NODES} are read")
    _check_opsets(model)
    _load_tensors(model, folder)
    return model


def check_model(model: ModelProto) -> None:
    """Refuse what breaks the rules of ONNX itself: operators with wrong attributes, names without values.

    Raises:
        InputError: so it is.
    """
    from onnx import ModelProto, checker

    checked = ModelProto()
    checked.CopyFrom(model)
    for value in [*checked.graph.input, *checked.graph.output]:
        value.type.tensor_type.shape.SetInParent()  # some exporters leave it out, and onnx insists on it
    try:
        checker.check_model(checked)
    except Exception as error:  # a ValidationError or, of a file that is broken, several others
        raise InputError(
            f"the ONNX network breaks the rules of ONNX: {first_line(error)}. Export it again"
        ) from error


def first_line(error: Exception) -> str:
    """Of what an exception says."""
    text = str(error).strip()
    return name_of(text.splitlines()[0], 200) if text else type(error).__name__


def name_of(text: str, length: int = SHOWN_CHARACTERS) -> str:
    """A name from a file, for a sentence: printable, and not too long."""
    clean = re.sub(r"[^ -~]", "?", text)
    return clean if len(clean) <= length else clean[: length - 3] + "..."


def array_of(tensor: TensorProto) -> NDArray[Any]:
    """Float64, float32, int64 or bool; half precision becomes float32.

    Raises:
        InputError: another kind of number, or too few or too many of them.
    """
    from onnx import TensorProto, numpy_helper

    kinds: dict[int, Any] = {
        TensorProto.DOUBLE: np.float64,
        TensorProto.BOOL: np.bool_,
        **dict.fromkeys((TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.BFLOAT16), np.float32),
        **dict.fromkeys((TensorProto.INT64, TensorProto.INT32, TensorProto.INT16), np.int64),
        **dict.fromkeys((TensorProto.INT8, TensorProto.UINT8), np.int64),
    }
    if tensor.data_type not in kinds:
        raise InputError(
            f"the constant {name_of(tensor.name)} of the ONNX network holds neither numbers of 32 or 64 bits "
            "nor of half precision: export the network in float32"
        )
    try:
        return np.asarray(numpy_helper.to_array(tensor)).astype(kinds[tensor.data_type])
    except Exception as error:  # of broken tensors, several kinds
        raise InputError(
            f"the constant {name_of(tensor.name)} of the ONNX network is broken: {first_line(error)}"
        ) from error


def _parsed(file: Path) -> ModelProto:
    from onnx import ModelProto

    try:
        if not file.is_file():
            raise InputError(f"{file} is no file: give the path of an ONNX file")
        size = file.stat().st_size
        if size > MAX_BYTES:
            raise InputError(f"{file} has {size} bytes, and an ONNX file at most {MAX_BYTES}")
        data = file.read_bytes()
    except (OSError, ValueError) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(f"{name_of(str(file))} cannot be read: {first_line(error)}") from error
    try:
        model = ModelProto()
        model.ParseFromString(data)
    except Exception as error:  # the DecodeError of whichever protobuf is there
        raise InputError(f"{file} is no ONNX file, or a damaged one: {first_line(error)}") from error
    if not model.HasField("graph") or not model.graph.output:
        raise InputError(f"{file} is no ONNX file, or holds no network")
    return model


def _check_opsets(model: ModelProto) -> None:
    from onnx import defs

    newest = defs.onnx_opset_version()
    for opset in model.opset_import:
        if opset.domain not in ("", "ai.onnx") or OLDEST_OPSET <= opset.version <= newest:
            continue
        raise InputError(
            f"the ONNX network is of opset {opset.version}, and those from {OLDEST_OPSET} to {newest} are "
            "read: export it with another opset_version, or upgrade the package onnx if the file is newer"
        )


def _load_tensors(model: ModelProto, folder: Path | None) -> None:
    """Refuse too many numbers; then read those that stand in files beside the model."""
    from onnx import external_data_helper

    if model.graph.sparse_initializer:
        raise InputError("the ONNX network has sparse constants: export it with dense ones")
    tensors = list(_tensors(model))
    numbers = sum(_numbers(tensor) for tensor in tensors)
    if numbers > MAX_NUMBERS:
        raise InputError(f"the ONNX network has {numbers} numbers, and at most {MAX_NUMBERS} are read")
    for tensor in tensors:
        if external_data_helper.uses_external_data(tensor):
            _load_external(tensor, folder)


def _tensors(model: ModelProto) -> Iterator[TensorProto]:
    yield from model.graph.initializer
    for node in model.graph.node:
        for attribute in node.attribute:
            yield from _attribute_tensors(attribute)


def _attribute_tensors(attribute: AttributeProto) -> Iterator[TensorProto]:
    if attribute.HasField("t"):
        yield attribute.t
    yield from attribute.tensors


def _numbers(tensor: TensorProto) -> int:
    if any(size < 0 for size in tensor.dims):
        raise InputError(f"the constant {name_of(tensor.name)} of the ONNX network has a negative size")
    return math.prod(tensor.dims)


def _load_external(tensor: TensorProto, folder: Path | None) -> None:
    from onnx import external_data_helper, helper

    name = name_of(tensor.name)
    if folder is None:
        raise InputError(
            f"the constant {name} of the ONNX network is in another file: give the path of the model, or "
            "load it with onnx.load(path)"
        )
    try:
        place = {entry.key: entry.value for entry in tensor.external_data}
        where = Path(place.get("location", ""))
        if where.is_absolute() or ".." in where.parts or not (folder / where).is_file():
            raise InputError(f"its file {name_of(str(where))} is not beside the model")
        want = _numbers(tensor) * helper.tensor_dtype_to_np_dtype(tensor.data_type).itemsize
        rest = (folder / where).stat().st_size - int(place.get("offset", 0))
        if int(place.get("length", rest)) != want:
            raise InputError(f"its part of the file {name_of(str(where))} has not {want} bytes")
        external_data_helper.load_external_data_for_tensor(tensor, str(folder))
    except Exception as error:  # onnx has its own checks, and its own exceptions
        raise InputError(
            f"the constant {name} of the ONNX network cannot be read: {first_line(error)}"
        ) from error
