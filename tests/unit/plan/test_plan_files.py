"""Plan files from elsewhere: each is refused with a reason, or gives a plan that works, in little memory."""

from __future__ import annotations

import copy
import io
import json
import random
import re
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import securedl
from securedl.compiler.fuse import fuse
from securedl.compiler.fused import Fused
from securedl.compiler.mixed import Mixed
from securedl.compiler.rounds import Wanted, compile_rounds
from securedl.errors import InputError
from securedl.network.from_torch import import_torch
from securedl.network.outputs import Output
from securedl.network.partition import partition
from securedl.network.polynomial import PolynomialActivation
from securedl.plan.plan import Plan, plan_from_bytes

Meta: TypeAlias = dict[str, Any]
Arrays: TypeAlias = dict[str, Any]
X = np.random.default_rng(0).normal(size=(20, 2, 8, 8))


class Tokens(nn.Module):
    """Sizes that are computed, constants, a mask, and lists."""

    mask: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.inner, self.out = nn.Linear(8, 6), nn.Linear(24, 3)
        self.register_buffer("mask", torch.tensor([True, False, True, True, False, True]))

    def forward(self, x: Tensor) -> Tensor:
        y = self.inner(x.reshape(-1, 8)).reshape(x.shape[0] * 4, 4, 6)
        first, second = torch.softmax(y, -1).split(3, -1)
        y = torch.cat([first, second], -1)[..., self.mask] + torch.zeros(x.shape[0] * 4, 1, 4)
        return self.out(torch.cat([y, y[:, :, :2]], -1).reshape(x.shape[0], 4, 24)).mean(1)


class Files:
    """A plan's file in its parts."""

    def __init__(self, plan: Plan) -> None:
        self.plan = plan
        with np.load(io.BytesIO(plan.to_bytes())) as found:
            self.arrays: Arrays = {name: found[name] for name in found if name != "meta"}
            self.meta: Meta = json.loads(str(found["meta"]))
        self.meta["program"] = json.loads(self.meta["program"])

    def with_(self, change: Callable[[Meta, Arrays], Any]) -> bytes:
        """The file after a change of its parts."""
        meta, arrays = copy.deepcopy(self.meta), dict(self.arrays)
        change(meta, arrays)
        return packed(meta, arrays)


def packed(meta: Any, arrays: Arrays) -> bytes:
    if isinstance(meta, dict) and "program" in meta:
        meta["program"] = json.dumps(meta["program"], sort_keys=True, separators=(",", ":"))
    buffer = io.BytesIO()
    np.savez(buffer, meta=np.array(json.dumps(meta)), **arrays)
    return buffer.getvalue()


@pytest.fixture(scope="module")
def conv() -> Files:
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(2, 3, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2),
        nn.Conv2d(3, 4, 3, 2, 1, bias=False), nn.BatchNorm2d(4), nn.GELU(), nn.Flatten(), nn.Linear(16, 3),
        nn.Softmax(1),
    )  # fmt: skip
    return Files(securedl.compile(model.eval(), X, activations="client", batch=2))


@pytest.fixture(scope="module")
def tokens() -> Files:
    torch.manual_seed(0)
    return Files(securedl.compile(Tokens().eval(), X.reshape(20, -1), activations="client"))


@pytest.fixture(scope="module")
def powers() -> Files:
    """Polynomials in slots between its layers, a cube and squares."""
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(2, 3, 3, padding=1), PolynomialActivation(np.array([0.1, 0.6, 0.2, 0.3]), (-2, 2)),
        nn.AvgPool2d(2), nn.Conv2d(3, 2, 3, 2, 1),
        PolynomialActivation(np.random.default_rng(1).uniform(0.2, 0.8, (3, 2)), [(-3.0, 2.0), (-3.0, 3.0)]),
        nn.Flatten(), nn.Linear(8, 3),
    )  # fmt: skip
    found = partition(model, X.shape[1:], polynomials=True)
    wanted = Wanted(2, True, securedl.Link(), None, (), Output((3,), "classes"), 8.0)
    return Files(compile_rounds(found.script, found.kernels, X, wanted))


