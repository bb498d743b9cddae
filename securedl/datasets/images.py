"""Images as their official sources write them: x uint8 [rows, height, width(, 3)], y int64 [rows]."""

from __future__ import annotations

import re
import struct
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from securedl.datasets.archives import gunzip, member, tar_members, zip_members
from securedl.datasets.source import Arrays, DataArray
from securedl.datasets.tables import cells
from securedl.errors import FormatError

SIDE = 32


def _idx(path: Path, shape: tuple[int, ...]) -> DataArray:
    """An IDX file of bytes: magic, the sizes, the values, in big-endian order."""
    size = int(np.prod(shape))
    data = gunzip(path, size + 64)
    head = struct.pack(f">BBBB{len(shape)}I", 0, 0, 8, len(shape), *shape)
    if data[: len(head)] != head or len(data) != len(head) + size:
        raise FormatError(f"{path.name} is no IDX file of {' x '.join(map(str, shape))} bytes")
    return np.frombuffer(data, dtype=np.uint8, offset=len(head)).reshape(shape)


def mnist(files: Mapping[str, Path], rows: tuple[int, int] = (60000, 10000)) -> Arrays:
    """Four IDX files."""
    parts = list(zip(("train", "t10k"), rows, strict=True))
    x = [_idx(files[f"{part}-images-idx3-ubyte.gz"], (n, 28, 28)) for part, n in parts]
    y = [_idx(files[f"{part}-labels-idx1-ubyte.gz"], (n,)) for part, n in parts]
    return np.concatenate(x), np.concatenate(y).astype(np.int64)


def cifar10(files: Mapping[str, Path], batch: int = 10000) -> Arrays:
    """The binary version: six files of records, each a label and 3 x 32 x 32 bytes, colour by colour.

    The Python version is a pickle, and to open one is to run a program: it is not supported.
    """
    (path,) = files.values()
    record = 1 + 3 * SIDE * SIDE
    names = [*(f"data_batch_{i}.bin" for i in range(1, 6)), "test_batch.bin"]
    found = tar_members(path, set(names), limit=batch * record, total=8 * batch * record + (1 << 20))
    for name in names:
        if len(found[name]) != batch * record:
            raise FormatError(
                f"{path.name}: {name} has {len(found[name])} bytes; expected {batch} records of {record}"
            )
    table = np.frombuffer(b"".join(found[name] for name in names), dtype=np.uint8).reshape(-1, record)
    x = table[:, 1:].reshape(-1, 3, SIDE, SIDE).transpose(0, 2, 3, 1)
    return np.ascontiguousarray(x), table[:, 0].astype(np.int64)


_NETPBM = re.compile(rb"(P[56])(?:\s|#[^\n]{0,200}\n)+(\d{1,4})\s+(\d{1,4})\s+(\d{1,3})\s")


def netpbm(data: bytes, where: str) -> DataArray:
    """A binary PGM [height, width] or PPM [height, width, 3] with 8 bits a value."""
    head = _NETPBM.match(data[:1000])
    if head is None or int(head[4]) != 255:
        raise FormatError(f"{where} is no binary PGM or PPM image of 8 bits")
    shape = (int(head[3]), int(head[2]), *((3,) if head[1] == b"P6" else ()))
    if 0 in shape or len(data) - head.end() != np.prod(shape):
        raise FormatError(f"{where} has {len(data) - head.end()} bytes of pixels; its header says {shape}")
    return np.frombuffer(data, dtype=np.uint8, offset=head.end()).reshape(shape)


_FACE = re.compile(r"(?:^|/)s([1-9]\d?)/([1-9]\d?)\.pgm$", re.IGNORECASE)


