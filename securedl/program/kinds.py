"""Kinds of step, by the names that they have in a program's bytes."""

from __future__ import annotations

from typing import Any

from securedl.program.convolve import Convolve
from securedl.program.steps import AddWeight, Matvec, Multiply, Refresh, Tap

STEPS: dict[str, type[Any]] = {
    "matvec": Matvec,
    "multiply": Multiply,
    "add_weight": AddWeight,
    "refresh": Refresh,
    "tap": Tap,
    "convolve": Convolve,
}
