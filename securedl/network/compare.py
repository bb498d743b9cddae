"""Whether an imported network is the one that was given: run both on data."""

from __future__ import annotations

import contextlib
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, fx, nn

from securedl.errors import CompileError
from securedl.network.any_number import BATCH
from securedl.network.capture import Captured, leaves
from securedl.network.evaluation import evaluation
from securedl.network.from_torch import Imported
from securedl.network.partition import Partitioned
from securedl.network.polynomial import PolynomialActivation

#: Samples of the comparison.
COMPARED = 64
#: Differences of a network in double precision from its graph, in parts of the answers' size, that are
#: rounding.
DOUBLE_ROUNDING = 1e-6
#: The same where torch cannot compute it in double precision.
SINGLE_ROUNDING = 1e-3
#: How many times a network's own difference between single and double precision.
OWN_ROUNDING = 16
#: Share of calibration values outside a fitted interval, above that of the fit, that is no accident.
OUTSIDE = 0.1


def check_captured(model: nn.Module, captured: Captured, x: NDArray[np.float64]) -> None:
    """Refuse a network whose captured operations are not what it does, in its own precision.

    Args:
        x: samples [samples, *shape]; the first `COMPARED` are compared.

    Raises:
        CompileError: says what the network depends on: the call, other samples beside one, their number, or
            what cannot be captured.
    """
    samples = _samples(model, x)
    with evaluation(model):  # one for all calls, so that what counts them shows
        answers = _answers(model, samples)
        if not np.isfinite(answers).all():
            raise CompileError(
                f"the network gives NaN or infinite answers{_first_not_finite(captured, samples)}: "
                "standardise its samples, and look for large weights and divisions by zero"
            )
        ours = _followed(captured, samples)
        allowed = _rounding(captured, samples, ours)
        _check_each_alone(model, samples, answers, allowed)
    found = float(np.abs(ours - answers).max()) if ours.shape == answers.shape else np.inf
    if not found <= allowed:
        raise CompileError(
            f"the captured network differs from the model by {found:.3g} of {np.abs(answers).max():.3g}: it "
            "depends on something that torch.export cannot see, such as the type of a tensor, an "
            "exception, .data, or whether it is being exported"
        )


def _followed(captured: Captured, x: Tensor) -> NDArray[np.float64]:
    """What the captured operations give, for another number of samples than they were captured for."""
    try:
        return _flat(_run_captured(captured, x), len(x))
    except Exception as error:
        raise CompileError(
            f"the network cannot be followed for {len(x)} samples, as it was for {BATCH}: it must do the "
            f"same for any number of samples ({_first_line(error)})"
        ) from error


def _check_each_alone(model: nn.Module, x: Tensor, answers: NDArray[np.float64], allowed: float) -> None:
    """Refuse other answers for fewer samples, with gradients, or at another call."""

    def differs(part: slice, gradients: bool = False) -> bool:
        try:
            found = _answers(model, x[part], gradients)
        except CompileError:  # it does not run so, which its user will see
            return False
        want = answers[part]
        return found.shape != want.shape or not bool((np.abs(found - want) <= allowed).all())

    every, one, rest = slice(None), slice(1), slice(1, None)
    if not differs(every) and not differs(one) and not differs(rest, gradients=True):
        return
    if differs(every) or differs(every):  # twice, for what takes turns
        reason = "at each call: an encrypted one cannot; leave out what is random or counts calls"
    elif differs(one) or differs(rest):
        reason = (
            "for a sample alone than among others: an encrypted network treats each sample by itself; leave "
            "out what mixes or counts samples"
        )
    else:
        reason = "where gradients are recorded: leave out what asks for requires_grad"
    raise CompileError(f"the network gives other answers {reason}")


def check_same(model: nn.Module, imported: Imported, x: NDArray[np.float64]) -> None:
    """Refuse a graph that does not give what the model gives.

    Args:
        x: samples [samples, *shape]; the first `COMPARED` are compared.

    Raises:
        CompileError: see `check_captured`; or names the first operation that differs.
    """
    check_captured(model, imported.captured, x)
    x = x[:COMPARED]
    samples = torch.as_tensor(x)
    allowed = DOUBLE_ROUNDING
    try:
        given = _run_double(imported.captured, samples)
    except Exception:  # operations of torch that only its own precision has
        given, allowed = _run_captured(imported.captured, _samples(model, x))[: len(x)], SINGLE_ROUNDING
    answer = imported.head(imported.graph(x).reshape(len(x), *imported.output_shape))
    if answer.shape != given.shape:
        raise CompileError(
            f"the network gives {list(given.shape)} for {len(x)} samples, its graph {list(answer.shape)}"
        )
    size = float(np.abs(given).max())
    found = float(np.abs(answer - given).max())
    if not found <= allowed * size:
        raise CompileError(
            f"the imported network differs from the model by {found:.3g} of {size:.3g}{_first(imported, x)}: "
            "please report it, with the network"
        )


