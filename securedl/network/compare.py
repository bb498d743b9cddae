"""Whether an imported network is the one that was given: run both on data."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, fx, nn

from securedl.errors import CompileError
from securedl.network.capture import Captured, evaluation, leaves
from securedl.network.from_torch import Imported
from securedl.network.polynomial import PolynomialActivation

#: Samples of the comparison.
COMPARED = 64
#: Differences of a network in double precision from its graph, in parts of the answers' size, that are
#: rounding.
DOUBLE_ROUNDING = 1e-6
#: How many times a network's own difference between single and double precision.
OWN_ROUNDING = 16
#: Share of calibration values outside a fitted interval, above that of the fit, that is no accident.
OUTSIDE = 0.1


def check_same(model: nn.Module, imported: Imported, x: NDArray[np.float64]) -> None:
    """Refuse a graph that does not give what the model gives.

    Args:
        x: samples [samples, *shape]; the first `COMPARED` are compared.

    Raises:
        CompileError: names the first operation that differs, or says that the model itself gives other values
            at each call, or for other numbers of samples.
    """
    x = x[:COMPARED]
    double, again = _run(model, x, torch.float64), _run(model, x, torch.float64)
    single = _run(model, x, torch.float32)
    given = next(found for found in (double, single) if found is not None)
    answer = imported.graph(x).reshape(len(x), *imported.output_shape)
    answer = imported.head(answer)
    if answer.shape != given.shape:
        raise CompileError(
            f"the network gives {list(given.shape)} for {len(x)} samples, its graph {list(answer.shape)}"
        )
    size = float(np.abs(given).max())
    allowed = DOUBLE_ROUNDING * size
    if double is not None and single is not None:
        allowed += OWN_ROUNDING * float(np.abs(double - single).max())
    elif single is not None:
        allowed = 1e-3 * size
    found = float(np.abs(answer - given).max())
    if found <= allowed:
        return
    if double is not None and again is not None and not np.array_equal(double, again):
        raise CompileError(
            "the network gives other answers at each call: an encrypted one cannot; leave out what is random "
            "or counts calls"
        )
    raise CompileError(
        f"the imported network differs from the model by {found:.3g} of {size:.3g}{_first(imported, x)}: it "
        "may depend "
        "on the number of samples, on the call, or on state that changed since it was made"
    )


def check_intervals(model: nn.Module, x: NDArray[np.float64]) -> None:
    """Refuse calibration data that lie outside the intervals on which `approximate` fitted the polynomials.

    Raises:
        CompileError: names the activation, its interval and the share of values outside.
    """
    fits = {
        m: name
        for name, m in model.named_modules()
        if isinstance(m, PolynomialActivation) and m.outside is not None
    }
    if not fits:
        return
    seen: dict[nn.Module, tuple[float, float, float]] = {}

    def record(module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        assert isinstance(module, PolynomialActivation)
        share = float((module.normalised(inputs[0]).abs() > 1).double().mean())
        seen[module] = max(
            seen.get(module, (0.0, 0.0, 0.0)), (share, float(inputs[0].min()), float(inputs[0].max()))
        )

    hooks = [module.register_forward_pre_hook(record) for module in fits]
    try:
        with evaluation(model), torch.no_grad():
            first = next(model.parameters(), torch.zeros(()))
            for part in np.array_split(x, -(-len(x) // 256)):
                model(torch.as_tensor(part, dtype=first.dtype, device=first.device))
    finally:
        for hook in hooks:
            hook.remove()
    for module, (share, low, high) in seen.items():
        assert isinstance(module, PolynomialActivation)
        assert module.outside is not None
        if share > module.outside + OUTSIDE:
            lo, hi = (
                float((module.centre - module.radius).min()),
                float((module.centre + module.radius).max()),
            )
            raise CompileError(
                f"{share:.0%} of the calibration values of {fits[module]} ({module.name}) are outside "
                f"[{lo:.3g}, "
                f"{hi:.3g}], where approximate fitted it ({module.outside:.1%} were); they reach from "
                f"{low:.3g} to "
                f"{high:.3g}: scale x_train as it was scaled for approximate, or call approximate with these "
                "samples"
            )


def _run(model: nn.Module, x: NDArray[np.float64], dtype: torch.dtype) -> NDArray[np.float64] | None:
    """What a copy of the model in this precision gives; None if it runs in its own only."""
    own = next((p.dtype for p in model.parameters() if p.is_floating_point()), dtype)
    try:
        running = model if own == dtype else copy.deepcopy(model).to(dtype)
        with evaluation(running), torch.no_grad():
            first = next(running.parameters(), torch.zeros(()))
            found = running(torch.as_tensor(x, dtype=dtype, device=first.device))
        return _tensor(found).cpu().double().numpy()
    except Exception:
        if own == dtype:
            raise
        return None


def _tensor(found: Any) -> Tensor:
    tensor: Tensor = leaves(found)[0]
    return tensor.detach()


def _first(imported: Imported, x: NDArray[np.float64]) -> str:
    """Where the difference begins, if the captured operations show it."""
    network: Captured = copy.deepcopy(imported.captured).double()
    names = {node.name: node for node in imported.captured.graph.nodes}
    place = ""

    class Compare(fx.Interpreter):
        def run_node(self, n: fx.Node) -> Any:
            nonlocal place
            result = super().run_node(n)
            if not place and isinstance(result, Tensor) and n.op.startswith("call"):
                graph = imported.upto(names[n.name])
                if graph is not None:
                    want = result.detach().numpy().reshape(len(x), -1)
                    if np.abs(graph(x) - want).max() > 1e-6 * max(float(np.abs(want).max()), 1e-300):
                        place = imported.captured.origin(names[n.name]).path
            return result

    with torch.no_grad():
        try:
            Compare(network).run(torch.as_tensor(x))
        except Exception:
            return ""
    return f", first in {place}" if place else ""
