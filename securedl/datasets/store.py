"""Normalised files: tables as .csv.gz, images as .npz without pickles; and the digest that tells right data.

A table has one header row, the features in the catalogue's order, the integer column `label` last; an empty
cell is a missing value. Images have x_train, y_train, x_test, y_test and class_names.
"""

from __future__ import annotations

import gzip
import hashlib
import io
import warnings
import zipfile
from pathlib import Path

import numpy as np

from securedl.datasets.archives import BROKEN, gunzip
from securedl.datasets.source import Arrays, DataArray, Source, Variant
from securedl.datasets.tables import LIMIT, arrays, cells
from securedl.errors import FormatError, InputError
from securedl.files import whole


def digest(*parts: DataArray) -> str:
    """SHA-256 over each array's type, shape and bytes (little-endian, C order). NaN has one form."""
    found = hashlib.sha256()
    for part in parts:
        part = np.ascontiguousarray(part, dtype=part.dtype.newbyteorder("<"))
        if part.dtype.kind == "f":
            part = np.where(np.isnan(part), np.nan, part) + 0.0
        found.update(f"{part.dtype.str} {part.shape} ".encode())
        found.update(part.data)
    return found.hexdigest()


def check_arrays(source: Source, variant: Variant, x: DataArray, y: DataArray, where: str) -> None:
    """That the arrays are the data set and no other.

    Raises:
        FormatError: shape, type, a label, the rows of a class, or the digest is another one.
    """
    shape = (variant.rows, *source.sample)
    if x.shape != shape or y.shape != shape[:1]:
        raise FormatError(f"{where} holds x {x.shape} and y {y.shape}; {variant.name} has {shape}")
    if x.dtype != source.dtype or y.dtype != np.int64:
        raise FormatError(f"{where} holds {x.dtype} with {y.dtype} labels; expected {source.dtype} and int64")
    if y.min() < 0 or y.max() >= len(source.classes):
        raise FormatError(f"{where} has a label outside 0..{len(source.classes) - 1}")
    if variant.counts and tuple(np.bincount(y, minlength=len(source.classes))) != variant.counts:
        raise FormatError(f"{where} does not have the rows of each class that {variant.name} has")
    if variant.digest and digest(x, y) != variant.digest:
        raise FormatError(
            f"{where} reads like {variant.name}, but its values are others: the file was changed or damaged"
        )


def read_table(source: Source, variant: Variant, path: Path) -> Arrays:
    """A normalised file, checked.

    Raises:
        FormatError: it is damaged, hostile, or another data set.
        InputError: it cannot be opened.
    """
    try:
        x, y = (_read_table if source.table else _read_images)(source, variant, path)
    except FileNotFoundError:
        raise InputError(f"there is no file {path}") from None
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror or error}") from error
    check_arrays(source, variant, x, y, str(path))
    return x, y


def _read_table(source: Source, variant: Variant, path: Path) -> Arrays:
    with open(path, "rb"):
        rows = cells(gunzip(path, LIMIT), path.name)
    if not rows or rows[0] != [*source.features, "label"]:
        raise FormatError(f"{path}: the header is not {', '.join(source.features[:3])}, ..., label")
    labels = tuple(map(str, range(len(source.classes))))
    return arrays([(row[:-1], row[-1]) for row in rows[1:]], labels, path.name)


def _read_images(source: Source, variant: Variant, path: Path) -> Arrays:
    assert variant.train_rows is not None
    parts = []
    with open(path, "rb") as file:
        try:
            with zipfile.ZipFile(file) as archive:
                for part, rows in (
                    ("train", variant.train_rows),
                    ("test", variant.rows - variant.train_rows),
                ):
                    x = _npy(archive, f"x_{part}", (rows, *source.sample), path)
                    parts.append((x, _npy(archive, f"y_{part}", (rows,), path).astype(np.int64)))
        except FormatError:
            raise
        except (*BROKEN, KeyError) as error:
            raise FormatError(
                f"{path} is no .npz file of {variant.name}, or a damaged one: {error}"
            ) from error
    return np.concatenate([x for x, _ in parts]), np.concatenate([y for _, y in parts])


def _npy(archive: zipfile.ZipFile, name: str, shape: tuple[int, ...], path: Path) -> DataArray:
    """One array of bytes. Its header is read first: what it promises is never allocated unseen."""
    with archive.open(f"{name}.npy") as file, warnings.catch_warnings():
        warnings.simplefilter("error")  # numpy warns of odd headers, and reads on
        try:
            version = np.lib.format.read_magic(file)
            if version != (1, 0):
                raise FormatError(f"{path}: {name} has an unusual version of numpy's format")
            found, fortran, dtype = np.lib.format.read_array_header_1_0(file)
        except FormatError:
            raise
        except Exception as error:  # numpy parses it as Python: SyntaxError, TokenError, TypeError, ...
            raise FormatError(f"{path}: {name} has a damaged header") from error
        if found != shape or dtype != np.uint8 or fortran:
            raise FormatError(f"{path}: {name} is {dtype} {found}; expected uint8 {shape}")
        size = int(np.prod(shape))
        data = bytearray(size)
        view, at = memoryview(data), 0
        while at < size and (step := file.read(min(size - at, 1 << 24))):
            view[at : at + len(step)] = step
            at += len(step)
        if at != size or file.read(1):
            raise FormatError(f"{path}: {name} has other than the {size} bytes of its header")
    return np.frombuffer(data, dtype=np.uint8).reshape(shape)


def _cell(value: float) -> str:
    return "" if np.isnan(value) else repr(float(value)).removesuffix(".0")


def write(source: Source, variant: Variant, x: DataArray, y: DataArray, path: Path) -> None:
    """Write what `read` reads: all of it, or nothing."""
    with whole(path, mode=0o644) as file:
        if source.table:
            lines = [",".join((*source.features, "label"))]
            lines += [",".join((*map(_cell, row), str(k))) for row, k in zip(x, y.tolist(), strict=True)]
            with (
                gzip.GzipFile(filename="", fileobj=file, mode="wb", mtime=0) as packed,
                io.TextIOWrapper(packed, encoding="utf-8") as out,
            ):
                out.write("\n".join(lines) + "\n")
        else:
            n, small = variant.train_rows, y.astype(np.uint8)
            parts = {"x_train": x[:n], "y_train": small[:n], "x_test": x[n:], "y_test": small[n:]}
            np.savez_compressed(file, **parts, class_names=np.array(source.classes))  # type: ignore[arg-type]
