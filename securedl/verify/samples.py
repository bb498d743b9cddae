"""Samples that no search makes: from the data, at random, and images transformed.

All are float64 [samples, ...] in the units of the inputs, inside a box [low, high]: a number, or one for each
feature, in any shape that broadcasts to a sample's.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal, TypeAlias

import numpy as np
from numpy.typing import ArrayLike
from scipy import ndimage

from securedl.errors import InputError
from securedl.network.graph import Array, samples_of

Transform: TypeAlias = Literal["noise", "rotation", "distortion"]

#: VerIDeep shows its transforms (Figure 15) and gives no sizes: deviation of the noise as a share of the
#: box's width, degrees, and pixels.
STRENGTHS: dict[str, float] = {"noise": 0.1, "rotation": 30.0, "distortion": 2.0}
#: Pixels over which a distortion is smooth (Simard et al., ICDAR 2003, have 4 for 28 x 28).
SMOOTH = 4.0


def natural_samples(x_train: Any, count: int, *, seed: int) -> Array:
    """Samples [count, ...] of the data, all different while there are enough.

    Raises:
        InputError: no samples, or what is not finite.
    """
    rows = samples_of(x_train, what="x_train")
    rng = np.random.default_rng(seed)
    rounds = -(-count // len(rows))
    order = [rng.permutation(len(rows)) for _ in range(rounds)] or [np.zeros(0, dtype=np.int64)]
    return rows[np.concatenate(order)[:count]]


def uniform_samples(shape: Sequence[int], count: int, *, low: ArrayLike, high: ArrayLike, seed: int) -> Array:
    """Samples [count, *shape], uniform in the box."""
    lower, upper = box_of(shape, low, high)
    return np.random.default_rng(seed).uniform(lower, upper, (count, *shape))


def transformed_samples(
    images: Any, how: Transform, *, low: ArrayLike, high: ArrayLike, seed: int, strength: float | None = None
) -> Array:
    """Each image [samples, ..., rows, columns] transformed (VerIDeep, section VII-A).

    Args:
        how: "noise" is Gaussian; "rotation" turns by a uniform angle up to `strength` degrees either way;
            "distortion" moves each pixel by a smooth random field of `strength` pixels (root mean square).
        strength: the paper gives none; `STRENGTHS` has the defaults.

    Raises:
        InputError: another transform, or samples that are no images.
    """
    x = samples_of(images, what="images")
    if how not in STRENGTHS or x.ndim < 3:
        raise InputError(
            f"{how!r} of samples {list(x.shape)}; expected one of {sorted(STRENGTHS)} of images "
            "[samples, ..., rows, columns]"
        )
    lower, upper = box_of(x.shape[1:], low, high)
    size = STRENGTHS[how] if strength is None else strength
    rng = np.random.default_rng(seed)
    if how == "noise":
        moved = x + size * (upper - lower) * rng.standard_normal(x.shape)
    elif how == "rotation":
        angles = rng.uniform(-size, size, len(x))
        moved = np.stack([_rotated(image, angle) for image, angle in zip(x, angles, strict=True)])
    else:
        moved = np.stack([_distorted(image, size, rng) for image in x])
    return np.clip(moved, lower, upper)


def box_of(shape: Sequence[int], low: ArrayLike, high: ArrayLike) -> tuple[Array, Array]:
    """The box, one bound for each feature.

    Raises:
        InputError: bounds that do not broadcast, are not finite, or the lower above the upper.
    """
    try:
        lower, upper = (
            np.broadcast_to(np.asarray(side, dtype=np.float64), tuple(shape)) for side in (low, high)
        )
    except ValueError as error:
        raise InputError(
            f"the box needs a number, or one for each feature of {list(shape)}, for each side"
        ) from error
    if not (np.isfinite(lower).all() and np.isfinite(upper).all() and (lower <= upper).all()):
        raise InputError("the box must be finite, with low <= high for every feature")
    return lower, upper


def started(starts: Any, low: ArrayLike, high: ArrayLike) -> tuple[Array, Array, Array]:
    """Starts [samples, ...] of a search brought inside the box, and the box."""
    x = samples_of(starts, what="starts")
    lower, upper = box_of(x.shape[1:], low, high)
    return np.clip(x, lower, upper), lower, upper


def _rotated(image: Array, degrees: float) -> Array:
    found: Array = ndimage.rotate(image, degrees, axes=(-1, -2), reshape=False, order=1, mode="nearest")
    return found


def _distorted(image: Array, pixels: float, rng: np.random.Generator) -> Array:
    """Elastic: every channel by the same field."""
    size = image.shape[-2:]
    fields = [ndimage.gaussian_filter(rng.uniform(-1.0, 1.0, size), SMOOTH, mode="wrap") for _ in size]
    fields = [pixels * field / np.sqrt(np.mean(field * field)) for field in fields]
    places = np.indices(size) + np.stack(fields)
    flat = image.reshape(-1, *size)
    found = [ndimage.map_coordinates(channel, places, order=1, mode="nearest") for channel in flat]
    return np.stack(found).reshape(image.shape)