def check_script(model: nn.Module, found: Partitioned, x: NDArray[np.float64]) -> None:
    """Refuse a script that does not give what the model gives.

    Args:
        x: samples [samples, *shape]; the first `COMPARED` are compared.

    Raises:
        CompileError: see `check_captured`; or the script differs.
    """
    check_captured(model, found.captured, x)
    x = x[:COMPARED]
    allowed = DOUBLE_ROUNDING
    try:
        given = _run_double(found.captured, torch.as_tensor(x))
    except Exception:  # operations of torch that only its own precision has
        given, allowed = _run_captured(found.captured, _samples(model, x))[: len(x)], SINGLE_ROUNDING
    answer = found.head(found.script.logits(x, found.kernels))
    size = float(np.abs(given).max())
    wrong = float(np.abs(answer - given).max()) if answer.shape == given.shape else np.inf
    if not wrong <= allowed * size:
        raise CompileError(
            f"the network split between client and server differs from the model by {wrong:.3g} of "
            f"{size:.3g}: please report it, with the network"
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


def _samples(model: nn.Module, x: NDArray[np.float64]) -> Tensor:
    """The samples that are compared, two at least, as the model takes them."""
    first = next((p for p in model.parameters() if p.is_floating_point()), torch.zeros(()))
    few = x[:COMPARED] if len(x) > 1 else np.concatenate([x, x])
    return torch.as_tensor(few, dtype=first.dtype, device=first.device)


def _answers(model: nn.Module, x: Tensor, gradients: bool = False) -> NDArray[np.float64]:
    """What the model gives [samples, features].

    Raises:
        CompileError: it does not run on these samples, or gives something else than one tensor.
    """
    with torch.set_grad_enabled(gradients):
        try:
            found = leaves(model(x.clone()))
        except Exception as error:
            raise CompileError(
                f"the network does not run on {len(x)} samples of shape {list(x.shape[1:])}: "
                f"{_first_line(error)}"
            ) from error
    if len(found) != 1 or not isinstance(found[0], Tensor):
        raise CompileError(f"the network gives {len(found)} results: return one tensor")
    answers = found[0].detach().cpu().double().numpy()
    return _flat(answers, len(x))


def _flat(answers: NDArray[np.float64], count: int) -> NDArray[np.float64]:
    if answers.size % count or not answers.size:
        raise CompileError(f"the network gives {list(answers.shape)} for {count} samples")
    return answers.reshape(count, -1)


def _first_line(error: Exception) -> str:
    return f"{type(error).__name__}: {(str(error).strip() or 'no reason given').splitlines()[0]}"


def _run_captured(captured: Captured, x: Tensor) -> NDArray[np.float64]:
    """What the captured operations give, in the precision of the samples."""
    with torch.no_grad():
        found: Tensor = fx.Interpreter(captured).run(x.clone())
    return found.cpu().double().numpy()


def _run_double(captured: Captured, x: Tensor) -> NDArray[np.float64]:
    with torch.no_grad():
        found: Tensor = _Double(captured).run(x.double())
    return found.cpu().numpy()


class _Double(fx.Interpreter):
    """The operations in double precision, whatever precision they were written for."""

    def get_attr(self, target: Any, args: Any, kwargs: Any) -> Any:
        """A constant."""
        value = super().get_attr(target, args, kwargs)
        return value.double() if isinstance(value, Tensor) and value.is_floating_point() else value

    def call_function(self, target: Any, args: Any, kwargs: Any) -> Any:
        """An operation; its casts to single precision are none."""
        args, kwargs = fx.node.map_aggregate(
            (args, kwargs), lambda one: torch.float64 if one is torch.float32 else one
        )
        return super().call_function(target, args, kwargs)


def _first_not_finite(captured: Captured, x: Tensor) -> str:
    """Where NaN and infinities begin."""
    place = ""

    class Look(fx.Interpreter):
        def run_node(self, n: fx.Node) -> Any:
            nonlocal place
            result = super().run_node(n)
            numbers = n.op.startswith("call") and isinstance(result, Tensor)
            if not place and numbers and not bool(torch.isfinite(result).all()):
                place = f", first in {captured.origin(n).path}"
            return result

    with torch.no_grad(), contextlib.suppress(Exception):  # what it runs into is said elsewhere
        Look(captured).run(x.clone())
    return place


def _rounding(captured: Captured, x: Tensor, answers: NDArray[np.float64]) -> float:
    """Difference that a network's own precision explains."""
    size = float(np.abs(answers).max())
    try:
        double = _flat(_run_double(captured, x), len(x))
    except Exception:  # operations of torch that only its own precision has
        return SINGLE_ROUNDING * size
    return DOUBLE_ROUNDING * size + OWN_ROUNDING * float(np.abs(double - answers).max())


def _first(imported: Imported, x: NDArray[np.float64]) -> str:
    """Where the difference begins, if the captured operations show it."""
    place = ""

    class Compare(_Double):
        def run_node(self, n: fx.Node) -> Any:
            nonlocal place
            result = super().run_node(n)
            if not place and isinstance(result, Tensor) and n.op.startswith("call"):
                graph = imported.upto(n)
                if graph is not None:
                    want = result.detach().cpu().numpy().reshape(len(x), -1)
                    if np.abs(graph(x) - want).max() > 1e-6 * max(float(np.abs(want).max()), 1e-300):
                        place = imported.captured.origin(n).path
            return result

    with torch.no_grad():
        try:
            Compare(imported.captured).run(torch.as_tensor(x))
        except Exception:
            return ""
    return f", first in {place}" if place else ""
