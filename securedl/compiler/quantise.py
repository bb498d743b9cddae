"""A normalised network to whole numbers: scales of rows, and bounds from which the plain modulus follows."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import NamedTuple

import numpy as np
from scipy import sparse

from securedl.errors import CompileError, InputError
from securedl.he.modular import MODULUS_BITS
from securedl.network.graph import Array
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


def check_widths(widths: Sequence[int] | None) -> tuple[Widths, ...]:
    """Three numbers of bits; those that are tried in turn.

    Raises:
        InputError: they are not, or are too few or too many.
    """
    if widths is None:
        return DEFAULT_WIDTHS
    found = tuple(widths)
    if len(found) != 3 or not all(type(one) is int and LEAST_BITS <= one <= MOST_BITS for one in found):
        raise InputError(
            f"bits are three whole numbers from {LEAST_BITS} to {MOST_BITS}, of inputs, weights and "
            f"refreshed values, got {found!r}"
        )
    return (Widths(*found),)


def quantise_within(network: Normalised, widths: Sequence[Widths]) -> Quantised:
    """`quantise` with the first of these that a plain modulus holds.

    Raises:
        CompileError: none does; what the first one needs.
    """
    reasons = list[CompileError]()
    for one in widths:
        try:
            return quantise(network, one)
        except CompileError as reason:
            reasons.append(reason)
    raise reasons[0]


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
    for number, layer in enumerate(network.layers):
        last = number + 1 == len(network.layers)
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
