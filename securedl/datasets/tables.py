"""Tables as their official sources write them. Every parser gives x float64 [rows, features], y int64 [rows].

An empty cell is NaN; a word that is no number, or no number that is finite, is an error.
"""

from __future__ import annotations

import csv
import functools
import importlib
import math
import re
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from securedl.datasets.archives import member
from securedl.datasets.source import Arrays
from securedl.errors import FormatError, InputError

LIMIT = 16 << 20
_NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d{1,3})?", re.ASCII)

Rows = list[tuple[list[str], str]]


@functools.lru_cache(4096)  # most cells of most tables are one of a few: twice as fast
def cell_value(cell: str) -> float | None:
    """A finite decimal number, NaN for an empty cell, None for anything else."""
    if not cell:
        return math.nan
    value = float(cell) if len(cell) < 64 and _NUMBER.fullmatch(cell) else math.inf
    # No negative zero, which would equal another number but not its bytes.
    return value + 0.0 if math.isfinite(value) else None


def text(data: bytes, where: str) -> str:
    """UTF-8 text."""
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise FormatError(f"{where} is no text: {error}") from error


def cells(data: bytes, where: str, separator: str | None = ",") -> list[list[str]]:
    """The cells of each line that is not empty; None separates at white space."""
    try:
        lines = text(data, where).splitlines()
        if separator is None:
            return [line.split() for line in lines if line.strip()]
        return [[c.strip() for c in row] for row in csv.reader(lines, delimiter=separator) if row]
    except csv.Error as error:
        raise FormatError(f"{where}: {error}") from error


def arrays(rows: Rows, labels: Sequence[str], where: str) -> Arrays:
    """Rows of (cells, label) as numbers; a label's number is its place in `labels`."""
    if not rows:
        raise FormatError(f"{where} holds no rows")
    width = len(rows[0][0])
    for i, (features, _) in enumerate(rows):  # before memory is taken for the product
        if len(features) != width:
            raise FormatError(f"{where}, row {i + 1}: {len(features)} features; the first row has {width}")
    known = {label: i for i, label in enumerate(labels)}
    x, y = np.empty((len(rows), width)), np.empty(len(rows), dtype=np.int64)
    for i, (features, label) in enumerate(rows):
        at = f"{where}, row {i + 1}"
        if label not in known:
            raise FormatError(f"{at}: the label {label[:40]!r} is none of {', '.join(labels)}")
        values = [cell_value(cell) for cell in features]
        if None in values:
            raise FormatError(f"{at}: {features[values.index(None)][:40]!r} is no finite number")
        x[i] = values
        y[i] = known[label]
    return x, y


def _last(rows: list[list[str]]) -> Rows:
    return [(row[:-1], row[-1]) for row in rows]


def wine(files: Mapping[str, Path]) -> Arrays:
    """`wine.data`: class 1 to 3, then the features."""
    (path,) = files.values()
    rows = cells(member(path, "wine.data", LIMIT), "wine.data")
    return arrays([(row[1:], row[0]) for row in rows], ("1", "2", "3"), "wine.data")


def climate(files: Mapping[str, Path]) -> Arrays:
    """`pop_failures.dat`: a header; Study, Run, the features, outcome."""
    (path,) = files.values()
    name = "pop_failures.dat"
    rows = cells(member(path, name, LIMIT), name, None)
    if not rows or [c.lower() for c in rows[0][:2]] != ["study", "run"] or rows[0][-1].lower() != "outcome":
        raise FormatError(f"{name} does not begin with the columns Study, Run, ... outcome")
    return arrays([(row[2:-1], row[-1]) for row in rows[1:] if row], ("0", "1"), name)


def fertility(files: Mapping[str, Path]) -> Arrays:
    """`fertility_Diagnosis.txt`: the features, then N(ormal) or O (altered)."""
    (path,) = files.values()
    name = "fertility_Diagnosis.txt"
    return arrays(_last(cells(member(path, name, LIMIT), name)), ("N", "O"), name)


def spambase(files: Mapping[str, Path]) -> Arrays:
    """`spambase.data`: the features, then 1 for spam."""
    (path,) = files.values()
    return arrays(_last(cells(member(path, "spambase.data", LIMIT), "spambase.data")), "01", "spambase.data")


