"""Official formats, rebuilt here from normalised arrays; and hostile bytes in each of them."""

from __future__ import annotations

import gzip
import io
import os
import struct
import sys
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from securedl import datasets
from securedl.datasets import CATALOGUE, archives, images, tables
from securedl.errors import FormatError, InputError

DATA = os.environ.get("SECUREDL_DATA")
RNG = np.random.default_rng(0)


def zipped(**files: bytes) -> bytes:
    """A zip archive; `__` in a name stands for a folder."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in files.items():
            archive.writestr(name.replace("__", "/"), data)
    return buffer.getvalue()


def tarred(files: Mapping[str, bytes], **fields: object) -> bytes:
    """A .tar.gz; `fields` change every header."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz", compresslevel=1) as archive:
        for name, data in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            for field, value in fields.items():
                setattr(info, field, value)
            archive.addfile(info, io.BytesIO(data))
    return buffer.getvalue()


def word(value: float) -> str:
    return repr(float(value)).removesuffix(".0")


def lines(rows: Iterator[list[str]], separator: str = ",", end: str = "\n") -> bytes:
    return "".join(separator.join(row) + end for row in rows).encode()


def plain(x: np.ndarray, labels: list[str], first: bool = False) -> bytes:
    rows = ([word(v) for v in row] for row in x)
    return lines([label, *row] if first else [*row, label] for row, label in zip(rows, labels, strict=True))


def of(y: np.ndarray, words: str) -> list[str]:
    return [words.split()[k] for k in y]


def biff(rows: list[list[str | float]]) -> bytes:
    """A worksheet as Excel 4 wrote it: the simplest file that is an .xls."""

    def record(kind: int, data: bytes) -> bytes:
        return struct.pack("<HH", kind, len(data)) + data

    out = record(0x0409, struct.pack("<HHH", 0x0400, 0x0010, 0))
    for i, row in enumerate(rows):
        for j, cell in enumerate(row):
            if isinstance(cell, str):
                out += record(0x0204, struct.pack("<HHHH", i, j, 0, len(cell)) + cell.encode())
            else:
                out += record(0x0203, struct.pack("<HHHd", i, j, 0, cell))
    return out + record(0x000A, b"")


def xls(x: np.ndarray, y: np.ndarray) -> bytes:
    names = of(y, "adi car con fad gla mas")
    rows: list[list[str | float]] = [["Case #", "Class", *CATALOGUE["breast_tissue"].features]]
    rows += [[float(i + 1), names[i], *map(float, row)] for i, row in enumerate(x)]
    return biff(rows)


