"""Where a captured network has activations and max pooling, which polynomials and average pooling replace."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, fx, nn

from polyapprox import Activation, FitError, activation
from securedl.activations.observe import fit, observe
from securedl.activations.report import Replacement
from securedl.errors import InputError, UnsupportedLayerError
from securedl.network.capture import Captured
from securedl.network.ending import ending_of
from securedl.network.moves import MOVING
from securedl.network.operations import MAX_POOLS, is_elementwise, is_random, kind_of
from securedl.network.polynomial import PolynomialActivation

#: Samples that run through the network at once outside fine-tuning; bounds the memory of calibration.
PART = 256
#: Operations of which the importer makes polynomials as they are; some of them of constants only.
POLYNOMIAL = frozenset(
    [
        "add", "sub", "subtract", "rsub", "mul", "multiply", "div", "divide", "true_divide", "neg",
        "negative", "positive", "pow", "square", "addcmul",
        "zeros_like", "ones_like", "full_like", "to", "_to_copy",
    ]
)  # fmt: skip
_POLYNOMIAL_OF_CONSTANTS = {"div": 1, "divide": 1, "true_divide": 1, "pow": 1}


@dataclass(frozen=True, eq=False)
class Site:
    """An activation: operations whose last is a function, element by element, of one tensor.

    Attributes:
        node: the last. base: the tensor's. region: all of them, in order.
        path: where it is. name: what it is, in polyapprox's table if it is there.
    """

    node: fx.Node
    base: fx.Node
    region: tuple[fx.Node, ...]
    path: str
    name: str


def device_of(traced: nn.Module) -> torch.device:
    """Where the parameters are; the CPU if there are none."""
    return next((p.device for p in traced.parameters()), torch.device("cpu"))


def replace_pools(traced: Captured) -> tuple[str, ...]:
    """Max pools become average pools of the same window; returns their paths.

    Raises:
        UnsupportedLayerError: a max pool that no average pool resembles.
    """
    found = []
    for node in list(traced.graph.nodes):
        kind = kind_of(node.target) if node.op == "call_function" else ""
        if kind not in MAX_POOLS:
            continue
        path = traced.origin(node).path
        results = [user for user in node.users if kind_of(user.target) == "getitem"]
        dilation = [] if kind.startswith("adaptive") else _list(_argument(node, 4, "dilation", 1))
        if any(d != 1 for d in dilation) or any(user.args[1] == 1 and user.users for user in results):
            raise UnsupportedLayerError(
                f"{path}: {kind} with dilation or return_indices has no average pooling "
                "of the same window: use its defaults"
            )
        new = _average_pool(traced, node, kind)
        traced.origins[new.name] = traced.origin(node)
        for user in results:
            user.replace_all_uses_with(new)
            traced.graph.erase_node(user)
        node.replace_all_uses_with(new)
        traced.graph.erase_node(node)
        found.append(path)
    traced.recompile()
    return tuple(dict.fromkeys(found))


def _average_pool(traced: Captured, node: fx.Node, kind: str) -> fx.Node:
    axes = next(d for d in kind if d.isdigit())
    adaptive = kind.startswith("adaptive")
    name = f"{'adaptive_' if adaptive else ''}avg_pool{axes}d"
    x, window = node.args[:2]
    args: tuple[Any, ...] = (x, window)
    if not adaptive:
        stride = _argument(node, 2, "stride", [])
        padding, ceil = _argument(node, 3, "padding", 0), _argument(node, 5, "ceil_mode", False)
        args = (x, _list(window), _list(stride) or _list(window), _list(padding), ceil)
    with traced.graph.inserting_before(node):
        return traced.graph.call_function(getattr(torch.ops.aten, name).default, args)


def _argument(node: fx.Node, place: int, name: str, default: Any) -> Any:
    return node.args[place] if place < len(node.args) else node.kwargs.get(name, default)


def _list(value: Any) -> list[Any]:
    return list(value) if isinstance(value, list | tuple) else [value]


def activation_sites(traced: Captured) -> list[Site]:
    """Activations in the order in which they run.

    A function that is written in several operations, as x · sigmoid(x) is, is one activation.
    """
    found = _Sites(traced)
    covered: set[fx.Node] = set()
    sites = []
    for node in reversed(list(traced.graph.nodes)):
        site = None if node in covered else found.at(node)
        if site is not None:
            covered |= set(site.region)
            sites.append(site)
    return sites[::-1]


class _Sites:
    """Which operations belong together."""

    def __init__(self, traced: Captured) -> None:
        self.traced = traced
        self.ending = ending_of(traced).nodes
        self.order = {node: k for k, node in enumerate(traced.graph.nodes)}
        self.depends: set[fx.Node] = set()
        #: What an element-wise operation is a function of; itself for others.
        self.base: dict[fx.Node, fx.Node] = {}
        for node in traced.graph.nodes:
            if node.op == "placeholder" or any(n in self.depends for n in node.all_input_nodes):
                self.depends.add(node)
                bases = {self.base[n] for n in self._inputs(node)} if self._elementwise(node) else set()
                self.base[node] = bases.pop() if len(bases) == 1 else node

    def _inputs(self, node: fx.Node) -> list[fx.Node]:
        return [n for n in node.all_input_nodes if n in self.depends]

    def _elementwise(self, node: fx.Node) -> bool:
        return (
            node.op == "call_function"
            and node not in self.ending
            and node in self.depends
            and is_elementwise(node.target)
            and not is_random(node)
            and kind_of(node.target) not in MOVING
        )

    def _polynomial(self, node: fx.Node) -> bool:
        kind = kind_of(node.target)
        if kind == "pow":
            power = node.args[1]
            return isinstance(power, int | float) and power == int(power) and power >= 1
        if kind in ("where", "masked_fill"):
            return node.args[0 if kind == "where" else 1] not in self.depends
        constant = _POLYNOMIAL_OF_CONSTANTS.get(kind)
        if constant is not None and (node.args[constant] in self.depends or node.kwargs.get("rounding_mode")):
            return False
        return kind in POLYNOMIAL

    def _region(self, node: fx.Node) -> list[fx.Node]:
        """Between a node and its base."""
        found, todo = {node}, [node]
        while todo:
            for n in self._inputs(todo.pop()):
                if n is not self.base[node] and n not in found:
                    found.add(n)
                    todo.append(n)
        return sorted(found, key=lambda n: self.order[n])

    def at(self, node: fx.Node) -> Site | None:
        """The activation that ends here, if one does."""
        if not self._elementwise(node):
            return None
        inputs = self._inputs(node)
        base = self.base[node]
        region = self._region(node) if base is not node else [node]
        bent = [n for n in region if not self._polynomial(n)]
        if not bent or (len(inputs) == 1 and self._polynomial(node)):
            return None
        closed = all(user in region for n in bent if n is not node for user in n.users)
        if len(inputs) == 1 and (bent == [node] or not closed):
            region, base = [node], inputs[0]  # what comes before is imported as it is
        elif base is node or not closed:
            return None
        names = dict.fromkeys(kind_of(n.target) for n in region if not self._polynomial(n))
        return Site(
            node, base, tuple(region), self.traced.origin(node).path, _name(node, region, "·".join(names))
        )


def _name(node: fx.Node, region: list[fx.Node], kinds: str) -> str:
    """polyapprox's name of an activation with its usual constants, or what torch calls it."""
    usual = {
        "softplus": len(node.args) < 2 or node.args[1] == 1,
        "gelu": node.kwargs.get("approximate", "none") == "none",
    }
    return kinds if len(region) > 1 or usual.get(kinds, True) else f"{kinds}*"