def optdigits(files: Mapping[str, Path]) -> Arrays:
    """`optdigits.tra`, then `optdigits.tes`: 64 counts and the digit."""
    (path,) = files.values()
    names = ("optdigits.tra", "optdigits.tes")
    rows = [row for name in names for row in cells(member(path, name, LIMIT), name)]
    return arrays(_last(rows), "0123456789", "optdigits")


def crabs(files: Mapping[str, Path]) -> Arrays:
    """`crabs.csv` of Rdatasets: row name, sp, sex, index, five measurements. sp is 0 blue, 1 orange."""
    (path,) = files.values()
    rows = cells(member(path, "crabs.csv", LIMIT), "crabs.csv")
    columns = ["sp", "sex", "index", "FL", "RW", "CL", "CW", "BD"]
    if not rows or rows[0][1:] != columns:
        raise FormatError(f"crabs.csv does not have the columns {', '.join(columns)}")
    species = {"B": "0", "O": "1"}
    table = [([species.get(row[1], row[1]), *row[4:]], row[2]) for row in rows[1:] if len(row) == 9]
    if len(table) != len(rows) - 1:
        raise FormatError("crabs.csv: a row does not have 9 columns")
    return arrays(table, ("F", "M"), "crabs.csv")


def pima(files: Mapping[str, Path]) -> Arrays:
    """An ARFF file: after @data, the features and tested_negative or tested_positive."""
    ((name, path),) = files.items()
    lines = text(member(path, name, LIMIT), name).splitlines()
    heads = [i for i, line in enumerate(lines) if line.strip().lower() == "@data"]
    if len(heads) != 1:
        raise FormatError(f"{name} has {len(heads)} lines @data; expected one")
    body = "\n".join(line for line in lines[heads[0] + 1 :] if not line.startswith("%"))
    return arrays(_last(cells(body.encode(), name)), ("tested_negative", "tested_positive"), name)


def ovarian(files: Mapping[str, Path]) -> Arrays:
    """What MATLAB's `writematrix([x' t'], ...)` writes: 100 intensities and two target columns.

    Cancer is the target with the 121 ones, whichever of the two comes first.
    """
    ((name, path),) = files.items()
    rows = cells(member(path, name, LIMIT), name)
    if any(len(row) < 3 or {*row[-2:]} != {"0", "1"} for row in rows):
        raise FormatError(f"{name}: the last two columns must be the two targets, one of them 1")
    cancer = -1 if 2 * sum(row[-1] == "1" for row in rows) > len(rows) else -2
    return arrays([(row[:-2], row[cancer]) for row in rows], "01", name)


def breast_tissue(files: Mapping[str, Path]) -> Arrays:
    """`BreastTissue.xls`, sheet Data: Case #, Class, nine features. Needs xlrd.

    Raises:
        InputError: xlrd is not installed.
    """
    (path,) = files.values()
    name = "BreastTissue.xls"
    data = member(path, name, LIMIT)
    try:
        xlrd = importlib.import_module("xlrd")
    except ImportError as error:
        raise InputError(
            "breast_tissue comes as an old Excel file, and reading it needs xlrd: "
            "run pip install 'securedl[data]', then try again"
        ) from error
    try:
        book = xlrd.open_workbook(file_contents=data, logfile=_Nowhere())
        sheets = [sheet for sheet in book.sheets() if sheet.nrows and sheet.ncols >= 11]
        rows = [sheets[0].row_values(i, 0, 11) for i in range(sheets[0].nrows)]
    except Exception as error:  # xlrd raises anything on hostile bytes: struct.error, AssertionError, ...
        raise FormatError(f"{name} is no Excel file with a table of 11 columns, or a damaged one") from error
    heads = [i for i, row in enumerate(rows) if str(row[1]).strip().lower() == "class"]
    if not heads:
        raise FormatError(f"{name} has no column Class")
    table = [
        ([repr(c) if isinstance(c, float) else str(c).strip() for c in row[2:]], str(row[1]).strip())
        for row in rows[heads[0] + 1 :]
        if row[1] != ""
    ]
    return arrays(table, ("adi", "car", "con", "fad", "gla", "mas"), name)


class _Nowhere:
    """xlrd prints remarks on files that are slightly wrong; the digest says all there is to say."""

    def write(self, text: str) -> None:
        """Drop it."""

    def flush(self) -> None:
        """Nothing to do."""