def climate(x: np.ndarray, y: np.ndarray) -> bytes:
    head = ["Study", "Run", *CATALOGUE["climate_crashes"].features, "outcome"]
    rows = [[str(1 + i // 180), str(1 + i % 180), *map(word, row), str(y[i])] for i, row in enumerate(x)]
    return lines(iter([head, *rows]), "   ", " \r\n")


def crabs(x: np.ndarray, y: np.ndarray) -> bytes:
    head = ['""', *(f'"{c}"' for c in ("sp", "sex", "index", "FL", "RW", "CL", "CW", "BD"))]
    rows = [
        [
            f'"{i + 1}"',
            '"BO"'[0] + "BO"[int(row[0])] + '"',
            f'"{"FM"[k]}"',
            str(i % 50 + 1),
            *map(word, row[1:]),
        ]
        for i, (row, k) in enumerate(zip(x, y, strict=True))
    ]
    return lines(iter([head, *rows]))


def arff(x: np.ndarray, y: np.ndarray) -> bytes:
    head = "% 1. Title: Pima Indians Diabetes Database\n@relation pima_diabetes\n"
    head += "".join(
        f"@attribute '{c}' real\n" for c in ("preg", "plas", "pres", "skin", "insu", "mass", "pedi", "age")
    )
    head += "@attribute 'class' { tested_negative, tested_positive}\n@data\n"
    return head.encode() + plain(x, of(y, "tested_negative tested_positive"))


def idx(values: np.ndarray) -> bytes:
    head = struct.pack(f">4B{values.ndim}I", 0, 0, 8, values.ndim, *values.shape)
    return gzip.compress(head + values.astype(np.uint8).tobytes(), 1)


def mnist(x: np.ndarray, y: np.ndarray, n: int = 60000) -> dict[str, bytes]:
    parts = {"train": (x[:n], y[:n]), "t10k": (x[n:], y[n:])}
    return {
        f"{part}-{kind}-ubyte.gz": idx(values)
        for part, pair in parts.items()
        for kind, values in zip(("images-idx3", "labels-idx1"), pair, strict=True)
    }


def cifar(x: np.ndarray, y: np.ndarray) -> dict[str, bytes]:
    records = np.concatenate(
        [y[:, None].astype(np.uint8), x.transpose(0, 3, 1, 2).reshape(len(x), -1)], axis=1
    )
    names = [*(f"data_batch_{i}.bin" for i in range(1, 6)), "test_batch.bin"]
    parts = np.split(records, 6)
    return {f"cifar-10-batches-bin/{n}": p.tobytes() for n, p in zip(names, parts, strict=True)}


def netpbm(image: np.ndarray) -> bytes:
    kind = 6 if image.ndim == 3 else 5
    return f"P{kind}\n{image.shape[1]} {image.shape[0]}\n255\n".encode() + image.tobytes()


def faces(x: np.ndarray, y: np.ndarray) -> bytes:
    seen = np.zeros(40, dtype=int)
    files = {"README": b"about"}
    for image, k in zip(x, y, strict=True):
        seen[k] += 1
        files[f"s{k + 1}__{seen[k]}.pgm"] = netpbm(image)
    return zipped(**dict(sorted(files.items())))


def wine(x: np.ndarray, y: np.ndarray) -> bytes:
    return zipped(Index=b"x", **{"wine.data": plain(x, of(y, "1 2 3"), first=True), "wine.names": b"x"})


def optdigits(x: np.ndarray, y: np.ndarray) -> bytes:
    data = plain(x, list(map(str, y))).splitlines(keepends=True)
    return zipped(**{"optdigits.tes": b"".join(data[3823:]), "optdigits.tra": b"".join(data[:3823])})


def two_targets(x: np.ndarray, y: np.ndarray) -> bytes:
    return plain(np.concatenate([x, (y == 1)[:, None]], axis=1), list(map(str, 1 - y)))


def spam(x: np.ndarray, y: np.ndarray) -> bytes:
    return zipped(**{"spambase.data": plain(x, list(map(str, y))), "spambase.names": b"| names"})


#: Arrays -> the official files by name.
OFFICIAL: dict[str, Callable[[np.ndarray, np.ndarray], dict[str, bytes]]] = {
    "breast_tissue": lambda x, y: {"breast+tissue.zip": zipped(**{"BreastTissue.xls": xls(x, y)})},
    "crabs": lambda x, y: {"crabs.csv": crabs(x, y)},
    "ovarian": lambda x, y: {"ovarian_dataset.csv": two_targets(x, y)},
    "wine": lambda x, y: {"wine.zip": wine(x, y)},
    "climate_crashes": lambda x, y: {
        "climate+model+simulation+crashes.zip": zipped(**{"pop_failures.dat": climate(x, y)})
    },
    "fertility": lambda x, y: {
        "fertility.zip": zipped(**{"fertility_Diagnosis.txt": plain(x, of(y, "N O")).replace(b"\n", b"\r\n")})
    },
    "optdigits": lambda x, y: {"optical+recognition+of+handwritten+digits.zip": optdigits(x, y)},
    "pima": lambda x, y: {"dataset_37_diabetes.arff": arff(x, y)},
    "spambase": lambda x, y: {"spambase.zip": spam(x, y)},
    "mnist": mnist,
    "orl_faces": lambda x, y: {"att_faces.zip": faces(x, y)},
}
#: Those that are read by hand-placed files need no address; wdbc and iris no file.
TABLES = [name for name in OFFICIAL if CATALOGUE[name].table]


def fake(name: str) -> tuple[np.ndarray, np.ndarray]:
    """Arrays of the shape of a set, with every class in them."""
    source, rng = CATALOGUE[name], np.random.default_rng(1)
    rows = source.full.rows if name == "orl_faces" else 12
    y = np.arange(rows) % len(source.classes)
    if name == "ovarian":
        y[0] = 1  # cancer is told by being more frequent
    if name == "crabs":
        return np.concatenate([y[:, None], rng.normal(size=(rows, 5))], axis=1), y
    if source.table:
        return rng.normal(size=(rows, *source.sample)), y
    if name == "orl_faces":
        y = np.concatenate([np.repeat(np.arange(40), 8), np.repeat(np.arange(40), 2)])
    return rng.integers(0, 256, (rows, *source.sample), dtype=np.uint8), y


def parsed(name: str, files: Mapping[str, bytes], folder: Path, **options: object) -> datasets.source.Arrays:
    paths = {}
    for file, data in files.items():
        paths[file] = folder / file
        paths[file].write_bytes(data)
    parse = CATALOGUE[name].parse
    assert parse is not None
    return parse(paths, **options)


def agree(found: datasets.source.Arrays, x: np.ndarray, y: np.ndarray) -> None:
    np.testing.assert_array_equal(found[0], x)
    np.testing.assert_array_equal(found[1], y)
    assert (found[0].dtype, found[1].dtype) == (x.dtype, np.int64)


class TestRoundTrips:
    def test_every_set_has_one(self):
        assert {name for name, s in CATALOGUE.items() if s.files} - set(OFFICIAL) == {"cifar10", "gtsrb"}
        for name, make in OFFICIAL.items():
            x, y = fake(name)
            options = {"n": 9} if name == "mnist" else {}
            assert set(make(x, y, **options)) == {file.name for file in CATALOGUE[name].files}

    @pytest.mark.parametrize("name", TABLES)
    def test_tables(self, name, tmp_path):
        if name == "breast_tissue":
            pytest.importorskip("xlrd")
        x, y = fake(name)
        agree(parsed(name, OFFICIAL[name](x, y), tmp_path), x, y)

    def test_bare_files_of_older_addresses(self, tmp_path):
        x, y = fake("climate_crashes")
        agree(parsed("climate_crashes", {"c.zip": climate(x, y)}, tmp_path), x, y)
        pytest.importorskip("xlrd")
        x, y = fake("breast_tissue")
        agree(parsed("breast_tissue", {"b.zip": xls(x, y)}, tmp_path), x, y)

    def test_either_order_of_the_targets(self, tmp_path):
        x, y = fake("ovarian")
        swapped = plain(np.concatenate([x, (y == 0)[:, None]], axis=1), list(map(str, y)))
        agree(parsed("ovarian", {"o": swapped}, tmp_path), x, y)

    def test_mnist(self, tmp_path):
        x, y = fake("mnist")
        agree(parsed("mnist", mnist(x, y, 9), tmp_path, rows=(9, 3)), x, y)

    def test_cifar10(self, tmp_path):
        x, y = fake("cifar10")
        agree(parsed("cifar10", {"c.tar.gz": tarred(cifar(x, y))}, tmp_path, batch=2), x, y)

    def test_orl_faces(self, tmp_path):
        x, y = fake("orl_faces")
        agree(parsed("orl_faces", OFFICIAL["orl_faces"](x, y), tmp_path), x, y)
        again = faces(x, y).replace(b"s1/1.pgm", b"s1/x.pgm")
        with pytest.raises(FormatError, match=r"holds 399 images sP/N.pgm; expected 400"):
            parsed("orl_faces", {"f.zip": again}, tmp_path)

    def test_gtsrb(self, tmp_path):
        files, x, y = gtsrb()
        agree(parsed("gtsrb", files, tmp_path), x, y)

    @pytest.mark.skipif(not DATA, reason="needs the files of SECUREDL_DATA")
    @pytest.mark.parametrize("name", OFFICIAL)
    def test_the_real_values_in_the_official_format(self, name, tmp_path, monkeypatch):
        """Files put into the cache by hand: read, found to be the set, and normalised there."""
        if name == "breast_tissue":
            pytest.importorskip("xlrd")
        monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
        monkeypatch.delenv("SECUREDL_DATA")
        real = datasets.load(name, folder=DATA)
        cache = datasets.cache_folder()
        cache.mkdir(parents=True)
        for file, data in OFFICIAL[name](real.x, real.y).items():
            (cache / file).write_bytes(data)
        monkeypatch.setattr(datasets, "download", lambda *_: pytest.fail("no network is needed"))
        known = CATALOGUE[name]  # without scikit-learn's copy, which would be at hand
        source = replace(known, variants=tuple(replace(v, embedded=None) for v in known.variants))
        path = datasets.fetch(source, progress=False)
        assert path == str(cache / known.full.file)
        data = datasets.load(source)
        assert (data.where, data.variant) == (path, name)
        agree((data.x, data.y), real.x, real.y)
        assert {p.name for p in cache.iterdir()} == {
            Path(path).name,
            *(f.name for f in CATALOGUE[name].files),
        }


def gtsrb() -> tuple[dict[str, bytes], np.ndarray, np.ndarray]:
    """Two training images of classes 0 and 42 and a test image; 32 x 32, which resizing leaves alone."""
    x = RNG.integers(0, 256, (4, 32, 32, 3), dtype=np.uint8)
    train = {
        "GTSRB__Final_Training__Images__00042__00000_00000.ppm": netpbm(x[1]),
        "GTSRB__Final_Training__Images__00000__00000_00001.ppm": netpbm(x[0]),
        "GTSRB__Final_Training__Images__00042__GT-00042.csv": b"Filename;Width\n",
    }
    test = {f"GTSRB__Final_Test__Images__{i:05}.ppm": netpbm(x[2 + i]) for i in (1, 0)}
    truth = b"Filename;Width;Height;Roi.X1;ClassId\r\n00000.ppm;32;32;5;7\r\n00001.ppm;32;32;5;16\r\n"
    files = {
        "GTSRB_Final_Training_Images.zip": zipped(**train),
        "GTSRB_Final_Test_Images.zip": zipped(**test),
        "GTSRB_Final_Test_GT.zip": zipped(**{"GT-final_test.csv": truth}),
    }
    return files, x, np.array([0, 42, 7, 16])


class TestResize:
    @pytest.mark.parametrize("shape", [(15, 15), (25, 32), (64, 64), (61, 250), (1, 1)])
    def test_it_is_bilinear(self, shape):
        """The formula in floating point, written down another way."""
        image = RNG.integers(0, 256, (*shape, 3), dtype=np.uint8)

        def axis(size: int) -> np.ndarray:
            at = np.clip((np.arange(32) + 0.5) * size / 32 - 0.5, 0, size - 1)
            return np.maximum(0, 1 - np.abs(at[:, None] - np.arange(size)))

        exact = np.einsum("ih,hwc,jw->ijc", axis(shape[0]), image, axis(shape[1]))
        assert np.abs(images.resize(image) - exact).max() < 1

    def test_its_own_size_is_left_alone(self):
        image = RNG.integers(0, 256, (32, 32, 3), dtype=np.uint8)
        np.testing.assert_array_equal(images.resize(image), image)


SMALL = {
    **{name: OFFICIAL[name](*fake(name)) for name in TABLES},
    "mnist": mnist(*fake("mnist"), 9),
    "cifar10": {"c.tar.gz": tarred(cifar(*fake("cifar10")))},
    "gtsrb": gtsrb()[0],
}
OPTIONS: dict[str, dict[str, object]] = {"mnist": {"rows": (9, 3)}, "cifar10": {"batch": 2}}


class TestHostile:
    @pytest.mark.parametrize("name", [*SMALL, "orl_faces"])
    @settings(max_examples=25)
    @given(data=st.binary(max_size=200))
    def test_any_bytes(self, name, tmp_path_factory, data):
        files = {file.name: data for file in CATALOGUE[name].files}
        with pytest.raises(FormatError):
            parsed(name, files, tmp_path_factory.mktemp("d"), **OPTIONS.get(name, {}))

    @pytest.mark.parametrize("name", SMALL)
    @settings(max_examples=25)
    @given(
        place=st.floats(0, 1, exclude_max=True), noise=st.binary(min_size=1, max_size=6), cut=st.booleans(),
        which=st.integers(0, 3),
    )  # fmt: skip
    def test_damaged_files(self, name, tmp_path_factory, place, noise, cut, which):
        """Whatever is read from one has the layout that the digest is then computed over."""
        files = dict(SMALL[name])
        file = list(files)[which % len(files)]
        at = int(place * len(files[file]))
        files[file] = files[file][:at] + (b"" if cut else noise + files[file][at + len(noise) :])
        try:
            x, y = parsed(name, files, tmp_path_factory.mktemp("d"), **OPTIONS.get(name, {}))
        except FormatError:
            return
        assert (x.dtype, y.dtype) == (CATALOGUE[name].dtype, np.int64)
        assert len(x) == len(y)
        assert (y >= 0).all()

    @pytest.mark.parametrize(
        "member", ["../wine.data", "/etc/wine.data", "a/../../wine.data", "..\\wine.data", "C:\\wine.data"]
    )
    def test_names_that_lead_outside(self, tmp_path, member):
        with pytest.raises(FormatError, match="names a file outside itself"):
            parsed("wine", {"wine.zip": zipped(**{member: b"1,2"})}, tmp_path)
        tar = tarred({member: b"x"})
        with pytest.raises(FormatError, match="names a file outside itself"):
            parsed("cifar10", {"c.tar.gz": tar}, tmp_path)
        assert {p.name for p in tmp_path.iterdir()} == {"wine.zip", "c.tar.gz"}

    def test_a_zip_bomb(self, tmp_path):
        bomb = zipped(**{"wine.data": bytes(tables.LIMIT + 1)})
        assert len(bomb) < 50_000
        with pytest.raises(FormatError, match="longer than 16777216 bytes"):
            parsed("wine", {"wine.zip": bomb}, tmp_path)

    def test_a_bomb_that_lies_about_its_size(self, tmp_path):
        bomb = bytearray(zipped(**{"wine.data": bytes(tables.LIMIT + 1)}))
        at = bomb.rindex(b"PK\x01\x02")
        bomb[at + 24 : at + 28] = struct.pack("<I", 100)
        with pytest.raises(FormatError, match="damaged"):
            parsed("wine", {"wine.zip": bytes(bomb)}, tmp_path)

    def test_too_many_members(self, tmp_path, monkeypatch):
        monkeypatch.setattr(archives, "MOST_MEMBERS", 2)
        with pytest.raises(FormatError, match="3 files in one archive"):
            parsed("wine", {"wine.zip": wine(*fake("wine"))}, tmp_path)

    def test_a_tar_bomb(self, tmp_path):
        """A member that nobody wants is still unpacked on the way to the next."""
        with pytest.raises(FormatError, match=r"unpacks to more than \d+ bytes"):
            parsed("cifar10", {"c.tar.gz": tarred({"other": bytes(8 << 20)})}, tmp_path, batch=2)

    def test_a_gzip_bomb(self, tmp_path):
        files = mnist(*fake("mnist"), 9)
        files["train-labels-idx1-ubyte.gz"] = gzip.compress(bytes(1 << 20))
        with pytest.raises(FormatError, match="longer than 73 bytes"):
            parsed("mnist", files, tmp_path, rows=(9, 3))

    @pytest.mark.parametrize(
        ("type", "words"), [(tarfile.SYMTYPE, "no plain file"), (tarfile.FIFOTYPE, "no plain")]
    )
    def test_members_that_are_no_files(self, tmp_path, type, words):
        tar = tarred({"data_batch_1.bin": b""}, type=type, linkname="/etc/passwd")
        with pytest.raises(FormatError, match=words):
            parsed("cifar10", {"c.tar.gz": tar}, tmp_path, batch=2)

    def test_a_pickle_is_not_opened(self, tmp_path):
        bomb = b"cos\nabort\n(tR."
        tar = tarred({f"cifar-10-batches-py/{n}": bomb for n in ("data_batch_1", "test_batch")})
        with pytest.raises(FormatError, match=r"lacks data_batch_1\.bin"):
            parsed("cifar10", {"c.tar.gz": tar}, tmp_path)

    def test_an_encrypted_member(self, tmp_path):
        data = bytearray(wine(*fake("wine")))
        for mark, offset in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
            at = -1
            while (at := data.find(mark, at + 1)) >= 0:
                data[at + offset] |= 1
        with pytest.raises(FormatError, match="encrypted"):
            parsed("wine", {"wine.zip": bytes(data)}, tmp_path)

    @pytest.mark.parametrize(
        ("name", "old", "new", "words"),
        [
            ("crabs", b'"FL","RW"', b'"RW","FL"', "does not have the columns"),
            ("crabs", b'"B"', b'"X"', "'X' is no finite number"),
            ("crabs", b'"M"', b'"?"', r"the label '\?' is none of F, M"),
            ("crabs", b'"1","B"', b'"B"', "a row does not have 9 columns"),
            ("pima", b"@data", b"@dat", "0 lines @data"),
            ("pima", b",tested_positive\n", b",maybe\n", "'maybe' is none of"),
            ("ovarian", b",1,0\n", b",1,1\n", "must be the two targets"),
        ],
    )
    def test_text_that_is_wrong(self, tmp_path, name, old, new, words):
        (file, data), *_ = SMALL[name].items()
        assert old in data
        with pytest.raises(FormatError, match=words):
            parsed(name, {file: data.replace(old, new, 1)}, tmp_path)

    def test_a_header_of_other_columns(self, tmp_path):
        data = climate(*fake("climate_crashes")).replace(b"Study", b"study", 1)
        parsed("climate_crashes", {"c": data}, tmp_path)
        with pytest.raises(FormatError, match="does not begin with the columns Study, Run"):
            parsed("climate_crashes", {"c": data.split(b"\n", 1)[1]}, tmp_path)

    @pytest.mark.parametrize(
        ("data", "words"),
        [
            (b"P2\n2 2\n255\n0 0 0 0", "no binary PGM"),
            (b"P5\n2 2\n65535\n" + bytes(8), "no binary PGM"),
            (b"P5\n2 2\n254\n" + bytes(4), "of 8 bits"),
            (b"P5\n2 2\n255\n" + bytes(3), "3 bytes of pixels"),
            (b"P5\n9999 9999\n255\n" + bytes(4), "4 bytes of pixels"),
            (b"P5\n0 2\n255\n", "0 bytes of pixels"),
            (b"P6\n1 1\n255\n" + bytes(1), "1 bytes of pixels"),
            (b"P5" + b" " * 100_000, "no binary PGM"),
            (b"P5" + b"#\n" * 100_000, "no binary PGM"),
        ],
    )
    def test_images_that_are_none(self, data, words):
        with pytest.raises(FormatError, match=words):
            images.netpbm(data, "x")

    def test_a_comment_in_an_image(self):
        data = b"P5\n# made by hand\n3 2\n255\n" + bytes(range(6))
        np.testing.assert_array_equal(images.netpbm(data, "x"), np.arange(6).reshape(2, 3))

    def test_signs_without_labels(self, tmp_path):
        files, *_ = gtsrb()
        files["GTSRB_Final_Test_GT.zip"] = zipped(**{"GT-final_test.csv": b"Filename;ClassId\n00000.ppm;7\n"})
        with pytest.raises(FormatError, match="do not fit"):
            parsed("gtsrb", files, tmp_path)

    def test_without_xlrd(self, tmp_path, monkeypatch):
        monkeypatch.setitem(sys.modules, "xlrd", None)
        with pytest.raises(InputError, match=r"needs xlrd: run pip install 'securedl\[data\]'"):
            parsed("breast_tissue", {"b.xls": xls(*fake("breast_tissue"))}, tmp_path)

    def test_zlib_streams_that_break(self, tmp_path):
        data = gzip.compress(b"x" * 100)
        broken = data[:12] + bytes([data[12] ^ 0xFF]) + data[13:]
        with pytest.raises((zlib.error, OSError, EOFError)):
            gzip.decompress(broken)
        path = tmp_path / "x.gz"
        path.write_bytes(broken)
        with pytest.raises(FormatError, match="no gzip file, or a damaged one"):
            archives.gunzip(path, 1000)