class _Function:
    """A site's function on numbers, from the operations themselves, in double precision."""

    def __init__(self, traced: Captured, site: Site) -> None:
        self.site = site
        found: dict[fx.Node, Any] = {}
        interpreter = fx.Interpreter(traced)
        for node in traced.graph.nodes:  # constants, and what is computed from constants
            if node.op == "get_attr":
                found[node] = interpreter.fetch_attr(str(node.target))
            elif node.op == "call_function" and all(n in found for n in node.all_input_nodes):
                args, kwargs = fx.map_arg((node.args, node.kwargs), found.__getitem__)
                found[node] = node.target(*args, **kwargs)
            if node is site.node:
                break
        read = {n for node in site.region for n in node.all_input_nodes if n in found}
        self.constants = {n: _double(found[n]) for n in read}
        #: Constants for each channel, or 1.
        self.channels = max((c.numel() for c in self.constants.values() if isinstance(c, Tensor)), default=1)

    def __call__(self, values: Tensor) -> Tensor:
        """Of a tensor as the base is, double."""
        known = {**self.constants, self.site.base: values}
        for node in self.site.region:
            args, kwargs = fx.map_arg((node.args, node.kwargs), known.__getitem__)
            known[node] = node.target(*args, **kwargs)  # type: ignore[operator]
        result: Tensor = known[self.site.node]
        return result

    def of_channel(self, number: int, axes: int) -> Activation:
        """The function of numbers in one channel of a tensor with so many axes."""

        def values(x: NDArray[np.float64]) -> NDArray[np.float64]:
            flat = torch.as_tensor(x, dtype=torch.float64).reshape(-1, 1)
            with torch.no_grad():
                wide = flat.expand(-1, self.channels).reshape(len(flat), self.channels, *[1] * (axes - 2))
                return self(wide)[:, number % self.channels].reshape(x.shape).numpy()

        return Activation(self.site.name, values, (-np.inf, np.inf))


