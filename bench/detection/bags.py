"""Bags of samples for each network of the papers' tables, by method, made once and kept."""

from __future__ import annotations

import inspect
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor, nn

from bench.detection.subjects import Images, kept, sums, told
from securedl.network.graph import Array
from securedl.verify import ties
from securedl.verify.ascent import climbed, level_steps, sensitive_samples, verideep_samples
from securedl.verify.samples import natural_samples, uniform_samples
from securedl.verify.ties import tie_samples

#: Samples of a bag, VerIDeep's number, and of ties, each of which takes the slopes of all classes.
BAG, TIES, QUICK_BAG = 100, 24, 10
#: Steps of the searches: VerIDeep's number, and those of the others.
STEPS = {"VerIDeep": 1000, "SecureDL": 1000, "tie": 30}
#: Of an image's values, and of what may be asked encrypted, where nobody sees that it is no image.
BOX, WIDE = (0.0, 1.0), (-1.0, 2.0)
#: Of a tie's logits: the winner leads by 2.2 of it.
TOLERANCE = 1e-4
METHODS = ("natural", "uniform", "VerIDeep", "SecureDL", "tie")


def bags(name: str, model: nn.Sequential, data: Images, quick: bool) -> dict[str, Array]:
    """Samples [bag, channels, rows, columns] by method.

    The natural ones are of the test part, as in the paper, and all searches start from others of it. Both
    papers' take the last layer's weights, VerIDeep's choice: slopes of all weights would take hours.
    """
    size, few = (QUICK_BAG if quick else BAG), (QUICK_BAG if quick else TIES)
    images = data.x_test.numpy()
    starts = natural_samples(images, size, seed=1)
    low, high = BOX

    def verideep() -> Array:
        return verideep_samples(model, starts, low=low, high=high, steps=_steps("VerIDeep", quick))

    def securedl() -> Array:
        steps = _steps("SecureDL", quick)
        return sensitive_samples(model, starts, low=low, high=high, seed=2, layers="last", steps=steps)

    def tie() -> Array:
        return tie_samples(
            model, starts[:few], low=WIDE[0], high=WIDE[1], tolerance=TOLERANCE, steps=_steps("tie", quick)
        ).samples

    return {
        "natural": natural_samples(images, size, seed=0),
        "uniform": uniform_samples(images.shape[1:], size, low=low, high=high, seed=0),
        "VerIDeep": _kept(name, model, "VerIDeep", verideep, quick),
        "SecureDL": _kept(name, model, "SecureDL", securedl, quick),
        "tie": _kept(name, model, "tie", tie, quick),
    }


def _steps(method: str, quick: bool) -> int:
    return STEPS[method] // 10 if quick else STEPS[method]


def _kept(name: str, model: nn.Sequential, method: str, make: Callable[[], Array], quick: bool) -> Array:
    """Samples of this model, by these sources."""
    if quick:
        return make()

    def made() -> dict[str, Tensor]:
        return told(f"{name}: samples, {method}", lambda: {"samples": torch.from_numpy(make())})

    parts = {
        "VerIDeep": (verideep_samples, climbed),
        "SecureDL": (sensitive_samples, climbed, level_steps),
        "tie": (tie_samples, ties),
    }
    settings = f"{BAG} {TIES} {STEPS[method]} {BOX} {WIDE} {TOLERANCE} {sums(model)}"
    sources = [*map(inspect.getsource, parts[method]), inspect.getsource(bags), settings]
    return np.asarray(kept(f"{name} {method}", sources, made)["samples"].numpy())