@pytest.fixture(scope="module")
def chains() -> Files:
    """A layer in coefficients, and a chain of a square, a layer and a cube in slots."""
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(2, 3, 3, 2), PolynomialActivation(np.array([0.1, 0.6, 0.2]), (-2, 2)), nn.Flatten(),
        nn.Linear(27, 5), PolynomialActivation(np.array([0.1, 0.6, 0.2, 0.3]), (-2, 2)), nn.Linear(5, 3),
    )  # fmt: skip
    graph = fuse(import_torch(model.double().eval(), X.shape[1:]).graph, X.reshape(20, -1))
    found = partition(model, X.shape[1:], polynomials=True)
    link = securedl.Link(0.01, 10000)
    wanted = Wanted(1, True, link, None, (), Output((3,), "classes"), 8.0)
    search = Mixed(found, Fused(graph, X.reshape(20, -1)), X, wanted, np.inf)
    best = search.best()
    assert best is not None
    joined, where = search.arranged(*best)
    return Files(compile_rounds(joined.script, joined.kernels, X, wanted, where))


def refused(data: bytes, words: str = "not a plan") -> None:
    with pytest.raises(InputError, match=words):
        plan_from_bytes(data)


def test_parts_that_were_not_changed(conv: Files, tokens: Files, powers: Files, chains: Files) -> None:
    for files in (conv, tokens, powers, chains):
        found = plan_from_bytes(files.with_(lambda meta, arrays: None))
        x = X[:3].reshape(3, *files.plan.input_shape)
        np.testing.assert_array_equal(found.simulate(x), files.plan.simulate(x))


# --- one part at a time ------------------------------------------------------------------------------


def put(*path: Any, value: Any) -> Callable[[Meta, Arrays], None]:
    """Replaces something in the JSON part."""

    def change(meta: Meta, arrays: Arrays) -> None:
        place: Any = meta
        for key in path[:-1]:
            place = place[key]
        place[path[-1]] = value

    return change


def array(name: str, make: Callable[[Any], Any]) -> Callable[[Meta, Arrays], None]:
    """Replaces an array."""

    def change(meta: Meta, arrays: Arrays) -> None:
        arrays[name] = make(arrays[name])

    return change


def kernel(number: int) -> str:
    """Where a file has the weights of a layer."""
    return f"network.kernel{number}.values"


def spoilt(value: float) -> Callable[[Any], Any]:
    """The same array with one other number."""

    def make(found: Any) -> Any:
        changed = found.copy()
        changed.flat[-1] = value
        return changed

    return make


