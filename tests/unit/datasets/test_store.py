"""Normalised files: the real ones against what is known of them, and damaged ones, which are refused."""

from __future__ import annotations

import gzip
import hashlib
import io
import os
import struct
import zipfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from securedl import datasets
from securedl.datasets import CATALOGUE, Source, Variant, store
from securedl.errors import FormatError, InputError

DATA = os.environ.get("SECUREDL_DATA")
real = pytest.mark.skipif(not DATA, reason="needs the files of SECUREDL_DATA")

#: Rows of each class, from the papers and the pages of the sets.
COUNTS = {
    "breast_tissue": (22, 21, 14, 15, 16, 18),
    "crabs": (100, 100),
    "ovarian": (95, 121),
    "wine": (59, 71, 48),
    "climate_crashes": (46, 494),
    "fertility": (88, 12),
    "wdbc": (212, 357),
    "iris": (50, 50, 50),
    "optdigits": (554, 571, 557, 572, 568, 558, 558, 566, 554, 562),
    "pima": (500, 268),
    "spambase": (2788, 1813),
    "mnist": (6903, 7877, 6990, 7141, 6824, 6313, 6876, 7293, 6825, 6958),
    "cifar10_subset": (1200,) * 10,
    "gtsrb_subset": (182,) * 43,
    "orl_faces": (10,) * 40,
}


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch) -> Path:
    """An empty cache."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.delenv("SECUREDL_DATA", raising=False)
    return tmp_path / "securedl" / "datasets"


def load(name: str, **options) -> datasets.Dataset:
    return datasets.load(name, folder=DATA, progress=False, **options)


class TestCatalogue:
    def test_the_fifteen(self):
        assert datasets.names() == tuple(CATALOGUE) == (
            "breast_tissue", "crabs", "ovarian", "wine", "climate_crashes", "fertility", "wdbc", "iris",
            "optdigits", "pima", "spambase", "mnist", "cifar10", "gtsrb", "orl_faces",
        )  # fmt: skip

    @pytest.mark.parametrize("source", CATALOGUE.values(), ids=list(CATALOGUE))
    def test_an_entry_is_complete(self, source):
        assert all((source.title, source.licence, source.citation))
        assert source.page.startswith("http")
        assert len(source.features) == (source.sample[0] if source.table else 0)
        assert len(set(source.classes)) == len(source.classes) >= 2
        assert all(v.digest or (v.counts and all(f.checksum for f in source.files)) for v in source.variants)
        assert all(sum(v.counts) in (0, v.rows) for v in source.variants)
        assert all(file.urls or source.by_hand for file in source.files)
        assert (source.parse is not None) == bool(source.files)
        assert source.files or source.full.embedded
        assert source.table or all(v.train_rows for v in source.variants)

    def test_files_do_not_clash(self):
        files = [v.file for s in CATALOGUE.values() for v in s.variants]
        files += [f.name for s in CATALOGUE.values() for f in s.files]
        assert len(set(files)) == len(files)

    def test_an_unknown_name(self):
        with pytest.raises(InputError, match="'irs' is unknown: use one of breast_tissue, crabs"):
            datasets.load("irs")

    def test_an_unknown_variant(self):
        with pytest.raises(InputError, match="no variant 'half': use one of cifar10, cifar10_subset"):
            datasets.load("cifar10", variant="half")

    def test_a_folder_that_is_none(self, monkeypatch, tmp_path):
        monkeypatch.setenv("SECUREDL_DATA", str(tmp_path / "none"))
        with pytest.raises(InputError, match=r"SECUREDL_DATA names .*none, which is no folder"):
            datasets.load("wine")
        with pytest.raises(InputError, match="folder names"):
            datasets.load("wine", folder=tmp_path / "none")


class TestEmbedded:
    @pytest.mark.parametrize("name", ["wine", "wdbc", "iris"])
    def test_without_any_file(self, name):
        data = datasets.load(name)
        assert (data.where, data.variant, data.train_rows) == ("scikit-learn", name, None)
        assert data.x.dtype == np.float64
        assert data.y.dtype == np.int64
        assert tuple(np.bincount(data.y)) == COUNTS[name]
        assert len(data.feature_names) == data.x.shape[1]
        assert [p.kind for p in datasets.where(name)] == ["scikit-learn"]

    def test_names_stand_by_their_columns(self):
        from sklearn.datasets import load_breast_cancer

        data, theirs = datasets.load("wdbc"), load_breast_cancer()
        words = [set(name.replace(" ", "_").split("_")) for name in theirs.feature_names]
        assert [set(name.split("_")) for name in data.feature_names] == words
        assert data.class_names == tuple(theirs.target_names)

    def test_a_part_is_given_to_those_who_ask(self):
        data = datasets.load("optdigits", variant="digits")
        assert (data.name, data.variant, data.x.shape) == ("optdigits", "digits", (1797, 64))
        assert datasets.where("optdigits") == []

    def test_another_release_of_scikit_learn(self):
        full = replace(CATALOGUE["iris"].full, digest="0" * 64)
        with pytest.raises(FormatError, match="scikit-learn's load_iris reads like iris, but its values"):
            datasets.load(replace(CATALOGUE["iris"], variants=(full,)))

    def test_no_official_split(self):
        with pytest.raises(InputError, match="wine has no official split: draw one, with a seed"):
            datasets.load("wine").split()


@real
class TestRealFiles:
    @pytest.mark.parametrize("name", CATALOGUE)
    def test_what_is_known_of_all(self, name):
        data = load(name)
        assert tuple(np.bincount(data.y)) == COUNTS[data.variant]
        assert len(data.x) == len(data.y) == sum(COUNTS[data.variant])
        assert data.x.dtype == (np.float64 if data.feature_names else np.uint8)
        assert data.x.shape[1:] == CATALOGUE[name].sample
        if name not in ("wdbc", "iris"):
            assert Path(data.where).parent == Path(DATA)
        if data.train_rows is not None:
            x_train, y_train, x_test, y_test = data.split()
            assert len(x_train) == len(y_train) == data.train_rows
            assert len(x_test) == len(y_test) == len(data.x) - data.train_rows

    def test_crabs(self):
        data = load("crabs")
        np.testing.assert_allclose(
            data.x[:, 1:].mean(axis=0), [15.583, 12.739, 32.106, 36.415, 14.031], atol=6e-4
        )
        for species in (0, 1):
            assert tuple(np.bincount(data.y[data.x[:, 0] == species])) == (50, 50)

    def test_pima(self):
        known = [3.845, 120.895, 69.105, 20.536, 79.799, 31.993, 0.472, 33.241]
        np.testing.assert_allclose(load("pima").x.mean(axis=0), known, atol=6e-4)

    def test_spambase(self):
        data = load("spambase")
        assert data.x[:, data.feature_names.index("capital_run_length_total")].mean() == pytest.approx(
            283.289, abs=6e-4
        )

    def test_climate_parameters_are_scaled(self):
        x = load("climate_crashes").x
        assert 0 <= x.min() < x.max() <= 1

    def test_wine_is_scikit_learns(self):
        ours, theirs = load("wine"), datasets.load("wine")
        assert (ours.where, theirs.where) == (str(Path(DATA) / "wine.csv.gz"), "scikit-learn")
        np.testing.assert_array_equal(ours.x, theirs.x)
        np.testing.assert_array_equal(ours.y, theirs.y)

    def test_digits_is_the_test_part_of_optdigits(self):
        *_, x_test, y_test = load("optdigits").split()
        digits = datasets.load("optdigits", variant="digits")
        np.testing.assert_array_equal(x_test, digits.x)
        np.testing.assert_array_equal(y_test, digits.y)

    def test_mnist_has_the_official_bytes(self):
        x_train, y_train, x_test, y_test = load("mnist").split()

        def md5(values: np.ndarray) -> str:
            head = struct.pack(f">4B{values.ndim}I", 0, 0, 8, values.ndim, *values.shape)
            return hashlib.md5(head + values.astype(np.uint8).tobytes()).hexdigest()

        assert md5(x_train) == "6bbc9ace898e44ae57da46a324031adb"
        assert md5(y_train) == "a25bea736e30d166cdddb491f175f624"
        assert md5(x_test) == "2646ac647ad5339dbf082846283269ea"
        assert md5(y_test) == "27ae3e4e09519cfbb04c329615203637"

    def test_mean_colour_of_cifar10(self):
        x_train = load("cifar10").split()[0]
        np.testing.assert_allclose(x_train.mean(axis=(0, 1, 2)) / 255, (0.4919, 0.4822, 0.4461), atol=6e-4)

    def test_mean_colour_of_gtsrb(self):
        """The published mean is of the whole training part: the subset's classes are weighted as there."""
        x_train, y_train, *_ = load("gtsrb").split()
        means = [x_train[y_train == k].mean(axis=(0, 1, 2)) / 255 for k in range(43)]
        weights = np.array(CATALOGUE["gtsrb"].full.counts)
        np.testing.assert_allclose(weights @ means / weights.sum(), (0.340, 0.312, 0.321), atol=2e-3)

    @pytest.mark.parametrize("name", ["cifar10", "gtsrb"])
    def test_a_subset_says_so_and_can_be_refused(self, name, monkeypatch):
        assert load(name).variant == f"{name}_subset"
        monkeypatch.setattr(datasets, "_get", lambda *_: pytest.fail("would download"))
        with pytest.raises(pytest.fail.Exception, match="would download"):
            load(name, variant=name)

    def test_orl_faces_tell_people_apart(self):
        x_train, y_train, x_test, y_test = load("orl_faces").split()
        a, b = (x.reshape(len(x), -1).astype(np.float64) for x in (x_train, x_test))
        distance = (a**2).sum(axis=1) - 2 * b @ a.T
        assert np.mean(y_train[distance.argmin(axis=1)] == y_test) == pytest.approx(0.95)

    def test_where(self, monkeypatch):
        monkeypatch.setenv("SECUREDL_DATA", DATA)
        assert [(p.kind, p.variant) for p in datasets.where("gtsrb")] == [("SECUREDL_DATA", "gtsrb_subset")]
        assert [p.kind for p in datasets.where("wine")] == ["SECUREDL_DATA", "scikit-learn"]
        assert datasets.fetch("wine") == str(Path(DATA) / "wine.csv.gz")


