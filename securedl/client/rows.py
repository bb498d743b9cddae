"""Samples in a file, one a row: an array (.npy), or a table (.csv) with or without names of its columns."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from securedl.errors import InputError
from securedl.network.graph import Array
from securedl.network.samples import numbers_of

#: What a file of samples may be.
ROW_FILES = (".npy", ".csv")
#: So many columns whose first row counts from 0 are believed.
MOST_COUNTED = 2


def read_rows(path: Path, shape: Sequence[int], columns: Sequence[str] = ()) -> Any:
    """An array [rows, ...]. One in a .npy file stays on the disk until its rows are looked at.

    Args:
        shape: of a sample; the columns of a table are its features, flat.
        columns: names of the features, if they have any: a table with names is taken by them.

    Raises:
        InputError: no such file, another kind, no rows, cells that are no numbers, or other columns.

    Example:
        >>> read_rows(Path("rows.csv"), (4,)).shape  # doctest: +SKIP
        (150, 4)
    """
    if path.suffix not in ROW_FILES:
        raise InputError(f"samples are read from {' or '.join(ROW_FILES)}, got {path}")
    try:
        found: Any = _array(path) if path.suffix == ".npy" else _table(path, columns)
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"cannot read {path}: {getattr(error, 'strerror', None) or error}") from error
    except ValueError as error:
        if isinstance(error, InputError):
            raise
        raise InputError(f"{path} holds no samples: {str(error).partition(';')[0].rstrip('.')}") from error
    if not found.ndim or not len(found):
        raise InputError(f"{path} holds no rows, but an array {list(found.shape)}: give [samples, ...]")
    if path.suffix == ".csv" and found.shape[1] == int(np.prod(shape)):
        return found.reshape(-1, *shape)
    return found


def _array(path: Path) -> Any:
    with open(path, "rb") as file:
        if not file.read(6) == b"\x93NUMPY":
            raise InputError(f"{path} is no array that numpy.save wrote")
    return np.load(path, mmap_mode="r", allow_pickle=False)


def _table(path: Path, columns: Sequence[str]) -> Array:
    with open(path, encoding="utf-8-sig") as file:
        first = next((line for line in file if line.strip()), "")
    if not first:
        raise InputError(f"{path} is empty: give a row for each sample")
    cells = [cell.strip().strip('"') for cell in first.rstrip("\r\n").split(",")]
    names = _names(cells, path)
    with open(path, encoding="utf-8-sig") as file:
        while names and not next(file).strip():  # empty lines, and at last the one with the names
            pass
        rest = [line for line in file if line.strip()]
    if not rest:
        raise InputError(f"{path} has names of columns and no rows: give a row for each sample")
    values = np.loadtxt(rest, delimiter=",", ndmin=2, comments=None, quotechar='"', dtype=np.float64)
    if not names or not columns:
        return values
    if len(names) != values.shape[1]:
        raise InputError(f"{path} has {len(names)} names for {values.shape[1]} columns")
    return numbers_of(_Named(names, values), str(path), columns)


def _names(cells: Sequence[str], path: Path) -> Sequence[str]:
    """Those in the first line of a table, if these are not its first numbers."""
    numbers = [_is_number(cell) for cell in cells]
    if len(cells) > MOST_COUNTED and list(cells) == list(map(str, range(len(cells)))):
        raise InputError(
            f"the first line of {path} counts from 0: numbers of columns, or a row? Give the columns names, "
            "or leave that line out"
        )
    if any(numbers) and not all(numbers):
        cell = cells[numbers.index(False)]
        raise InputError(
            f"the first line of {path} has numbers and {cell!r}: it must be numbers, or names of all columns"
        )
    return () if all(numbers) else cells


def _is_number(cell: str) -> bool:
    try:
        float(cell)
    except ValueError:
        return False
    return True


class _Named:
    """As much of a table as `numbers_of` asks for."""

    def __init__(self, columns: Sequence[str], values: Array) -> None:
        self.columns, self._values = list(columns), values

    def __getitem__(self, names: Any) -> _Named:
        wanted = [names] if isinstance(names, str) else names
        return _Named(wanted, self._values[:, [self.columns.index(name) for name in wanted]])

    def to_numpy(self) -> Array:
        """The values, flat where there is one column."""
        return self._values[:, 0] if len(self.columns) == 1 else self._values