def _double(value: Any) -> Any:
    return value.detach().cpu().double() if isinstance(value, Tensor) and value.is_floating_point() else value


def replace_activation(
    traced: Captured,
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
        InputError: no polynomial within `bound`, or a function that is not one of each element alone.
    """
    function = _Function(traced, site)
    first = next(_values_of(traced, site.base, x[:2]))
    if function.channels > 1 and (first.ndim < 2 or first.shape[1] != function.channels):
        raise InputError(
            f"{site.path} ({site.name}) has {function.channels} constants for values of shape "
            f"{list(first.shape[1:])}: give it one, or one for each channel"
        )
    parts = ((part, len(part) / len(x)) for part in _values_of(traced, site.base, x))
    values = observe(parts, per_channel or function.channels > 1).values
    exact = [_exact(site, function, channel, first.ndim) for channel in range(len(values))]
    try:
        fits = [fit(f, row, degree, bound, quantile) for f, row in zip(exact, values, strict=True)]
    except FitError as error:
        raise InputError(f"{site.path} ({site.name}): {error}") from error
    gaps = np.array([f(row) - p(row) for f, row, p in zip(exact, values, fits, strict=True)])
    module = PolynomialActivation.of(fits, site.name, trainable)
    _put(traced, site, module)
    return module, Replacement(
        site.path,
        site.name,
        max(p.degree for p in fits),
        (min(p.domain[0] for p in fits), max(p.domain[1] for p in fits)),
        float(np.abs(gaps).max()),
        float(np.sqrt(np.mean(gaps**2))),
        channels=len(fits),
    )


def _exact(site: Site, function: _Function, channel: int, axes: int) -> Activation:
    if len(site.region) == 1:
        try:
            return activation(site.name)
        except FitError:
            pass
    return function.of_channel(channel, axes)


def _values_of(traced: Captured, node: fx.Node, x: Tensor) -> Iterator[Tensor]:
    """Values of `node`, part by part."""

    class Stop(Exception):  # noqa: N818 - control flow, not an error
        pass

    class Tap(fx.Interpreter):
        def run_node(self, n: fx.Node) -> Any:
            result = super().run_node(n)
            if n is node:
                seen.append(result)
                raise Stop
            return result

    seen: list[Tensor] = []
    traced.recompile()
    device = device_of(traced)
    for part in torch.split(x, PART):
        with torch.no_grad():
            try:
                Tap(traced).run(part.to(device))
            except Stop:
                yield seen.pop()


def _put(traced: Captured, site: Site, module: nn.Module) -> None:
    """Let `module` stand where the site is."""
    module.to(device_of(traced))
    target = site.path
    taken = {str(n.target) for n in traced.graph.nodes if n.op in ("call_module", "get_attr")}
    if any(name == target or name.startswith(f"{target}.") for name in taken) or not _free(traced, target):
        target = f"{site.path.replace('.', '_')}_{site.node.name}_polynomial"
    traced.add_submodule(target, module)
    with traced.graph.inserting_before(site.node):
        new = traced.graph.call_module(target, (site.base,))
    traced.origins[new.name] = traced.origin(site.node)
    site.node.replace_all_uses_with(new)
    for node in reversed(site.region):
        if not node.users:
            traced.graph.erase_node(node)


def _free(traced: Captured, path: str) -> bool:
    """Whether a module can be put there: nothing is in the way."""
    holder: Any = traced
    for part in path.split("."):
        if not isinstance(holder, nn.Module):
            return False
        if not hasattr(holder, part):
            return part.isidentifier() or part.isdigit()
        holder = getattr(holder, part)
    return isinstance(holder, nn.Module) and not any(True for _ in holder.children())
