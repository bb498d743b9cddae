"""Putting polynomials and average pooling where a traced network has activations and max pooling."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, fx, nn

from polyapprox import FitError, activation
from securedl.activations.observe import fit, observe
from securedl.activations.report import Replacement
from securedl.errors import InputError, UnsupportedLayerError
from securedl.network.from_torch import FUNCTIONS, METHODS, activation_name, module_of
from securedl.network.polynomial import PolynomialActivation

#: Samples that run through the network at once outside fine-tuning; bounds the memory of calibration.
PART = 256
POOLS: dict[type[nn.Module], type[nn.Module]] = {nn.MaxPool1d: nn.AvgPool1d, nn.MaxPool2d: nn.AvgPool2d}


@dataclass(frozen=True)
class Site:
    """An activation in the traced network."""

    node: fx.Node
    path: str
    name: str


def device_of(traced: nn.Module) -> torch.device:
    """Where the parameters are; the CPU if there are none."""
    return next((p.device for p in traced.parameters()), torch.device("cpu"))


def replace_pools(traced: fx.GraphModule) -> tuple[str, ...]:
    """Max pools become average pools of the same window; returns their paths.

    Raises:
        UnsupportedLayerError: a max pool that no average pool resembles.
    """
    found = []
    for path, module in list(traced.named_modules()):
        if type(module) in POOLS:
            if module.return_indices or module.dilation not in (1, (1,), (1, 1)):
                raise UnsupportedLayerError(
                    f"{path}: {type(module).__name__} with dilation or return_indices has no average pooling "
                    "of the same window: use its defaults"
                )
            pool = POOLS[type(module)](module.kernel_size, module.stride, module.padding, module.ceil_mode)
            traced.add_submodule(path, pool)
            found.append(path)
    return tuple(found)


def activation_sites(traced: fx.GraphModule) -> list[Site]:
    """Activations in the order in which they run."""
    sites = []
    for node in traced.graph.nodes:
        functional = node.op == "call_function" and node.target in FUNCTIONS
        method = node.op == "call_method" and node.target in METHODS
        if node.op == "call_module" or functional or method:
            name = activation_name(module_of(traced, node))
            if name is not None:
                path = str(node.target) if node.op == "call_module" else node.name
                sites.append(Site(node, path, name))
    return sites


def replace_activation(
    traced: fx.GraphModule,
    site: Site,
    x: Tensor,
    degree: int,
    bound: float | None,
    per_channel: bool,
    quantile: float,
    trainable: bool,
) -> tuple[PolynomialActivation, Replacement]:
    """Fit the polynomial of one site on what reaches it from x, and put it there.

    Raises:
        InputError: no polynomial within `bound`.
    """
    parts = ((part, len(part) / len(x)) for part in _inputs_of(traced, site.node, x))
    values = observe(parts, per_channel).values
    try:
        fits = [fit(site.name, row, degree, bound, quantile) for row in values]
    except FitError as error:
        raise InputError(f"{site.path} ({site.name}): {error}") from error
    module = PolynomialActivation.of(fits, site.name, trainable)
    _put(traced, site.node, module)
    exact = activation(site.name)
    gaps = np.array([exact(row) - p(row) for row, p in zip(values, fits, strict=True)])
    return module, Replacement(
        site.path,
        site.name,
        max(p.degree for p in fits),
        (min(p.domain[0] for p in fits), max(p.domain[1] for p in fits)),
        float(np.abs(gaps).max()),
        float(np.sqrt(np.mean(gaps**2))),
        channels=len(fits),
    )


def _source(node: fx.Node) -> fx.Node:
    """What an activation is applied to, passed by position or by name."""
    return node.all_input_nodes[0]


def _inputs_of(traced: fx.GraphModule, node: fx.Node, x: Tensor) -> Iterator[Tensor]:
    """Values that reach `node`, part by part."""
    seen: list[Tensor] = []

    class Stop(Exception):  # noqa: N818 - control flow, not an error
        pass

    class Tap(fx.Interpreter):
        def run_node(self, n: fx.Node) -> Any:
            if n is node:
                seen.append(self.env[_source(n)])
                raise Stop
            return super().run_node(n)

    traced.recompile()
    device = device_of(traced)
    for part in torch.split(x, PART):
        with torch.no_grad():
            try:
                Tap(traced).run(part.to(device))
            except Stop:
                yield seen.pop()


def _put(traced: fx.GraphModule, node: fx.Node, module: nn.Module) -> None:
    """Let `module` stand where `node` is."""
    module.to(device_of(traced))
    target = f"{node.name}_polynomial" if node.op != "call_module" else str(node.target)
    if node.op == "call_module" and sum(n.target == node.target for n in traced.graph.nodes) > 1:
        target = f"{str(node.target).replace('.', '_')}_{node.name}_polynomial"  # a module used twice
    if node.op == "call_module" and target == str(node.target):
        traced.add_submodule(target, module)  # in its place
        node.args, node.kwargs = (_source(node),), {}
        return
    traced.add_submodule(target, module)
    with traced.graph.inserting_before(node):
        new = traced.graph.call_module(target, (_source(node),))
    node.replace_all_uses_with(new)
    traced.graph.erase_node(node)
