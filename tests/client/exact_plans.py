"""Small plans of whole numbers."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
from torch import nn

import securedl
from securedl.plan.plan import Plan

sys.path.insert(0, str(Path(__file__).parent))
from every_form import X, network


def whole(model: nn.Module, x: np.ndarray, samples: int = 32, bits: tuple[int, int, int] = (8, 8, 8)) -> Plan:
    """A plan of whole numbers at N = 8192."""
    return securedl.compile(model, x, scheme="bgv", batch=samples, ring=8192, bits=bits)


EXACT = {
    "squares": lambda: whole(network("relu", 2), X),
    "cubics": lambda: whole(network("tanh", 3), X, bits=(5, 5, 5)),
    "powers": lambda: whole(network("relu", 4), X, samples=64, bits=(5, 5, 5)),
}