TABLE = Source(
    "tiny",
    "t",
    (3,),
    ("a", "b"),
    "l",
    "c",
    "https://p",
    (Variant("tiny", "tiny.csv.gz", 4),),
    ("p", "q", "r"),
)
IMAGES = Source(
    "dots", "t", (2, 3), ("a", "b"), "l", "c", "https://p", (Variant("dots", "dots.npz", 5, 3),)
)  # fmt: skip
NUMBERS = st.floats(allow_infinity=False, width=64)
PIXELS = np.arange(30, dtype=np.uint8).reshape(5, 2, 3)
LABELS = np.array([0, 1, 0, 1, 1])


def with_digest(source: Source, x: np.ndarray, y: np.ndarray) -> Source:
    return replace(source, variants=(replace(source.full, digest=store.digest(x, y)),))


class TestDigest:
    @given(arrays(np.float64, (4, 3), elements=NUMBERS), arrays(np.int64, 4, elements=st.integers(0, 1)))
    def test_a_table_survives_the_file(self, tmp_path_factory, x, y):
        path = tmp_path_factory.mktemp("d") / "tiny.csv.gz"
        source = with_digest(TABLE, x, y)
        store.write(source, source.full, x, y, path)
        again, labels = store.read_table(source, source.full, path)
        np.testing.assert_array_equal(again, x)
        np.testing.assert_array_equal(labels, y)

    @given(st.integers(0, 11), st.integers(0, 63))
    def test_it_sees_every_bit(self, place, bit):
        x = np.linspace(1, 2, 12).reshape(4, 3)
        other = x.copy()
        other.reshape(-1).view(np.uint64)[place] ^= np.uint64(1 << bit)
        assert store.digest(x) != store.digest(other)

    def test_it_sees_shape_type_and_order(self):
        x = np.arange(6, dtype=np.uint8)
        digests = [
            store.digest(v) for v in (x, x.reshape(2, 3), x.reshape(3, 2), x.astype(np.int64), x[::-1])
        ]
        digests += [store.digest(x, x), store.digest(np.concatenate([x, x]))]
        assert len(set(digests)) == 7

    def test_it_does_not_see_how_numpy_holds_them(self):
        x = np.arange(6.0).reshape(2, 3)
        assert store.digest(x) == store.digest(np.asfortranarray(x)) == store.digest(x.astype(">f8"))
        assert store.digest(np.array([-0.0, -np.nan])) == store.digest(np.array([0.0, np.nan]))

    def test_known_answer(self):
        """Bytes written out by hand: type, shape, little-endian values."""
        expected = hashlib.sha256(b"<i8 (2,) " + struct.pack("<2q", 1, 2)).hexdigest()
        assert store.digest(np.array([1, 2])) == expected


