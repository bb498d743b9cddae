"""Samples that would overflow under encryption: refused, left out, or clipped, each by itself.

What is done here takes the same time whatever the samples are, and leaves as many of them: a server must not
learn from the size or the moment of a query whether there were outliers in it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from securedl.arguments import shown
from securedl.errors import InputError
from securedl.network.graph import Array
from securedl.plan.network import Network, within_headroom
from securedl.plan.signature import Signature

#: What can be done about samples that would overflow.
OUTLIERS = ("raise", "skip", "clip")
#: Samples evaluated at a time, so that memory does not grow with their number.
AT_ONCE = 256
NAMED_SAMPLES = 5


@dataclass(frozen=True, eq=False)
class Screened:
    """Samples none of which overflows.

    Attributes:
        samples: [samples, features], as many as were given; one that is skipped has a calibration sample in
            its place. skipped, clipped: which of them, ascending.
    """

    samples: Array
    skipped: NDArray[np.int64]
    clipped: NDArray[np.int64]


def screen(
    signature: Signature, network: Network, harmless: Array, x: Any, outliers: str, what: str = "x"
) -> Screened:
    """As `screen_by`, each sample tried on a network."""
    limit = signature.channels[0].scheme.value_limit
    tried = partial(overflowing, network, limit=limit)
    return screen_by(tried, signature, harmless, x, outliers, what)


def screen_by(
    overflows: Callable[[Array], NDArray[np.bool_]],
    signature: Signature,
    harmless: Array,
    x: Any,
    outliers: str,
    what: str = "x",
) -> Screened:
    """Samples that can be encrypted, from those given [samples, ...].

    Args:
        overflows: which of samples [samples, features] would.
        harmless: samples [any number, features] that take the places of those that are skipped.
        outliers: one of `OUTLIERS`; what "clip" cannot bring into range is skipped.

    Raises:
        InputError: wrong shape, NaN or infinite; with "raise", a sample that would overflow.
    """
    if outliers not in OUTLIERS:
        raise InputError(f"outliers must be 'raise', 'skip' or 'clip', got {shown(outliers)}")
    flat = signature.flat(x, what)
    skip = overflows(flat)
    if outliers == "raise" and skip.any():
        raise InputError(_sentence(signature, flat, np.flatnonzero(skip), what))
    clip = np.zeros_like(skip)
    if outliers == "clip":
        boxed = signature.clipped(flat)
        clip = skip & ~overflows(boxed)
        flat, skip = np.where(clip[:, None], boxed, flat), skip & ~clip
    stand_ins = harmless[np.arange(len(flat)) % len(harmless)]
    return Screened(np.where(skip[:, None], stand_ins, flat), np.flatnonzero(skip), np.flatnonzero(clip))


def overflowing(network: Network, flat: Array, limit: float) -> NDArray[np.bool_]:
    """Which of the samples [samples, features] make an encrypted value larger than `limit`: exactly."""
    parts = [flat[at : at + AT_ONCE] for at in range(0, len(flat), AT_ONCE)]
    return np.concatenate([~within_headroom(network, part, limit) for part in parts])


def listed(indices: NDArray[np.int64], what: str = "x") -> str:
    """The first few of some samples, for a sentence: `x[3], x[77]`."""
    first = ", ".join(f"{what}[{index}]" for index in indices[:NAMED_SAMPLES])
    return first + (f" and {len(indices) - NAMED_SAMPLES} more" if len(indices) > NAMED_SAMPLES else "")


def _sentence(signature: Signature, flat: Array, found: NDArray[np.int64], what: str) -> str:
    sample = int(found[0])
    ratio = np.abs(signature.query(flat[sample]))
    feature = int(ratio.argmax())
    name = repr(signature.columns[feature]) if signature.columns else str(feature)
    return (
        f"{len(found)} sample(s) would overflow under encryption: {listed(found, what)}; in {what}[{sample}] "
        f"feature {name} is {flat[sample, feature]:.6g}, {ratio[feature]:.3g} times its range in the "
        "calibration data. Scale the data as those were, compile with samples that reach so far, or pass "
        "outliers='skip' or outliers='clip'"
    )