#: Of the values between the layers of `chains`.
PLACE = [False, 27, 32, 8, 1]
SERVED, SIZES = ("network", "served"), ("network", "script", "layers", 0, 3)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (put(*SERVED, 0, 0, value=1), "bands for"),
        (put(*SERVED, 0, 0, value=1 << 40), "bands for"),
        (put(*SERVED, 0, 1, value=8192), "bands for|tiles"),
        (put(*SERVED, 0, 1, value=1 << 62), "bands for"),
        (put(*SERVED, 0, 2, value=8), "tiles|computes"),
        (put(*SERVED, 0, 4, value=1), "tiles|computes"),
        (put(*SERVED, 0, 5, value=1 << 30), "do not fit a ring"),
        (put(*SIZES, 0, value=1 << 40), "kernel of layer 1"),
        (put(*SIZES, 1, value=1 << 40), "kernel of layer 1"),
        (put(*SIZES, 2, 1, value=1 << 40), "longer than"),
        (put(*SIZES, 2, value=[1 << 40, 3, 1 << 39, 1, 1]), "tiles"),
        (put(*SIZES, 2, value=[1 << 40, 3, 1, 1, 1]), "do not fit a ring|tiles"),
        (put(*SIZES, 2, value=[8, 3, 1, 1 << 40, 1]), "do not fit a ring|tiles"),
        (put(*SIZES, 2, value=[1 << 40, 3, 1, 1, 1 << 38]), "do not fit a ring|tiles"),
        (put(*SIZES, 2, 3, value=0), "tiles|computes|shift|is sent|out of range"),
        (put("network", "script", "layers", 0, 2, value=2), "bands for"),
        (put("network", "outputs", value=4), "answer"),
        (put("network", "input_shape", value=[2, 64]), "fails|is sent|another shape"),
        (put("network", "input_shape", value=[128.0]), "a sample has sizes"),
        (put("input_shape", value=[2, 8, 4, 2]), "another shape"),
        (put("program", "batch", value=3), "bands for"),
        (put("program", "steps", 0, "spans", 0, "start", value=1), "needs|computes|span"),
        (put("cost", "bytes", value="x"), "figure"),
        (put("error", value=float("nan")), "figure"),
        (put("input_limit", value=-1.0), "figure"),
        (put("columns", value=["a"]), "columns"),
        (put("output", "shape", value=[4]), "an answer"),
        (put("output", "shape", value=[-3]), "needs a logit|an answer"),
        (array(kernel(0), spoilt(np.nan)), "kernel of layer 1 has NaN"),
        (array(kernel(0), spoilt(np.inf)), "kernel of layer 1 has NaN"),
        (array(kernel(0), lambda a: a.astype(np.float32)), "kernel of layer 1 should be float64"),
        (array(kernel(1), lambda a: a[:, :2]), "kernel of layer 2 should be float64"),
        (array(kernel(2), lambda a: a.reshape(3, 4, 2, 2)), "kernel of layer 3 should be float64"),
        (array("network.ranges0.scale", spoilt(0.0)), "scale of layer 1 has values that are not above zero"),
        (array("network.ranges0.scale", spoilt(-1.0)), "scale of layer 1 has values"),
        (array("network.ranges1.gain", spoilt(-1e-9)), "gain of layer 2 has values"),
        (array("network.ranges1.gain", spoilt(np.nan)), "gain of layer 2 has NaN"),
        (array("network.ranges0.offset", lambda a: a[:1]), "offset of layer 1 should be"),
        (array("network.ranges0.shift", lambda a: a[:2]), "shift"),
        (array("network.script.c0", lambda a: a[None, None]), "script|layers fails|is sent|answer|shape"),
        (array("network.script.c0", lambda a: np.array("text")), "fails"),
        (array("input_scale", spoilt(0.0)), "scale of the input"),
        (array("output_offset", lambda a: a[:2]), "offset of the output"),
        (array("samples", lambda a: a[:0]), "no samples"),
        (array("samples", spoilt(np.nan)), "samples has NaN"),
        (array("samples", lambda a: a[:, :-1]), "samples should be"),
    ],
)  # fmt: skip
def test_each_part(conv: Files, change: Callable[[Meta, Arrays], None], words: str) -> None:
    refused(conv.with_(change), words)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (put(*SERVED, 1, 0, value="square"), "form of another degree"),
        (put(*SERVED, 1, 0, value="powers"), "square or cubic"),
        (put(*SERVED, 1, 1, value=191), "stands in slots"),
        (put(*SERVED, 1, 1, value=1 << 40), "stands in slots"),
        (put(*SERVED, 1, 2, value=1024), "stands in slots"),
        (put(*SERVED, 1, 3, value=1), "stands in slots"),
        (put("network", "script", "layers", 1, 2, value=2), "stands in slots"),
        (put("network", "script", "layers", 1, 3, value=[2, 3, 8, 8]), "form of another degree"),
        (put("network", "script", "layers", 1, 3, value=[4, 3, 8, 8]), "is none"),
        (put("network", "script", "layers", 1, 3, value=[3]), "no shape|stands in slots"),
        (put("network", "script", "layers", 1, 3, value=[3, 3, 64]), "is sent"),
        (put("program", "steps", 2, "right", value=1), "needs values in slots"),
        (array(kernel(1), lambda a: a[:-1]), "constant of layer 2 should be"),
        (array(kernel(1), lambda a: a[:0]), "constant of layer 2 should be"),
        (array(kernel(1), spoilt(np.nan)), "constant of layer 2 has NaN"),
        (array(kernel(3), lambda a: np.zeros(8)), "constant of layer 4 should be"),
        (array("network.ranges1.reach", spoilt(0.0)), "reach of layer 2 has values"),
        (array("network.ranges3.gain", lambda a: a[:0]), "gain of layer 4 should be"),
        (array("network.ranges3.offset", spoilt(np.inf)), "offset of layer 4 has NaN"),
    ],
)
def test_each_part_of_polynomials(powers: Files, change: Callable[[Meta, Arrays], None], words: str) -> None:
    refused(powers.with_(change), words)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (put(*SERVED, 1, "parts", 0, 1, value=1), "shape"),
        (put(*SERVED, 1, "parts", 0, 2, value="cubic"), "form of another degree"),
        (put(*SERVED, 1, "parts", 0, value=["", 0, "cubic", 3, *[PLACE] * 3]), "steps"),
        (put(*SERVED, 1, "parts", 0, value=["", 0, "none", 1, *[PLACE] * 3]), "steps"),
        (put(*SERVED, 1, "parts", 0, 3, value=1 << 40), "form of another degree"),
        (put(*SERVED, 1, "parts", 0, 6, value=[False, 26, 32, 8, 1]), "values for a polynomial"),
        (put(*SERVED, 1, "parts", 0, 6, value=[False, 1 << 40, 32, 8, 1]), "no layout"),
        (put(*SERVED, 1, "parts", 1, 1, value=0), "sources"),
        (put(*SERVED, 1, "parts", 1, 1, value=1 << 40), "shape"),
        (put(*SERVED, 1, "parts", 1, 4, value=[False, 28, 32, 8, 1]), "reads 28"),
        (put(*SERVED, 1, "parts", 1, 5, value=[False, 5, 32, 8, 0]), "sums up otherwise"),
        (put(*SERVED, 1, "parts", 1, 5, value=[True, 6, 32, 8, 0]), "matrix of another size"),
        (put(*SERVED, 1, "parts", value=[]), "weights|steps|out of range"),
        (put("network", "script", "layers", 1, 3, value=[3, 3, 3, 3, 6]), "of layer 2 should be|gives"),
        (put("network", "script", "layers", 1, 3, value=[3, 3, 3, 4, 5]), "of layer 2 should be"),
        (put("network", "script", "layers", 1, 3, value=[5, 3, 3, 3, 5]), "is none"),
        (put("network", "script", "layers", 1, 3, value=[0, 5]), "is none"),
        (array("network.ranges1.scale", spoilt(0.0)), "scale of layer 2 has zeros"),
        (array("network.ranges1.offset", spoilt(np.nan)), "offset of layer 2 has NaN"),
        (array("network.ranges2.gain", lambda a: a[:2]), "gain of layer 3 should be"),
        (array("network.kernel1.1.bias", lambda a: a[:2]), "bias of layer 2 should be"),
        (array("network.kernel1.1.matrix0.data", spoilt(np.inf)), "matrix of layer 2 has NaN"),
        (array("network.kernel1.1.matrix0.indices", spoilt(27)), "index|indices"),
        (array("network.kernel1.1.matrix0.indices", spoilt(-1)), "index|indices"),
        (array("network.kernel1.1.matrix0.indptr", spoilt(1 << 30)), "index|indices|indptr"),
        (array("network.kernel2.0.constant", lambda a: a[:0]), "constant of layer 3 should be"),
        (array("network.kernel2.0.constant", spoilt(np.nan)), "constant of layer 3 has NaN"),
    ],
)
def test_each_part_of_chains(chains: Files, change: Callable[[Meta, Arrays], None], words: str) -> None:
    refused(chains.with_(change), words)


