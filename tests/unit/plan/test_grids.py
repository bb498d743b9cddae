"""Images on grids: a layer's step on slots is torch's own, whatever the grids, and its counts are exact."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy import sparse
from torch import nn

from securedl.compiler.giant import Diagonals, best_giant
from securedl.compiler.layout import Ends, LayerLayout, Layouts, lay_out
from securedl.errors import InputError
from securedl.he.ckks import ckks_parameters
from securedl.he.clear import ClearEvaluator
from securedl.he.record import Shape
from securedl.network.from_torch import import_torch
from securedl.network.graph import Affine
from securedl.plan.diagonals import LayerValues, block_diagonals
from securedl.plan.forms import Straight
from securedl.plan.grid import NUMBERS, Grid, grid_of
from securedl.plan.layouts import Interleaved, described, descriptor
from securedl.plan.normalised import Layer, Normalised
from securedl.program.count import Counted, Counter, SameWeight
from securedl.program.program import Program
from securedl.program.steps import Matvec, Port

PARAMS = ckks_parameters(4096, 1)
SLOTS = PARAMS.slots
SCALE = 2.0**30
EVALUATOR = ClearEvaluator(PARAMS)
LAYERS = 300


def affine_of(module: nn.Module, shape: tuple[int, ...]) -> Affine:
    """The one layer of a module, from its answers for zero and for each unit vector. No weight is zero."""
    size = math.prod(shape)
    x = torch.eye(size + 1, size, dtype=torch.float64).roll(1, 0)
    with torch.no_grad():
        bias, rest = module.double().eval()(x.reshape(-1, *shape)).split([1, size])
    matrix = sparse.csr_matrix((rest - bias).reshape(size, -1).numpy()).T.tocsr()
    return Affine(matrix, bias.reshape(-1).numpy(), "", tuple(bias.shape[1:]) if bias.ndim > 2 else ())


def any_layer(random: np.random.Generator) -> tuple[nn.Module, tuple[int, ...], int]:
    """A layer on images, the shape of one, and how many places a tile has."""
    channels, out = (int(one) for one in random.integers(1, 7, 2))
    rows, columns = (int(one) for one in random.integers(5, 15, 2))
    kernel, stride = int(random.integers(1, 6)), int(random.integers(1, 3))
    padding = int(random.integers(0, kernel // 2 + 1))
    shape: tuple[int, ...] = (channels, rows, columns)
    kind = random.choice(["conv", "conv", "conv", "depthwise", "pool", "up", "row", "dense", "transposed"])
    if kind == "conv":
        module: nn.Module = nn.Conv2d(channels, out, kernel, stride, padding)
    elif kind == "depthwise":
        module = nn.Conv2d(channels, channels, kernel, stride, padding, groups=channels)
    elif kind == "pool":
        module = nn.AvgPool2d(2)
    elif kind == "up":
        module = nn.Upsample(scale_factor=2, mode="nearest")
    elif kind == "transposed":
        module = nn.ConvTranspose2d(channels, out, 2, 2)
    elif kind == "row":
        module, shape = nn.Conv1d(channels, out, kernel, stride, padding), (channels, rows * 3)
    else:
        module = nn.Sequential(nn.Flatten(), nn.Linear(math.prod(shape), int(random.integers(1, 40))))
    return module, shape, 1 << int(random.integers(6, 12))


def test_layers_are_those_that_are_imported():
    random = np.random.default_rng(5)
    for _ in range(15):
        module, shape, _ = any_layer(random)
        mine = affine_of(module, shape)
        (node,) = import_torch(module, shape).graph.nodes
        assert isinstance(node, Affine)
        assert mine.shape == node.shape
        np.testing.assert_allclose(mine.bias, node.bias, atol=1e-12)
        np.testing.assert_allclose(mine.matrix.toarray(), node.matrix.toarray(), atol=1e-12)
        np.testing.assert_array_equal(mine.pattern.toarray(), node.pattern.toarray())


def any_grid(random: np.random.Generator, shape: tuple[int, ...], width: int) -> Grid | None:
    """One of the family, rows and planes looser than they need be; None where a value needs many tiles."""
    image = shape if len(shape) == 3 else (shape[0], 1, shape[1])
    down, across, tall, wide = (int(one) for one in random.choice([1, 1, 2], 4))
    if down > image[1] or across > image[2]:
        down = across = 1
    tall, wide = (
        gap * int(random.choice([1, 1, 2])) if phase == 1 else gap
        for gap, phase in ((tall, down), (wide, across))
    )
    grid = Grid(image, 1, 1, (down, across), (tall, wide), bool(random.integers(2)))
    grid = replace(grid, stride=grid.extent[0] + int(random.integers(3)))
    plane = grid.extent[1] + int(random.integers(5))
    grid = replace(grid, plane=1 << (plane - 1).bit_length() if random.integers(2) else plane)
    return grid if grid.tiles(width) <= 40 else None


def laid_out(node: Affine, before: tuple[int, ...], width: int, encrypted: bool = True) -> Layouts:
    """The layouts of one layer."""
    layer = Layer("", (node.matrix,), node.bias, Straight(1), node.shape)
    inputs = node.matrix.shape[1]
    network = Normalised(
        np.ones(inputs), np.zeros(inputs), (layer,), np.ones(layer.features), np.zeros(layer.features),
        input_shape=before,
    )  # fmt: skip
    return lay_out(network, width, SLOTS // width, encrypted)[0]


def stepped(node: Affine, layout: LayerLayout, x: np.ndarray, encrypted: bool = True) -> np.ndarray:
    """Slots [tiles, n] that the real step gives on slot vectors."""
    source, target = layout.source, layout.target
    scale = float(PARAMS.primes[1])
    step = Matvec(
        1, (0,), layout.blocks, target.tiles, layout.giant, layout.folds, 1, SCALE, (scale,), 0
    )  # fmt: skip
    program = Program(PARAMS, source.batch, source.width, encrypted, Port(source.tiles, 1, SCALE), (step,), 1)
    values, size = LayerValues([node.matrix], node.bias, source, target), 2 if encrypted else 1
    weights = [EVALUATOR.fresh(slots, Shape(1, size, scale)) for slots in values.diagonals(step)]
    weights += [EVALUATOR.fresh(slots, Shape(0, size, SCALE)) for slots in values.vector()]
    tiles = [EVALUATOR.fresh(slots, Shape(1, 2, SCALE)) for slots in source.pack(x)]
    return np.array([tile.slots for tile in step.run(EVALUATOR, program.batch, [tiles], weights)])


def check_layer(
    node: Affine, layout: LayerLayout, x: np.ndarray, want: np.ndarray, encrypted: bool, summed: bool
) -> None:
    slots = stepped(node, layout, x, encrypted)
    np.testing.assert_allclose(layout.target.unpack(slots), want, atol=1e-9)
    if not summed:  # the next layer relies on every place, those where nothing stands too
        np.testing.assert_allclose(slots, layout.target.pack(want), atol=1e-9)


@pytest.mark.parametrize("part", range(6))
def test_layers_on_grids_are_torchs(part):
    """Grids that the compiler would try, and any others; copies, partial sums and batches too."""
    random = np.random.default_rng(part)
    torch.manual_seed(part)
    done = {"start": 0, "tiles": 0, "phases": 0, "gaps": 0, "filled": 0, "copies": 0, "sums": 0, "batch": 0}
    for _ in range(LAYERS // 6):
        module, shape, width = any_layer(random)
        node = affine_of(module, shape)
        x = random.normal(size=(SLOTS // width, math.prod(shape)))
        with torch.no_grad():
            want = module(torch.from_numpy(x).reshape(len(x), *shape)).reshape(len(x), -1).numpy()
        encrypted, laid, summed = (bool(one) for one in random.integers(0, 2, 3))
        options = laid_out(node, shape, width, encrypted)
        if random.integers(3):
            source = options.starts[int(random.integers(len(options.starts)))]
            after = options.targets(source)
            target = after[int(random.integers(len(after)))]
            done["start"] += source.grid is not None and target.grid is not None
        else:
            source, target = options.flat
            grids = (
                any_grid(random, shape, width),
                any_grid(random, node.shape, width) if node.shape else None,
            )
            source, target = replace(source, grid=grids[0]), replace(target, grid=grids[1])
        layout = options.make(Ends(source, target, laid, summed))
        assert layout.exact
        check_layer(node, layout, x, want, encrypted, summed)
        used = [one for one in (layout.source.grid, layout.target.grid) if one is not None]
        done["tiles"] += bool(used) and max(layout.source.tiles, layout.target.tiles) > 1
        done["phases"] += any(one.phases != (1, 1) for one in used)
        done["gaps"] += any(one.gaps != (1, 1) for one in used)
        done["filled"] += any(one.filled and one.gaps != (1, 1) for one in used)
        done["copies"] += bool(used) and layout.source.count > 1
        done["sums"] += bool(used) and layout.target.count > 1
        done["batch"] += bool(used) and layout.source.batch > 1
    assert min(done.values()) > 0, done


def test_positions_by_hand():
    """Two channels of 2 x 4: phases of 2 side by side; gaps of 2 that the second channel fills."""
    apart = Grid((1, 2, 4), 2, 2, phases=(2, 2))
    np.testing.assert_array_equal(apart.positions(8), [0, 2, 1, 3, 4, 6, 5, 7])
    filled = Grid((2, 1, 2), 4, 8, gaps=(1, 2), filled=True)
    np.testing.assert_array_equal(filled.positions(8), [0, 2, 1, 3])
    rows = Grid((3, 2, 2), 3, 5)
    assert rows.tiles(10) == 2
    np.testing.assert_array_equal(rows.positions(10), [0, 1, 3, 4, 5, 6, 8, 9, 10, 11, 13, 14])
    np.testing.assert_array_equal(rows.positions(4), [0, 1, 3, 4, 5, 6, 8, 9, 10, 11, 13, 14])


def test_grids_put_features_at_places_of_their_own():
    random = np.random.default_rng(1)
    for _ in range(300):
        shape = tuple(int(one) for one in random.integers(1, 9, 3))
        width = 1 << int(random.integers(2, 10))
        grid = any_grid(random, shape, width)
        if grid is None:
            continue
        assert grid.fits
        found = grid.positions(width)
        assert len(set(found.tolist())) == grid.features == math.prod(shape)
        assert found.max() < grid.tiles(width) * width
        layout = Interleaved(grid.features, width, 2, grid=grid)
        values = random.normal(size=(2, grid.features))
        np.testing.assert_array_equal(layout.unpack(layout.pack(values)), values)


@pytest.mark.parametrize(
    ("at", "number"),
    [
        (0, 3), (0, 0), (1, 1 << 40), (3, 1), (3, 0), (4, 5), (4, 1 << 30), (5, 0), (5, 9), (7, 0), (7, 99),
        (9, 2), (9, True), (2, 4.0), (2, "4"), (2, None), (8, 1 << 62), (3, -4),
    ],
)  # fmt: skip
def test_what_is_no_grid(at, number):
    """A file may tell anything: it is refused before any of it is allocated."""
    width = 64
    program = Program(PARAMS, SLOTS // width, width, True, Port(1, 1, SCALE), (), 0)
    good = Interleaved(2 * 4 * 4, width, SLOTS // width, grid=Grid((2, 4, 4), 4, 16, (2, 2), (1, 1), False))
    parts = descriptor(good)
    assert described(parts, program) == good
    assert len(parts) == 5 + NUMBERS
    wrong = [*parts[:5], *(number if k == at else one for k, one in enumerate(parts[5:]))]
    with pytest.raises(InputError, match="no layout of 64 places"):
        described(wrong, program)
    for length in (1, NUMBERS - 1, NUMBERS + 1):
        with pytest.raises(InputError, match="no layout"):
            described([*parts[:5], *(parts[5:] * 2)[:length]], program)


def test_a_grid_of_too_many_tiles_is_none():
    grid = Grid((8, 2, 2), 2, 64)
    assert grid_of(grid.numbers, 32, 64, 8) == grid
    assert grid_of(grid.numbers, 32, 64, 7) is None


def test_counts_are_those_of_the_step():
    """Giant steps are weighed by sets; the step on a counter is the oracle, for any step."""
    random = np.random.default_rng(2)
    for _ in range(60):
        module, shape, width = any_layer(random)
        node = affine_of(module, shape)
        layout = laid_out(node, shape, width).at(*(bool(one) for one in random.integers(0, 2, 2)))
        tiles, steps = layout.target.tiles, layout.folds
        for giant in {1, 3, layout.giant, int(random.integers(1, width + 1))}:
            for encrypted in (True, False):
                step = Matvec(1, (0,), layout.blocks, tiles, giant, steps, 1, 1.0, (1.0,), 0)
                counter = Counter()
                inputs = [[Counted(1)] * (1 + max(b.tile for b in layout.blocks))]
                step.run(counter, 1, inputs, SameWeight(encrypted))
                assert Diagonals(layout.blocks, tiles, steps).counts(giant, encrypted) == counter.counts
        giant, counts, _ = best_giant(layout.blocks, tiles, steps, True)
        assert Diagonals(layout.blocks, tiles, steps).counts(giant, True) == counts


def test_a_first_look_never_counts_more(monkeypatch):
    """So the layouts that are chosen by it are the cheapest; and they are counted whole."""
    random = np.random.default_rng(3)
    for _ in range(30):
        module, shape, width = any_layer(random)
        node = affine_of(module, shape)
        whole = laid_out(node, shape, width)
        with monkeypatch.context() as patch:
            patch.setattr("securedl.compiler.layout.SAMPLE", node.matrix.nnz // 5 + 1)
            looked = laid_out(node, shape, width)
            for source in looked.starts:
                for target in looked.targets(source):
                    ends = Ends(source, target, True, True)
                    assert looked.look(ends)[1].switches <= whole.look(ends)[1].switches
            assert looked.at(True, True).switches == whole.at(True, True).switches
            assert looked.at(True, True).exact


def test_stored_zeros_count():
    """Diagonals follow from shapes: those of a convolution of zeros are those of any."""
    random = np.random.default_rng(4)
    node = affine_of(nn.Conv2d(3, 4, 3, stride=2, padding=1), (3, 12, 12))
    zeros = sparse.csr_matrix(
        (0 * node.matrix.data, node.matrix.indices, node.matrix.indptr), node.matrix.shape
    )
    options = laid_out(node, (3, 12, 12), 1024), laid_out(replace(node, matrix=zeros), (3, 12, 12), 1024)
    ends = [one.at(True, True) for one in options]
    assert ends[0].source.grid is not None
    assert ends[0].blocks == ends[1].blocks
    grid = any_grid(random, (3, 12, 12), 1024)
    source, target = replace(options[0].flat[0], grid=grid), options[0].flat[1]
    found = [block_diagonals(one, source, target) for one in (node.matrix, zeros)]
    assert {k: list(v) for k, v in found[0].items()} == {k: list(v) for k, v in found[1].items()}


def test_few_diagonals_by_hand():
    """A stride-1 convolution of one channel has one for each tap, and one of stride 2 on phases too."""
    for module, size in [(nn.Conv2d(1, 4, 5, padding=2), 14), (nn.Conv2d(1, 4, 4, stride=2, padding=1), 16)]:
        node = affine_of(module, (1, size, size))
        layout = laid_out(node, (1, size, size), 1024).at(laid=True, summed=False)
        assert layout.counts.terms <= 25
        flat = laid_out(node, (), 1024).at(laid=True, summed=False)
        assert flat.counts.terms > 3 * layout.counts.terms


def test_entries_looked_at_in_parts(monkeypatch):
    """A layer's diagonals are those of all its entries, however few are looked at together."""
    node = affine_of(nn.Conv2d(3, 6, 3, stride=2, padding=1), (3, 9, 9))
    options = laid_out(node, (3, 9, 9), 64)
    source, target = options.starts[-1], options.targets(options.starts[-1])[-1]
    assert min(source.tiles, target.tiles) > 1
    rows, columns = (target.positions[:, None], source.positions[None])
    stored = np.asarray(node.pattern.todense()) > 0
    want: dict[tuple[int, int], set[int]] = {}
    for r, c in zip(*np.nonzero(stored), strict=True):
        block = int(rows[r, 0]) // 64, int(columns[0, c]) // 64
        want.setdefault(block, set()).add(int(columns[0, c] - rows[r, 0]) % 64)
    for together in (1, 7, 50, 1 << 17):
        monkeypatch.setattr("securedl.plan.diagonals.AT_A_TIME", together)
        found = block_diagonals(node.matrix, source, target)
        assert {block: set(ks.tolist()) for block, ks in found.items()} == want