class TestHostileTables:
    GOOD = b"p,q,r,label\n1,2,3,0\n1,,3,1\n1,2,3e1,1\n-1,2,.5,0\n"

    def read(self, tmp_path, text: bytes, source: Source = TABLE):
        path = tmp_path / "tiny.csv.gz"
        path.write_bytes(gzip.compress(text))
        return store.read_table(source, source.full, path)

    def test_the_good_one(self, tmp_path):
        x, y = self.read(tmp_path, self.GOOD)
        np.testing.assert_array_equal(x, [[1, 2, 3], [1, np.nan, 3], [1, 2, 30], [-1, 2, 0.5]])
        np.testing.assert_array_equal(y, [0, 1, 1, 0])

    @pytest.mark.parametrize(
        ("old", "new", "words"),
        [
            (b"p,q,r", b"p,r,q", "the header is not p, q, r, label|the header is not"),
            (b"3e1", b"inf", "row 3: 'inf' is no finite number"),
            (b"3e1", b"3e999", "no finite number"),
            (b"3e1", b"1_0", "no finite number"),
            (b"3e1", "٣".encode(), "no finite number"),
            (b"3e1", b"=cmd()", "no finite number"),
            (b"3e1", b"9" * 5000, "no finite number"),
            (b"1,2,3,0", b"1,2,3,2", "row 1: the label '2' is none of 0, 1"),
            (b"1,2,3,0", b"1,2,3,1.0", "the label '1.0' is none"),
            (b"1,2,3,0", b"1,2,0", "row 2: 3 features; the first row has 2"),
            (b"1,2,3,0\n", b"", r"holds x \(3, 3\) and y \(3,\); tiny has \(4, 3\)"),
            (b"1,2,3,0", b'1,2,"3,0', "tiny"),
            (b"1,2,3,0", b"\xff,2,3,0", "is no text"),
            (b"1,2,3,0", b"\x00,2,3,0", "."),
            (GOOD, b"", "the header is not"),
            (GOOD, b"p,q,r,label\n", "holds no rows"),
        ],
    )
    def test_what_is_refused(self, tmp_path, old, new, words):
        assert old in self.GOOD
        with pytest.raises(FormatError, match=words):
            self.read(tmp_path, self.GOOD.replace(old, new, 1))

    def test_a_wrong_value(self, tmp_path):
        source = with_digest(TABLE, *self.read(tmp_path, self.GOOD))
        self.read(tmp_path, self.GOOD, source)
        with pytest.raises(FormatError, match="reads like tiny, but its values are others"):
            self.read(tmp_path, self.GOOD.replace(b"3e1", b"31"), source)

    def test_a_bomb(self, tmp_path):
        with pytest.raises(FormatError, match="longer than 16777216 bytes"):
            self.read(tmp_path, b"1," * (9 << 20))

    def test_a_product_that_does_not_fit_in_memory(self, tmp_path):
        wide = b"p,q,r,label\n" + b"1," * (1 << 18) + b"0\n" + b"1,0\n" * (1 << 18)
        with pytest.raises(FormatError, match="row 2: 1 features"):
            self.read(tmp_path, wide)

    @settings(max_examples=60)
    @given(st.binary(max_size=300))
    def test_any_bytes(self, tmp_path_factory, data):
        path = tmp_path_factory.mktemp("d") / "tiny.csv.gz"
        for content in (data, gzip.compress(data), gzip.compress(b"p,q,r,label\n" + data)):
            path.write_bytes(content)
            with pytest.raises(FormatError):
                store.read_table(TABLE, TABLE.full, path)

    def test_no_file_and_a_folder(self, tmp_path):
        with pytest.raises(InputError, match="there is no file"):
            store.read_table(TABLE, TABLE.full, tmp_path / "tiny.csv.gz")
        with pytest.raises(InputError, match="cannot read"):
            store.read_table(TABLE, TABLE.full, tmp_path)


