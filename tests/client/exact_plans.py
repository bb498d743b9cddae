"""Small plans of whole numbers."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
from torch import nn

from securedl.compiler.compile import Asked, Sources
from securedl.compiler.exact import Wish, exact_candidates
from securedl.compiler.quantise import Widths
from securedl.plan.plan import Plan
from securedl.plan.signature import Link

sys.path.insert(0, str(Path(__file__).parent))
from every_form import X, network


def whole(model: nn.Module, x: np.ndarray, samples: int = 32, ring: int = 8192, **options: Any) -> Plan:
    """A plan of whole numbers for one ring."""
    asked = Asked(x, samples, True, Link())
    ways, output = Sources(model, asked)._imported
    wish = Wish(samples, asked.link, asked.prices, asked.queries, ring, **options)
    (candidate,) = exact_candidates(ways[0], wish, output)
    assert candidate.make is not None
    return candidate.make()


EXACT = {
    "squares": lambda: whole(network("relu", 2), X),
    "cubics": lambda: whole(network("tanh", 3), X, widths=Widths(5, 5, 5)),
    "powers": lambda: whole(network("relu", 4), X, samples=64, widths=Widths(7, 7, 5)),
}