def test_parts_of_another_plan(conv: Files, tokens: Files) -> None:
    for key in ("program", "network", "input_shape"):
        refused(conv.with_(put(key, value=copy.deepcopy(tokens.meta[key]))))
    for name in (kernel(0), "network.ranges0.gain", "network.ranges0.offset"):
        foreign = {name: tokens.arrays[name]}
        refused(packed(copy.deepcopy(conv.meta), conv.arrays | foreign))


def test_layers_in_another_order(conv: Files) -> None:
    def turned(meta: Meta, arrays: Arrays) -> None:
        meta["network"]["served"].reverse()

    refused(conv.with_(turned))


def test_packed_arrays(conv: Files) -> None:
    """A megabyte of them may hold a gigabyte."""
    buffer = io.BytesIO()
    np.savez_compressed(
        buffer, **{**conv.arrays, "samples": np.zeros((1 << 14, 128)), "meta": np.array("{}")}
    )
    refused(buffer.getvalue(), "packed")


# --- what a script may ask for -----------------------------------------------------------------------


def first(*instructions: tuple[Any, ...]) -> Callable[[Meta, Arrays], None]:
    """Does something else first: (register - 1000, operation, arguments, named ones)."""

    def change(meta: Meta, arrays: Arrays) -> None:
        rows = [[1000 + k, *one, *[{}] * (3 - len(one))][:4] for k, one in enumerate(instructions)]
        meta["network"]["script"]["instructions"][:0] = rows

    return change


