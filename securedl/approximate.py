"""Replace activations by polynomials fitted on what they see, then fine-tune."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, fx, nn

from polyapprox import Approximation, FitError, activation, least_squares, lowest_degree
from securedl.activation import PolynomialActivation
from securedl.errors import InputError
from securedl.graph import samples_of
from securedl.torch_import import FUNCTIONS, METHODS, activation_name, module_of, trace

#: Samples of a pre-activation used in a fit; more changes the coefficients by less than 1 %.
FIT_SAMPLES = 20_000
#: Weight of a uniform grid beside the data, which keeps the tails of the fit sane.
GRID_WEIGHT = 0.05
#: The fitted interval is the observed one, wider by this factor.
WIDEN = 1.2
POOLS: dict[type[nn.Module], type[nn.Module]] = {nn.MaxPool1d: nn.AvgPool1d, nn.MaxPool2d: nn.AvgPool2d}


@dataclass(frozen=True)
class Replacement:
    """One activation that became a polynomial.

    Attributes:
        path: module path. function: what it was. degree, interval: of the fit.
        max_error: largest |f - p| on the calibration data, in units of the activation's output.
    """

    path: str
    function: str
    degree: int
    interval: tuple[float, float]
    max_error: float


def approximate(
    model: nn.Module,
    x_train: Any,
    y_train: Any = None,
    *,
    degree: int = 2,
    bound: float | None = None,
    epochs: int | None = None,
    learning_rate: float = 1e-3,
    batch_size: int = 64,
    trainable: bool = True,
    seed: int = 0,
) -> nn.Module:
    """A copy of the model whose activations are polynomials; max pooling becomes average pooling.

    Each polynomial is the least-squares fit on the pre-activations that the calibration data produce
    in the network replaced so far (SecureDL, section 4.1), with a light uniform grid beside them.

    Args:
        model: any network that torch.fx can trace. It is not changed.
        x_train: calibration samples [samples, ...].
        y_train: integer labels; if given, the copy is fine-tuned on them.
        degree: degree of every polynomial, or the highest one tried when `bound` is given.
        bound: largest error allowed on the calibration data's interval: the lowest degree within it is
            taken (SecureDL, Algorithm 1).
        epochs: of fine-tuning; 20 by default when labels are given.
        trainable: whether fine-tuning may move the polynomials' coefficients too.
        seed: of the fine-tuning's shuffles. Equal seeds give equal models.

    Returns:
        The new module, in evaluation mode; its attribute `replacements` lists a Replacement
        for each activation.

    Raises:
        InputError: bad samples or labels, a degree below 1, or an error bound that no degree reaches.
    """
    if degree < 1:
        raise InputError(f"degree must be at least 1, got {degree}")
    if epochs and y_train is None:
        raise InputError(f"fine-tuning for {epochs} epochs needs labels: pass y_train")
    x = torch.as_tensor(samples_of(x_train, what="x_train"))
    traced = trace(copy.deepcopy(model)).eval()
    x = x.to(next((p.dtype for p in traced.parameters()), torch.float32))
    sites = _sites(traced)
    replacements = []
    for node, path, name in sites:
        values = _inputs_of(traced, node, x)
        try:
            fit = _fit(name, values, degree, bound)
        except FitError as error:
            raise InputError(f"{path} ({name}): {error}") from error
        _put(traced, node, PolynomialActivation.of([fit], name, trainable))
        worst = float(np.abs(activation(name)(values) - fit(values)).max())
        replacements.append(Replacement(path, name, fit.degree, fit.domain, worst))
    traced.recompile()
    if y_train is not None:
        _fine_tune(
            traced,
            x,
            _labels(y_train, len(x)),
            20 if epochs is None else epochs,
            learning_rate,
            batch_size,
            seed,
        )
    setattr(traced, "replacements", tuple(replacements))  # noqa: B010 - modules type every attribute
    return traced.eval()


def _labels(y_train: Any, samples: int) -> Tensor:
    y = np.asarray(y_train.detach().cpu() if isinstance(y_train, Tensor) else y_train)
    if y.shape != (samples,) or not np.issubdtype(y.dtype, np.integer) or y.min() < 0:
        raise InputError(
            f"y_train must be {samples} class numbers (integers from 0), got {y.dtype} {list(y.shape)}"
        )
    return torch.as_tensor(y.astype(np.int64))


def _sites(traced: fx.GraphModule) -> list[tuple[fx.Node, str, str]]:
    """Activations in order, as (node, path, name); max pools are replaced on the way."""
    sites = []
    for node in list(traced.graph.nodes):
        if node.op == "call_module":
            module = traced.get_submodule(str(node.target))
            if type(module) in POOLS:
                pool = POOLS[type(module)](
                    module.kernel_size, module.stride, module.padding, module.ceil_mode
                )
                traced.set_submodule(str(node.target), pool)
        functional = node.op == "call_function" and node.target in FUNCTIONS
        method = node.op == "call_method" and node.target in METHODS
        if node.op == "call_module" or functional or method:
            module = module_of(traced, node)
            name = activation_name(module)
            if name is not None:
                sites.append((node, str(node.target) if node.op == "call_module" else node.name, name))
    return sites


def _inputs_of(traced: fx.GraphModule, node: fx.Node, x: Tensor) -> NDArray[np.float64]:
    """Values that reach `node`, flat."""
    seen: list[Tensor] = []

    class Stop(Exception):  # noqa: N818 - control flow, not an error
        pass

    class Tap(fx.Interpreter):
        def run_node(self, n: fx.Node) -> Any:
            if n is node:
                seen.append(self.fetch_args_kwargs_from_env(n)[0][0])
                raise Stop
            return super().run_node(n)

    traced.recompile()
    with torch.no_grad():
        for part in torch.split(x, 1024):
            try:
                Tap(traced, garbage_collect_values=False).run(part)
            except Stop:
                continue
    values = torch.cat([s.flatten() for s in seen]).double().numpy()
    lo, hi = values.min(), values.max()
    if len(values) > FIT_SAMPLES:
        values = np.random.default_rng(0).choice(values, FIT_SAMPLES, replace=False)
    return np.concatenate([values, [lo, hi]])


def _fit(name: str, values: NDArray[np.float64], degree: int, bound: float | None) -> Approximation:
    mid = (values.min() + values.max()) / 2
    half = max(WIDEN * (values.max() - values.min()) / 2, 1e-3)
    domain = (float(mid - half), float(mid + half))
    if bound is not None:
        return lowest_degree(activation(name), bound, domain, max_degree=degree, min_degree=1)
    grid = np.linspace(*domain, 201)
    weights = np.concatenate(
        [np.full(len(values), (1 - GRID_WEIGHT) / len(values)), np.full(201, GRID_WEIGHT / 201)]
    )
    points = np.concatenate([values, grid])
    return least_squares(activation(name), degree, domain, samples=points, sample_weights=weights)


def _put(traced: fx.GraphModule, node: fx.Node, module: nn.Module) -> None:
    """Let `module` stand where `node` is."""
    target = f"{node.name}_polynomial" if node.op != "call_module" else str(node.target)
    if node.op == "call_module" and sum(n.target == node.target for n in traced.graph.nodes) > 1:
        target = f"{str(node.target).replace('.', '_')}_{node.name}_polynomial"  # a module used twice
    if node.op == "call_module" and target == str(node.target):
        traced.set_submodule(target, module)
        return
    traced.add_submodule(target, module)
    with traced.graph.inserting_before(node):
        new = traced.graph.call_module(target, (node.args[0],))
    node.replace_all_uses_with(new)
    traced.graph.erase_node(node)


def _fine_tune(
    model: fx.GraphModule, x: Tensor, y: Tensor, epochs: int, learning_rate: float, batch_size: int, seed: int
) -> None:
    """Adam on cross-entropy; batch norm keeps its statistics, so the fitted intervals stay true."""
    generator = torch.Generator().manual_seed(seed)
    optimiser = torch.optim.Adam(model.parameters(), lr=learning_rate)
    for _ in range(epochs):
        for chosen in torch.split(torch.randperm(len(x), generator=generator), batch_size):
            optimiser.zero_grad()
            loss = nn.functional.cross_entropy(model(x[chosen]), y[chosen])
            if not torch.isfinite(loss):
                raise InputError(
                    "fine-tuning diverged: lower learning_rate or degree, and standardise the inputs"
                )
            loss.backward()  # type: ignore[no-untyped-call]
            nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimiser.step()