class TestHostileImages:
    def write(self, path: Path, **changes: np.ndarray | None) -> None:
        parts: dict[str, Any] = {"x_train": PIXELS[:3], "y_train": LABELS[:3].astype(np.uint8)}
        parts |= {"x_test": PIXELS[3:], "y_test": LABELS[3:].astype(np.uint8)} | changes
        np.savez(path, **{k: v for k, v in parts.items() if v is not None})

    def test_a_round_trip(self, tmp_path):
        path, source = tmp_path / "dots.npz", with_digest(IMAGES, PIXELS, LABELS)
        store.write(source, source.full, PIXELS, LABELS, path)
        x, y = store.read_table(source, source.full, path)
        np.testing.assert_array_equal(x, PIXELS)
        np.testing.assert_array_equal(y, LABELS)
        with np.load(path, allow_pickle=False) as file:
            assert {*file} == {"x_train", "y_train", "x_test", "y_test", "class_names"}
            assert list(file["class_names"]) == ["a", "b"]

    @pytest.mark.parametrize(
        ("changes", "words"),
        [
            ({"x_train": None}, "x_train"),
            ({"x_train": PIXELS}, r"x_train is uint8 \(5, 2, 3\); expected uint8 \(3, 2, 3\)"),
            ({"x_train": PIXELS[:3].astype(float)}, "x_train is float64"),
            ({"x_train": np.asfortranarray(PIXELS[:3])}, "x_train"),
            ({"y_test": np.array([None, {}], dtype=object)}, "y_test is object"),
            ({"y_test": np.array([1, 2], dtype=np.uint8)}, r"a label outside 0\.\.1"),
        ],
    )
    def test_what_is_refused(self, tmp_path, changes, words):
        path = tmp_path / "dots.npz"
        self.write(path, **changes)
        with pytest.raises(FormatError, match=words):
            store.read_table(IMAGES, IMAGES.full, path)

    def test_other_values_and_other_counts(self, tmp_path):
        path = tmp_path / "dots.npz"
        self.write(path)
        for form in (replace(IMAGES.full, digest="0" * 64), replace(IMAGES.full, counts=(3, 2))):
            with pytest.raises(FormatError, match=r"its values are others|rows of each class"):
                store.read_table(IMAGES, form, path)
        store.read_table(IMAGES, replace(IMAGES.full, counts=(2, 3)), path)

    @pytest.mark.parametrize(
        "header",
        [
            b"{'descr': '|u1', 'fortran_order': False, 'shape': (3, 2, 3000000000000), }",
            b"{'descr': '|O', 'fortran_order': False, 'shape': (3, 2, 3), }",
            b"{'descr': '|u1', 'fortran_order': False, 'shape': (3L, 2, 3), }",
            b"{'descr': '|u1', 'fortran_order': False, 'shape': (3, 2, -3), }",
            b"__import__('os').abort()",
            b"(" * 3000,
        ],
    )
    def test_a_header_that_lies(self, tmp_path, header):
        path = tmp_path / "dots.npz"
        self.write(path, x_train=None)
        with zipfile.ZipFile(path, "a") as file:
            file.writestr(
                "x_train.npy", b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header)) + header + bytes(18)
            )
        with pytest.raises(FormatError, match=r"x_train|damaged"):
            store.read_table(IMAGES, IMAGES.full, path)

    @pytest.mark.parametrize("length", [17, 19, 1 << 20])
    def test_other_than_the_pixels_it_promises(self, tmp_path, length):
        path, buffer = tmp_path / "dots.npz", io.BytesIO()
        self.write(path, x_train=None)
        np.save(buffer, PIXELS[:3])
        with zipfile.ZipFile(path, "a", zipfile.ZIP_DEFLATED) as file:
            file.writestr("x_train.npy", buffer.getvalue()[:-18] + bytes(length))
        with pytest.raises(FormatError, match="other than the 18 bytes of its header"):
            store.read_table(IMAGES, IMAGES.full, path)

    @settings(max_examples=150)
    @given(st.integers(0, 1 << 20), st.integers(0, 255), st.integers(0, 40))
    def test_any_change_is_seen(self, tmp_path_factory, place, value, cut):
        path, source = tmp_path_factory.mktemp("d") / "dots.npz", with_digest(IMAGES, PIXELS, LABELS)
        self.write(path)
        data = bytearray(path.read_bytes())
        data[place % len(data)] = value
        path.write_bytes(data[: len(data) - cut])
        try:
            x, y = store.read_table(source, source.full, path)
        except FormatError:
            return
        np.testing.assert_array_equal(x, PIXELS)
        np.testing.assert_array_equal(y, LABELS)