def r(number: int) -> dict[str, int]:
    """The result of an instruction before; -1000 is the samples [1, 128]."""
    return {"r": 1000 + number}


MANY = 1 << 33
SAMPLES = r(-1000)
GREEDY: dict[str, list[tuple[Any, ...]]] = {
    "full": [("aten.full.default", [[MANY], 1.0])],
    "full, product": [("aten.full.default", [[1 << 11] * 3, 1.0])],
    "ones": [("aten.ones.default", [[MANY]])],
    "zeros": [("aten.zeros.default", [[MANY]])],
    "new_full": [("aten.new_full.default", [SAMPLES, [MANY], 2.0])],
    "new_zeros": [("aten.new_zeros.default", [SAMPLES, [MANY]])],
    "arange": [("aten.arange.default", [MANY])],
    "arange, small steps": [("aten.arange.start_step", [0, 1.0, 1e-10])],
    "linspace": [("aten.linspace.default", [0, 1, MANY])],
    "logspace": [("aten.logspace.default", [0, 1, MANY])],
    "eye": [("aten.eye.default", [1 << 17])],
    "eye, two": [("aten.eye.m", [1 << 17, 1 << 17])],
    "repeat": [("aten.repeat.default", [SAMPLES, [1 << 26, 1]])],
    "tile": [("aten.tile.default", [SAMPLES, [1 << 26]])],
    "expand": [("aten.expand.default", [SAMPLES, [MANY, 1, 128]])],
    "broadcast_to": [("aten.broadcast_to.default", [SAMPLES, [MANY, 1, 128]])],
    "repeat_interleave": [("aten.repeat_interleave.self_int", [SAMPLES, MANY])],
    "one_hot": [
        ("aten.zeros.default", [[4]], {"dtype": {"d": "int64"}}), ("aten.one_hot.default", [r(0), MANY]),
    ],
    "pad": [("aten.constant_pad_nd.default", [SAMPLES, [MANY, MANY]])],
    "pad, other": [("aten.pad.default", [SAMPLES, [0, MANY]])],
    "upsample": [
        ("aten.unsqueeze.default", [SAMPLES, 0]), ("aten.upsample_nearest1d.default", [r(0), [MANY]]),
    ],
    "fft": [("aten.fft_fft.default", [SAMPLES, MANY])],
    "rfft": [("aten.fft_rfft.default", [SAMPLES, MANY])],
    "vander": [("aten.ravel.default", [SAMPLES]), ("aten.vander.default", [r(0), 1 << 28])],
    "diag_embed": [("aten.diag_embed.default", [SAMPLES, 1 << 20])],
    "outer": [
        ("aten.repeat.default", [SAMPLES, [1, 1 << 10]]), ("aten.ravel.default", [r(0)]),
        ("aten.outer.default", [r(1), r(1)]),
    ],
    "kron": [("aten.repeat.default", [SAMPLES, [1, 1 << 10]]), ("aten.kron.default", [r(0), r(0)])],
    "einsum, inside": [
        ("aten.zeros.default", [[1 << 16]]),
        ("aten.einsum.default", ["a,b,a,b->", [r(0), r(0), r(0), r(0)]]),
    ],
    "broadcast": [
        ("aten.zeros.default", [[1 << 16]]), ("aten.unsqueeze.default", [r(0), 1]),
        ("aten.add.Tensor", [r(0), r(1)]),
    ],
    "convolution, inside": [
        ("aten.zeros.default", [[1, 1, 1 << 12, 1 << 9]]), ("aten.zeros.default", [[1, 1, 1 << 11, 1 << 8]]),
        ("aten.conv2d.default", [r(0), r(1)]),
    ],
    "convolution, padding": [
        ("aten.zeros.default", [[1, 1, 2, 2]]),
        ("aten.conv2d.default", [r(0), r(0), None, [1, 1], [1 << 17] * 2]),
    ],
    "im2col": [
        ("aten.zeros.default", [[1, 1, 1 << 10, 1 << 10]]),
        ("aten.im2col.default", [r(0), [1 << 9, 1 << 9], [1, 1], [0, 0], [1, 1]]),
    ],
    "unfold": [("aten.zeros.default", [[1 << 20]]), ("aten.unfold.default", [r(0), 0, 1 << 18, 1])],
    "doubled": [
        ("aten.cat.default", [[SAMPLES, SAMPLES]]),
        *[("aten.cat.default", [[r(k), r(k)]]) for k in range(30)],
    ],
    "a number": [
        ("aten.sym_size.int", [SAMPLES, 1]), ("mul", [r(0), r(0)]), ("mul", [r(1), r(1)]),
        ("aten.zeros.default", [[r(2), 1 << 10]]),
    ],
    "a number squared": [
        ("aten.sym_size.int", [SAMPLES, 1]), *[("mul", [r(k), r(k)]) for k in range(60)],
    ],
    "a list": [("mul", [[1, 2, 3], MANY])],
    "a list, turned": [("mul", [MANY, [0]])],
    "lists": [("add", [[0], [0]]), *[("add", [r(k), r(k)]) for k in range(60)]],
    "a text": [("mul", ["x", MANY])],
    "a formatted text": [("mod", ["%8000000000d", 1])],
    "many results": [("aten.tensor_split.sections", [SAMPLES, MANY])],
    "many single ones": [("aten.zeros.default", [[1 << 22]]), ("aten.unbind.int", [r(0)])],
    "many parts": [("aten.zeros.default", [[1 << 22]]), ("aten.split.Tensor", [r(0), 1])],
    "held": [("aten.zeros.default", [[1 << 22]]) for _ in range(30)] + [
        ("aten.stack.default", [[r(k) for k in range(30)]])
    ],
    "another device": [("aten.zeros.default", [[1 << 40]], {"device": "meta"})],
    "of unknown size": [("aten.gt.Scalar", [SAMPLES, 0]), ("aten.masked_select.default", [SAMPLES, r(0)])],
}  # fmt: skip