def orl(files: Mapping[str, Path]) -> Arrays:
    """`sP/N.pgm`: image N of person P. Images 1 to 8 of each person are the training part, our choice."""
    (path,) = files.values()
    images: dict[tuple[int, int], DataArray] = {}
    for name, data in zip_members(path, lambda name: _FACE.search(name) is not None, 1 << 16):
        match = _FACE.search(name)
        assert match is not None
        key = (int(match[1]), int(match[2]))
        if key in images or key[0] > 40 or key[1] > 10:
            raise FormatError(f"{path.name}: {name} is there twice, or is none of 40 people's 10 images")
        images[key] = netpbm(data, name)
        if images[key].shape != (112, 92):
            raise FormatError(f"{path.name}: {name} is {images[key].shape}; expected (112, 92)")
    if len(images) != 400:
        raise FormatError(f"{path.name} holds {len(images)} images sP/N.pgm; expected 400")
    order = [(p, n) for part in (range(1, 9), (9, 10)) for p in range(1, 41) for n in part]
    return np.stack([images[key] for key in order]), np.array([p - 1 for p, _ in order], dtype=np.int64)


def resize(image: DataArray, side: int = SIDE) -> DataArray:
    """To side x side, bilinear between the four nearest pixels, as OpenCV's INTER_LINEAR does it.

    Weights have 11 bits, as in OpenCV 4; another build of OpenCV may differ by one grey level.
    """

    def weights(size: int) -> tuple[DataArray, DataArray, DataArray]:
        at = (np.arange(side) + 0.5) * (size / side) - 0.5
        low = np.floor(at).astype(np.int64)
        part = np.where((low < 0) | (low >= size - 1), 0.0, at - low)
        low = np.clip(low, 0, size - 1)
        right = np.rint(part.astype(np.float32) * 2048).astype(np.int64)
        return low, np.minimum(low + 1, size - 1), right

    rows, below, down = weights(image.shape[0])
    columns, beside, right = weights(image.shape[1])
    wide = image.astype(np.int64)
    wide = wide[:, columns] * (2048 - right)[:, None] + wide[:, beside] * right[:, None]
    down = down[:, None, None]
    upper, lower = ((2048 - down) * (wide[rows] >> 4)) >> 16, (down * (wide[below] >> 4)) >> 16
    resized: DataArray = np.clip((upper + lower + 2) >> 2, 0, 255).astype(np.uint8)
    return resized


_SIGN = re.compile(r"(?:^|/)(\d{5})/(\d{5}_\d{5})\.ppm$")
_TEST_SIGN = re.compile(r"(?:^|/)(\d{5})\.ppm$")


def gtsrb(files: Mapping[str, Path]) -> Arrays:
    """Whole images (no cut to the sign's box), resized to 32 x 32, in the order of class and file name."""

    def images(name: str, pattern: re.Pattern[str]) -> dict[tuple[str, ...], DataArray]:
        found = {}
        for inner, data in zip_members(files[name], lambda n: pattern.search(n) is not None, 1 << 20):
            match = pattern.search(inner)
            assert match is not None
            image = netpbm(data, inner)
            if image.ndim != 3 or max(image.shape) > 1024:
                raise FormatError(f"{inner}: {image.shape} is no colour image of up to 1024 pixels a side")
            found[match.groups()] = resize(image)
        return dict(sorted(found.items()))

    train = images("GTSRB_Final_Training_Images.zip", _SIGN)
    test = images("GTSRB_Final_Test_Images.zip", _TEST_SIGN)
    name = "GT-final_test.csv"
    table = cells(member(files["GTSRB_Final_Test_GT.zip"], name, 1 << 22), name, ";")[1:]
    truth = {row[0].removesuffix(".ppm"): row[-1] for row in table}
    if not train or truth.keys() != {key[0] for key in test}:
        raise FormatError(f"the test images ({len(test)}) and {name} ({len(truth)} rows) do not fit")
    labels = [*(group for group, _ in train), *(truth[key[0]] for key in test)]
    if not all(label.isascii() and label.isdigit() and len(label) <= 5 for label in labels):
        raise FormatError(f"{name}: a class is no number")
    return np.stack([*train.values(), *test.values()]), np.array([int(v) for v in labels], dtype=np.int64)