class TestWritingWhole:
    @pytest.mark.parametrize("error", [KeyboardInterrupt, OSError(28, "No space left on device")])
    @pytest.mark.parametrize("source", [TABLE, IMAGES], ids=str)
    def test_nothing_half_written(self, tmp_path, monkeypatch, source, error):
        x, y = (np.ones((4, 3)), LABELS[:4]) if source.table else (PIXELS, LABELS)
        path = tmp_path / source.full.file
        path.write_bytes(b"old")

        def fail(fd: int) -> None:
            raise error

        monkeypatch.setattr(os, "fsync", fail)
        with pytest.raises((KeyboardInterrupt, InputError), match=r"|No space left"):
            store.write(source, source.full, x, y, path)
        assert [(p.name, p.read_bytes()) for p in tmp_path.iterdir()] == [(path.name, b"old")]

    def test_no_folder(self, tmp_path):
        with pytest.raises(InputError, match=r"cannot write .*: there is no folder "):
            store.write(TABLE, TABLE.full, np.ones((4, 3)), LABELS[:4], tmp_path / "none" / "tiny.csv.gz")


def test_the_complete_set_goes_before_a_part(tmp_path, cache):
    """A part in the folder of the user does not hide the complete set in the cache."""
    part = replace(IMAGES.full, name="part", file="part.npz", rows=3, train_rows=2)
    source = replace(IMAGES, variants=(IMAGES.full, part))
    (tmp_path / "mine").mkdir()
    store.write(source, part, PIXELS[:3], LABELS[:3], tmp_path / "mine" / "part.npz")

    def found() -> tuple[str, str]:
        (first, *_) = datasets.where(source, folder=tmp_path / "mine")
        data = datasets.load(source, folder=tmp_path / "mine")
        assert (data.variant, data.where) == (first.variant, str(first.path))
        assert len(data.x) == {"dots": 5, "part": 3}[data.variant]
        return first.kind, first.variant

    assert found() == ("SECUREDL_DATA", "part")
    cache.mkdir(parents=True)
    store.write(source, source.full, PIXELS, LABELS, cache / "dots.npz")
    assert found() == ("cache", "dots")
    store.write(source, source.full, PIXELS, LABELS, tmp_path / "mine" / "dots.npz")
    assert found() == ("SECUREDL_DATA", "dots")


@pytest.mark.parametrize("source", [TABLE, IMAGES], ids=str)
def test_a_damaged_file_of_the_user_is_refused_and_kept(tmp_path, source):
    path = tmp_path / source.full.file
    path.write_bytes(b"PK\x03\x04 damaged")
    with pytest.raises(FormatError, match="Files of SECUREDL_DATA are never changed: replace or remove it"):
        datasets.load(source, folder=tmp_path)
    assert path.read_bytes() == b"PK\x03\x04 damaged"
    assert [*tmp_path.iterdir()] == [path]