@contextmanager
def little_memory(limit: int) -> Iterator[None]:
    """Fails if the process holds so many bytes more at any time."""

    def figure(name: str) -> int:
        found = re.search(rf"{name}:\s+(\d+) kB", Path("/proc/self/status").read_text())
        return 1024 * int(found[1]) if found else 0

    before = figure("VmRSS")
    try:
        Path("/proc/self/clear_refs").write_text("5")  # from here on, VmHWM is new
    except OSError:
        before = figure("VmHWM")
    yield
    assert figure("VmHWM") - before < limit


@pytest.mark.parametrize("name", GREEDY)
def test_greedy_scripts(tokens: Files, name: str) -> None:
    with little_memory(400 << 20):
        refused(tokens.with_(first(*GREEDY[name])), "cannot do|would|would give a list|choose where")


def test_modest_ones(tokens: Files) -> None:
    """The same operations with small numbers."""
    modest = first(
        ("aten.full.default", [[1 << 11], 1.0]), ("aten.repeat.default", [SAMPLES, [4, 1]]),
        ("aten.sym_size.int", [SAMPLES, 1]), ("mul", [r(2), 3]), ("aten.zeros.default", [[r(3)]]),
        ("aten.tensor_split.sections", [SAMPLES, 3]), ("getitem", [r(5), 1]),
        ("aten.eye.default", [100]), ("aten.einsum.default", ["ab,ac->bc", [SAMPLES, SAMPLES]]),
    )  # fmt: skip
    found = plan_from_bytes(tokens.with_(modest))
    assert np.isfinite(found.simulate(X[:1].reshape(1, -1))).all()


