"""The coefficient form on integers: products of polynomials against torch's convolution."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from securedl.errors import CompileError
from securedl.network.geometry import Axis, Geometry
from securedl.plan.bands import Bands

Array = NDArray[np.float64]


class Ring:
    """Real polynomials modulo X^N + 1, by their values at its complex roots."""

    def __init__(self, size: int) -> None:
        self.size = size
        self._turn = np.exp(1j * np.pi * np.arange(size) / size)

    def values(self, coefficients: Array) -> Any:
        return np.fft.fft(coefficients * self._turn)

    def back(self, values: Any) -> Array:
        return np.asarray((np.fft.ifft(values) / self._turn).real)

    def moved(self, a: Array, power: int) -> Array:
        """a · X^power, power below N."""
        return np.concatenate([-a[self.size - power :], a[: self.size - power]]) if power else a

    def automorphism(self, a: Array, element: int) -> Array:
        at = np.arange(self.size) * element % (2 * self.size)
        out = np.zeros(self.size)
        out[at % self.size] = np.where(at < self.size, a, -a)
        return out


def merged(ring: Ring, answers: list[Array], of: int) -> Array:
    """layout.md, point 5."""
    step = of
    while step > 1:
        found = []
        for k in range(0, len(answers), 2):
            if k + 1 == len(answers):
                found.append(answers[k])
                continue
            u, v = answers[k] / 2, ring.moved(answers[k + 1], step // 2) / 2
            found.append(u + v + ring.automorphism(u - v, 1 + 2 * ring.size // step))
        answers, step = found, step // 2
    (one,) = answers
    return one


def evaluated(bands: Bands, x: Array, kernel: Array) -> Array:
    """What a server does, without encryption."""
    ring = Ring(bands.ring)
    tiles = ring.values(bands.sent.pack(x))
    weights = iter([ring.values(w) for w in bands.weights(kernel)])
    pairs = [[next(weights) for _ in range(*span)] for span in bands.spans]
    assert next(weights, None) is None
    answers = []
    for block in range(bands.blocks):
        mine = tiles[block * bands.inputs : (block + 1) * bands.inputs]
        for (start, stop), ws in zip(bands.spans, pairs, strict=True):
            answers.append(ring.back(sum(t * w for t, w in zip(mine[start:stop], ws, strict=True))))
    groups = [answers[k : k + bands.channels] for k in range(0, len(answers), bands.channels)]
    return bands.received.unpack(np.array([merged(ring, group, bands.channels) for group in groups]))


def by_torch(geometry: Geometry, x: Array, kernel: Array) -> Array:
    rows, columns = geometry.rows, geometry.columns
    found = torch.nn.functional.conv2d(
        torch.tensor(x.reshape(len(x), *geometry.image)),
        torch.tensor(kernel),
        stride=(rows.stride, columns.stride),
        padding=(rows.padding, columns.padding),
        dilation=(rows.dilation, columns.dilation),
        groups=geometry.groups,
    )
    assert found.shape[1:] == geometry.output
    return found.reshape(len(x), -1).numpy()


def compare(bands: Bands, random: np.random.Generator) -> None:
    g = bands.geometry
    x = random.uniform(-1, 1, (bands.samples, int(np.prod(g.image))))
    kernel = random.uniform(-1, 1, g.kernel)
    wanted = by_torch(g, x, kernel)
    assert np.abs(evaluated(bands, x, kernel) - wanted).max() <= 1e-9 * max(1.0, np.abs(wanted).max())
    assert np.array_equal(bands.sent.unpack(bands.sent.pack(x)), read_by_some(bands, x))
    assert np.array_equal(bands.received.unpack(bands.received.pack(wanted)), wanted)


def read_by_some(bands: Bands, x: Array) -> Array:
    """x without the pixels that no result reads, which may be sent or not."""
    there = np.unique(bands.sent.content)
    kept = np.zeros(x.size, dtype=bool)
    kept[there[there >= 0]] = True
    return np.where(kept.reshape(x.shape), x, 0.0)


def random_axis(random: np.random.Generator, largest: int = 17) -> Axis:
    while True:
        taps, stride, dilation = (
            random.choice([1, 1, 2, 3, 3, 5, 7]),
            random.integers(1, 4),
            random.integers(1, 3),
        )
        size, padding = random.integers(1, largest), random.integers(0, 4)
        try:
            return Axis(int(size), int(taps), int(stride), int(padding), int(dilation))
        except CompileError:
            continue


def random_bands(random: np.random.Generator) -> Bands:
    """A convolution and one of its layouts."""
    while True:
        groups = int(random.choice([1, 1, 1, 2, 3]))
        channels, maps = (groups * int(random.integers(1, 6)) for _ in range(2))
        if random.random() < 0.1:  # depthwise
            groups, maps = channels, channels * int(random.integers(1, 3))
        g = Geometry(channels, maps, random_axis(random), random_axis(random), groups)
        _, rows, columns = g.output
        height, width = (-(-n // int(random.integers(1, 4))) for n in (rows, columns))
        numbers = [1 << int(random.integers(0, 6)) for _ in range(2)]
        try:
            return Bands(g, int(random.integers(1, 4)), 1024, height, width, *numbers)
        except CompileError:
            continue


@pytest.mark.parametrize("seed", range(16))
def test_random_convolutions_equal_torch(seed: int) -> None:
    random = np.random.default_rng(seed)
    for _ in range(25):
        compare(random_bands(random), random)


@pytest.mark.parametrize("height", [1, 3, 8])
@pytest.mark.parametrize("channels", [1, 4, 16])
def test_shared_padding_saves_places(height: int, channels: int) -> None:
    axis = Axis(8, 3, 1, 1)
    bands = Bands(Geometry(3, 5, axis, axis), 2, 2048, height, 8, channels, 1)
    assert bands.row == 9
    compare(bands, np.random.default_rng(height))


def test_a_dense_layer_is_a_convolution_of_one_pixel() -> None:
    geometry = Geometry(300, 70, Axis(1, 1), Axis(1, 1))
    bands = Bands(geometry, 1, 1024, 1, 1, 16, 1)
    assert (bands.area, bands.maps, bands.inputs, bands.outputs, bands.answers) == (1, 64, 19, 2, 1)
    compare(bands, np.random.default_rng(0))


def test_known_counts() -> None:
    """The paper's second convolution as layout.md's formulas have it."""
    geometry = Geometry(20, 50, Axis(12, 5), Axis(12, 5))
    bands = Bands(geometry, 1, 4096, 8, 8, 4, 1)
    assert (bands.row, bands.area, bands.maps) == (12, 256, 4)
    assert (bands.inputs, bands.outputs, bands.answers) == (5, 13, 4)
    assert len(list(bands.weights(np.zeros(geometry.kernel)))) == 65


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"height": 0}, "out of range"),
        ({"channels": 3}, "out of range"),
        ({"channels": 512}, "out of range"),
        ({"lanes": 512}, "do not fit"),
        ({"samples": 0}, "out of range"),
    ],
)
def test_bands_that_are_none_are_refused(change: dict[str, int], words: str) -> None:
    numbers = {"samples": 1, "ring": 1024, "height": 4, "width": 4, "channels": 2, "lanes": 1} | change
    with pytest.raises(CompileError, match=words):
        Bands(Geometry(3, 5, Axis(6, 3), Axis(6, 3)), **numbers)


def test_a_kernel_longer_than_its_image_is_refused() -> None:
    with pytest.raises(CompileError, match="longer than 3"):
        Axis(3, 5)
    with pytest.raises(CompileError, match="2 groups of 3 channels"):
        Geometry(3, 4, Axis(3, 1), Axis(3, 1), 2)
