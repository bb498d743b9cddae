"""A normalised network to whole numbers: scales of rows, and bounds from which the plain modulus follows."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple, TypeVar

import numpy as np
from scipy import sparse

from securedl.arguments import number, shown
from securedl.errors import CompileError, InputError
from securedl.he.modular import MODULUS_BITS
from securedl.network.graph import Array
from securedl.network.outputs import Output
from securedl.plan.congruent import Congruent
from securedl.plan.normalised import Layer, Normalised
from securedl.plan.quantised import Quantised, Requantised

#: What is sent reaches so many times what it does on the calibration data before it is clipped. With 1 or
#: 1.25 logits of wine were off by 11 % of their range, with 1.5 by 2 %.
CLIP_MARGIN = 1.5
LEAST_BITS, MOST_BITS = 3, 12


class Widths(NamedTuple):
    """Bits, a sign among them, of inputs, weights, and values that are refreshed."""

    inputs: int = 8
    weights: int = 8
    values: int = 8


def largest_of(bits: int) -> int:
    """The largest whole number of so many bits."""
    return (1 << (bits - 1)) - 1


def quantising_error(exact: Array, wanted: Array) -> float:
    """The largest difference between outputs [samples, outputs], in parts of an output's range."""
    ranges = np.maximum(np.ptp(wanted, axis=0), np.ptp(wanted, axis=0).max() / 8)
    return float((np.abs(exact - wanted).max(axis=0) / np.maximum(ranges, 1e-300)).max())


#: Widths that are tried in turn where none are asked for.
DEFAULT_WIDTHS = (Widths(), Widths(7, 7, 8), Widths(7, 7, 7), Widths(6, 6, 7))
#: The same for an accuracy.
FEWEST_FIRST = tuple(Widths(bits, bits, bits) for bits in range(LEAST_BITS, MOST_BITS + 1))
_Made = TypeVar("_Made")


def check_fineness(widths: Sequence[int] | None, accuracy: float | None) -> Fineness:
    """Of three numbers of bits, or of an accuracy, for which the fewest bits are taken.

    Raises:
        InputError: both; or they are none, too few or too many.
    """
    if accuracy is not None:
        if widths is not None:
            raise InputError("give bits or accuracy: with an accuracy the fewest bits are looked for")
        number(accuracy, "accuracy", least=0)
        if accuracy > 1:
            raise InputError(f"accuracy is a part from 0 to 1, got {shown(accuracy)}")
        return Fineness(FEWEST_FIRST, float(accuracy))
    if widths is None:
        return DEFAULT_FINENESS
    found = tuple(widths)
    if len(found) != 3 or not all(type(one) is int and LEAST_BITS <= one <= MOST_BITS for one in found):
        raise InputError(
            f"bits are three whole numbers from {LEAST_BITS} to {MOST_BITS}, of inputs, weights and "
            f"refreshed values, got {found!r}"
        )
    return Fineness((Widths(*found),))


@dataclass(frozen=True)
class Fineness:
    """How fine whole numbers are to be.

    Attributes:
        widths: tried in turn. accuracy: the least `labels_kept` with the network on the calibration data, or
            None for any.
    """

    widths: tuple[Widths, ...] = DEFAULT_WIDTHS
    accuracy: float | None = None

    def first(self, attempt: Callable[[Widths], _Made]) -> _Made:
        """What is made of the first widths that can be had.

        Raises:
            CompileError: none can; what is said of the first, or of the most accurate.
        """
        reasons = list[CompileError]()
        for one in self.widths:
            try:
                return attempt(one)
            except CompileError as reason:
                reasons.append(reason)
        coarse = [one for one in reasons if isinstance(one, TooCoarseError)]
        raise max(coarse, key=lambda one: one.agreement) if coarse else reasons[0]

    def check(self, output: Output, exact: Array, wanted: Array) -> None:
        """Refuse a network of whole numbers by its logits [samples, outputs], and the network's own.

        Raises:
            TooCoarseError: they agree less than is asked.
        """
        if self.accuracy is None:
            return
        found = labels_kept(output, exact, wanted)
        if found < self.accuracy:
            raise TooCoarseError(found, self.accuracy)


class TooCoarseError(CompileError):
    """Whole numbers that are not fine enough.

    Attributes:
        agreement: that they have.
    """

    def __init__(self, found: float, asked: float) -> None:
        super().__init__(
            f"accuracy={asked:g} cannot be had: the best whole numbers that a plain modulus and a ring hold "
            f"agree with the network on {100 * found:.2f} % of the calibration data"
        )
        self.agreement = found


DEFAULT_FINENESS = Fineness()