def test_a_script_that_needs_more_than_zeros() -> None:
    """The client inverts what a layer gives, and zeros have no inverse."""

    class Whitening(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner, self.out = nn.Linear(4, 9, bias=False), nn.Linear(9, 2)

        def forward(self, x: Tensor) -> Tensor:
            y = self.inner(x).reshape(-1, 3, 3)
            return self.out(torch.linalg.inv(y).reshape(-1, 9).clamp(-1, 1))

    torch.manual_seed(0)
    x = np.random.default_rng(0).normal(size=(20, 4))
    plan = securedl.compile(Whitening(), x, activations="client")
    found = plan_from_bytes(plan.to_bytes())
    np.testing.assert_array_equal(found.simulate(x[:2]), plan.simulate(x[:2]))


# --- at random ---------------------------------------------------------------------------------------

NUMBERS: list[Any] = [
    None, True, -1, 0, 1, 2, 3, 7, 64, 1 << 12, 1 << 20, 1 << 24, 1 << 31, 1 << 40, 1 << 63, 1 << 70, 0.5,
    -0.0, 1e300, float("nan"), float("inf"), "x", "", "aten.relu.default", [], [0], {}, {"r": 0}, {"c": "k0"},
]  # fmt: skip


def change_meta(meta: Meta, draw: random.Random) -> None:
    """Replace, drop, repeat or move something somewhere, in place."""
    place: Any = meta
    while True:
        keys = list(place) if isinstance(place, dict) else list(range(len(place)))
        key = draw.choice(keys)
        old = place[key]
        if isinstance(old, dict | list) and old and draw.random() < 0.85:
            place = old
            continue
        choices = list(NUMBERS)
        if isinstance(old, int | float) and not isinstance(old, bool):
            choices += [old + 1, old - 1, old * 2, float(old), -old] * 3
        how = draw.random()
        if isinstance(place, list) and how < 0.15:
            place.insert(draw.randrange(len(place) + 1), copy.deepcopy(old))
        elif isinstance(place, list) and how < 0.25:
            other = draw.randrange(len(place))
            place[key], place[other] = place[other], old
        elif isinstance(place, list) and how < 0.35:
            del place[draw.randrange(len(place)) :]
        elif how < 0.45:
            del place[key]
        else:
            place[key] = copy.deepcopy(draw.choice(choices))
        return


def change_array(arrays: Arrays, draw: random.Random) -> None:
    """Another type, shape or number, or another array in its place."""
    name = draw.choice(list(arrays))
    found = arrays[name]
    kind = draw.randrange(9)
    if kind == 0:
        del arrays[name]
    elif kind == 1:
        arrays[name] = arrays[draw.choice(list(arrays))]
    elif kind == 2:
        types: list[Any] = [np.float32, np.int64, np.int8, np.bool_, np.complex128, np.uint16, "U4", "M8[s]"]
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            arrays[name] = found.astype(draw.choice(types))
    elif kind == 3:
        shapes = [found.reshape(-1), found[None], found[..., None], found.T, found.reshape(-1)[:0]]
        arrays[name] = draw.choice([*shapes, np.zeros(()), np.concatenate([found.reshape(-1)] * 2)])
    elif kind == 4 and found.ndim:
        axis = draw.randrange(found.ndim)
        arrays[name] = np.take(found, range(found.shape[axis] - 1), axis)
    else:
        values = [np.nan, np.inf, -np.inf, 0.0, -1.0, 1e300, -1e300, 1e-300, 1e6]
        changed = found.astype(np.float64) if found.dtype != np.float64 and kind == 5 else found.copy()
        with np.errstate(all="ignore"), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            value = np.float64(draw.choice(values)).astype(changed.dtype)
        if kind == 6 or not changed.size:
            changed = np.full_like(changed, value)
        else:
            changed.flat[draw.randrange(changed.size)] = value
        arrays[name] = changed


def attack(files: Files, draw: random.Random) -> bool:
    """Whether a changed file is refused; what is not gives a plan that simulates a sample."""

    def change(meta: Meta, arrays: Arrays) -> None:
        for _ in range(draw.choice([1, 1, 2])):
            change_meta(meta, draw) if draw.random() < 0.75 else change_array(arrays, draw)

    data = files.with_(change)
    try:
        found = plan_from_bytes(data)
    except InputError:
        return True
    with warnings.catch_warnings(), np.errstate(all="ignore"):
        warnings.simplefilter("ignore")  # of samples that are left out
        x = X[:1].reshape(1, *found.input_shape)
        answer = found.simulate(x)
    assert answer.shape == (1, *found.signature.output.shape)
    assert found.summary()
    assert sum(1 for _ in found.weight_slots()) == len(found.program.weight_shapes)
    return False


def run(files: Files, seed: int, count: int) -> None:
    draw = random.Random(seed)
    with little_memory(500_000_000):
        refusals = sum(attack(files, draw) for _ in range(count))
    assert refusals > 0.6 * count


@pytest.mark.parametrize("which", ["conv", "tokens", "powers"])
def test_changed_files(which: str, request: pytest.FixtureRequest) -> None:
    run(request.getfixturevalue(which), 1, 20)


@pytest.mark.slow
@pytest.mark.parametrize("which", ["conv", "tokens", "powers"])
def test_many_changed_files(which: str, request: pytest.FixtureRequest) -> None:
    run(request.getfixturevalue(which), 2, 1000)
