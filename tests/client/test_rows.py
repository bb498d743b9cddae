"""Samples in files: what is read is what stands there, and what cannot be read is said."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from securedl.client.rows import read_rows
from securedl.errors import InputError

ROWS = np.array([[1.5, -2.0], [0.25, 3.0], [4.0, 5.0]])
TEXT = "1.5,-2\n0.25,3\n4,5\n"


@pytest.mark.parametrize(
    ("text", "columns"),
    [
        (TEXT, ()),
        ("\ufeff" + TEXT, ()),
        (TEXT.replace("\n", "\r\n"), ()),
        ("\n" + TEXT.replace("\n", "\n\n"), ()),
        ("a,b\n" + TEXT, ()),
        ("a,b\n" + TEXT, ("a", "b")),
        ('"b", a\n-2,1.5\n3,0.25\n5,4\n', ("a", "b")),
        (TEXT, ("a", "b")),
    ],
)
def test_tables(tmp_path: Path, text: str, columns: tuple[str, ...]) -> None:
    path = tmp_path / "rows.csv"
    path.write_text(text, encoding="utf-8")
    np.testing.assert_array_equal(read_rows(path, (2,), columns), ROWS)


def test_a_table_of_images(tmp_path: Path) -> None:
    path = tmp_path / "rows.csv"
    np.savetxt(path, np.arange(24.0).reshape(2, 12), delimiter=",")
    np.testing.assert_array_equal(read_rows(path, (3, 2, 2)), np.arange(24.0).reshape(2, 3, 2, 2))


def test_arrays(tmp_path: Path) -> None:
    path = tmp_path / "rows.npy"
    np.save(path, ROWS.astype(np.float32))
    found = read_rows(path, (2,))
    assert isinstance(found, np.memmap)
    np.testing.assert_array_equal(found, ROWS)


@pytest.mark.parametrize(
    ("name", "text", "sentence"),
    [
        ("rows.txt", TEXT, r"\.npy or \.csv"),
        ("rows.csv", "", "is empty"),
        ("rows.csv", "a,b\n", "no rows"),
        ("rows.csv", "1,x\n2,3\n", "first line .* has numbers and 'x'"),
        ("rows.csv", "0,1,2\n4,5,6\n", "counts from 0"),
        ("rows.csv", "1,2\n3,x\n", "could not convert string 'x'"),
        ("rows.csv", "1,2\n3\n", "number of columns changed"),
        ("rows.csv", "a,c\n1,2\n", r"lacks the column\(s\) 'b'"),
        ("rows.csv", "a,b,c\n1,2,3\n", "columns"),
        ("rows.csv", "a,b\n1,nan\n", "NaN"),
        ("rows.npy", "no array", "no array that numpy.save wrote"),
        ("rows.npy", "\x93NUMPY", "holds no samples"),
    ],
)
def test_what_cannot_be_read(tmp_path: Path, name: str, text: str, sentence: str) -> None:
    path = tmp_path / name
    path.write_bytes(text.encode("latin-1"))
    with pytest.raises(InputError, match=sentence):
        read_rows(path, (2,), ("a", "b"))


def test_no_objects_and_no_missing_file(tmp_path: Path) -> None:
    path = tmp_path / "rows.npy"
    np.save(path, np.array([{"a": 1}]), allow_pickle=True)
    with pytest.raises(InputError, match="holds no samples"):
        read_rows(path, (1,))
    np.save(path, np.zeros((0, 2)))
    with pytest.raises(InputError, match="no rows"):
        read_rows(path, (2,))
    with pytest.raises(InputError, match="No such file"):
        read_rows(tmp_path / "none.csv", (2,))