def labels_kept(output: Output, exact: Array, wanted: Array) -> float:
    """The share of calibration samples whose labels are the same; of regression 1 less the largest difference
    in parts of an output's range.

    Args:
        exact, wanted: logits [samples, outputs], of whole numbers and of the network.
    """
    labels, own = (output.labels(output.shaped(logits)) for logits in (exact, wanted))
    if labels is None or own is None:
        return 1 - quantising_error(exact, wanted)
    same = (labels == own).reshape(len(exact), -1).all(axis=1)
    return float(same.mean())


def quantise(network: Normalised, widths: Widths = Widths()) -> Quantised:  # noqa: B008 - immutable
    """The network in whole numbers.

    Rows of Ŵ are as fine as the largest entry lets them be, each with a scale of its own, and one for all in
    the last layer: logits are compared with each other. b̂ has the scale of its row.

    Raises:
        CompileError: a bound that no plain modulus reaches; names the layer and the bits that it needs. Or
            no polynomial between two affine maps.
    """
    inputs, values = largest_of(widths.inputs), largest_of(widths.values)
    sent = inputs / CLIP_MARGIN
    sources: tuple[float, ...] = (sent,)
    layers, factors, row_scale = list[Layer](), list[Array](), np.ones(0)
    for index, layer in enumerate(network.layers):
        last = index + 1 == len(network.layers)
        if not last and layer.form.degree == 1:
            raise CompileError(f"layer {layer.name!r} has no polynomial after it: join it with the next one")
        matrices, row_scale = _rows(layer, sources, largest_of(widths.weights), together=last)
        bias = np.rint(layer.bias * row_scale)
        form, sources = layer.form.whole(values / CLIP_MARGIN)
        layers.append(replace(layer, matrices=matrices, bias=bias, form=form))
        if not last:
            factors.append(values / CLIP_MARGIN / row_scale)
    client = Requantised(sent, inputs, tuple(factors), values)
    found = Quantised(
        network.input_scale, network.input_offset, client, tuple(layers),
        network.output_scale / row_scale, network.output_offset,
    )  # fmt: skip
    for layer, bound in zip(layers, found.bounds, strict=True):
        bits = math.log2(2 * bound.max() + 1)
        if bits > MODULUS_BITS:
            raise CompileError(
                f"layer {layer.name!r} needs {math.ceil(bits)} bits for its values, and a plain modulus has "
                f"{MODULUS_BITS} at most: use fewer bits for weights or refreshed values, or a lower degree"
            )
    return found


def quantise_through(network: Normalised, widths: Widths) -> Congruent:
    """The network in whole numbers with nothing rounded behind the query; its primes are not chosen yet.

    Each layer has one scale for all of its rows: with one for each row the next layer's weights, which are
    divided by these, were coarser (answers of digits 2 to 5 % of their range off, where these are 1 to 3 %
    with 6 bits), and values took 2 to 3 bits more.

    Raises:
        CompileError: values beyond all doubles.
    """
    inputs = largest_of(widths.inputs)
    sent = inputs / CLIP_MARGIN
    sources: tuple[float, ...] = (sent,)
    layers = list[Layer]()
    with np.errstate(over="ignore", invalid="ignore"):
        for layer in network.layers:
            matrices, scales = _rows(layer, sources, largest_of(widths.weights), together=True)
            form, sources = layer.form.whole(float(scales[0]))
            layers.append(replace(layer, matrices=matrices, bias=np.rint(layer.bias * scales), form=form))
        found = Congruent(
            network.input_scale, network.input_offset, Requantised(sent, inputs, (), 0), tuple(layers),
            network.output_scale / scales, network.output_offset,
        )  # fmt: skip
        if not all(np.isfinite(bound).all() for bound in found.bounds):
            raise CompileError("without a refresh values take more than 1000 bits: use a lower degree")
    return found


def _rows(
    layer: Layer, sources: Sequence[float], most: int, together: bool
) -> tuple[tuple[sparse.csr_matrix, ...], Array]:
    """Ŵ of each source, and how many times its row's value a whole number is [features].

    Of several powers the highest is rounded most coarsely: `most` is what the largest entry would be there.
    """
    largest = np.max([abs(matrix).max(axis=1).toarray().ravel() for matrix in layer.matrices], axis=0)
    largest = np.maximum(largest, np.finfo(np.float64).tiny)
    scale = most * max(sources) / (largest.max() if together else largest)
    scale = np.broadcast_to(scale, largest.shape)
    fine = (matrix / source for matrix, source in zip(layer.matrices, sources, strict=True))
    found = []
    for matrix in fine:
        whole = sparse.csr_matrix(sparse.diags_array(scale) @ matrix)
        whole.data = np.rint(whole.data)
        found.append(whole)
    return tuple(found), scale
