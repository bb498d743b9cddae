"""Samples in whatever they come: arrays, tensors, tables and sparse matrices, all made float64 arrays."""

from __future__ import annotations

import math
import warnings
from collections import Counter
from collections.abc import Iterable, Sequence
from datetime import date, time, timedelta
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from securedl.arguments import kind
from securedl.errors import InputError

#: Largest array that is made of a sparse one, in bytes.
MAX_DENSE = 1 << 30
SHOWN_NAMES = 5

#: What is no number, by the kind of a type or of an array, and what to give instead.
_OTHERS: tuple[tuple[tuple[type, ...], str, str], ...] = (
    ((complex, np.complexfloating), "c", "complex numbers: give both parts as features of their own"),
    (
        (str, bytes), "US",
        "text: give numbers, such as a feature of 0 and 1 for each category, and class numbers for labels",
    ),
    (
        (date, time, timedelta, np.datetime64, np.timedelta64), "Mm",
        "dates or times: give numbers, such as days since the first",
    ),
    ((np.void,), "V", "records: give numbers, one feature for each field"),
)  # fmt: skip


def numbers_of(x: Any, what: str, columns: Sequence[str] = ()) -> NDArray[np.float64]:
    """A float64 array of whatever shape.

    Args:
        columns: names in the order in which a table's columns are taken; as they stand without.

    Raises:
        InputError: not numbers, other columns than those, or a sparse matrix that is too large as an array.
    """
    if _is_table(x):
        return _table(x, what, columns)
    try:
        return _numbers(_dense(x, what), what)
    except (TypeError, ValueError, RuntimeError) as error:
        if isinstance(error, InputError):
            raise
        reason = "its rows have several lengths" if "inhomogeneous" in str(error) else error
        raise InputError(f"{what} must be an array of numbers, got {kind(x)}: {reason}") from error


def column_names(x: Any, what: str) -> tuple[str, ...]:
    """Names of a table's columns; none for anything else, and for columns that have numbers for names.

    Raises:
        InputError: two columns have one name.
    """
    if not _is_table(x):
        return ()
    names = list(x.columns)
    if not all(isinstance(name, str) for name in names):
        return ()
    twice = [name for name, times in Counter(names).items() if times > 1]
    if twice:
        raise InputError(f"{what} has more than one column named {_listed(twice)}: give each its own name")
    return tuple(names)


def _is_table(x: Any) -> bool:
    """A pandas or polars DataFrame, without importing either."""
    return hasattr(x, "columns") and hasattr(x, "to_numpy")


def _table(x: Any, what: str, columns: Sequence[str]) -> NDArray[np.float64]:
    if columns:
        given, due = list(x.columns), set(columns)
        there = set(given)
        missing = [name for name in columns if name not in there]
        extra = [name for name in given if name not in due]
        if missing or extra or len(given) != len(columns):
            lacks = f"lacks the column(s) {_listed(missing)}" if missing else ""
            has = f"has column(s) that the calibration data had not: {_listed(extra)}" if extra else ""
            raise InputError(
                f"{what} {' and '.join(filter(None, (lacks, has))) or 'has a column twice'}; give the "
                f"{len(columns)} columns of the calibration data in any order, or an array, taken as it is"
            )
        x = x[list(columns)]
    elif sorted(map(str, x.columns)) == sorted(map(str, range(len(x.columns)))):
        x = x[sorted(x.columns, key=int)]  # numbered ones, as of a table that was made of an array
    names = column_names(x, what)
    if not names:
        return _named_numbers(x, what)
    return np.column_stack([_finite_column(x[name], f"the column {name!r} of {what}") for name in names])


def _finite_column(x: Any, what: str) -> NDArray[np.float64]:
    values = _named_numbers(x, what)
    bad = np.flatnonzero(~np.isfinite(values))
    if len(bad):
        raise InputError(f"{what} has NaN or infinite values, first in row {bad[0]}: clean the data first")
    return values


def _named_numbers(x: Any, what: str) -> NDArray[np.float64]:
    try:
        return _numbers(x.to_numpy(), what)
    except (TypeError, ValueError) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(f"{what} must hold numbers without gaps: {error}") from error


def _dense(x: Any, what: str) -> Any:
    """Tensors as arrays, also in lists; sparse ones with all their zeros."""
    if hasattr(x, "detach"):  # a torch tensor, without importing torch
        x = x.detach()
        if x.is_complex():
            return x.cpu().resolve_conj().numpy()
        if str(x.layout) != "torch.strided":
            _note_size(x.shape, what)
        return (
            x.cpu().to_dense().resolve_neg().double().numpy()
        )  # numpy has neither bfloat16 nor sparse tensors
    if sparse.issparse(x):
        matrix: Any = x  # its type has neither shape nor toarray
        _note_size(matrix.shape, what)
        return matrix.toarray()
    if np.ma.is_masked(x):
        raise InputError(f"{what} has masked values: fill them first, as in x.filled(0)")
    if isinstance(x, list | tuple) and _holds_tensors(x):
        return [_dense(part, what) for part in x]
    return x


def _holds_tensors(x: Any) -> bool:
    while isinstance(x, list | tuple) and x:
        x = x[0]
    return hasattr(x, "detach") or sparse.issparse(x)


def _note_size(shape: Sequence[int], what: str) -> None:
    size, limit = 8 * math.prod(shape), MAX_DENSE / 2**30
    if size > MAX_DENSE:
        most = MAX_DENSE // max(8 * math.prod(shape[1:]), 1)
        advice = f"give at most {most} samples at a time" if most else "choose fewer features"
        raise InputError(
            f"{what} is sparse and would take {size / 2**30:.3g} GiB with its zeros, more than {limit:g}: "
            f"{advice}"
        )
    warnings.warn(
        f"{what} is sparse and becomes an array {list(shape)}: an encrypted sample has all its features, "
        "zeros too",
        stacklevel=6,
    )


def _numbers(x: Any, what: str) -> NDArray[np.float64]:
    array = np.asarray(x)
    found = {type(value) for value in array.flat} if array.dtype.kind == "O" else set()
    for types, kinds, sentence in _OTHERS:
        if array.dtype.kind in kinds or any(issubclass(each, types) for each in found):
            raise InputError(f"{what} holds {sentence}")
    return np.require(array, np.float64, "W")  # a table's is read-only, and torch warns of that


def _listed(names: Iterable[Any]) -> str:
    shown = [repr(name) for name in names]
    return ", ".join(shown[:SHOWN_NAMES]) + (
        f" and {len(shown) - SHOWN_NAMES} more" if shown[SHOWN_NAMES:] else ""
    )
