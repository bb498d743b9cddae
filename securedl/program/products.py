"""Where a program multiplies ciphertexts."""

from __future__ import annotations

from securedl.program.convolve import Convolve
from securedl.program.program import Program
from securedl.program.steps import Matvec, Multiply


def has_products_behind_matrices(program: Program) -> bool:
    """Whether ciphertexts are multiplied that a matrix or a convolution gave, with no refresh between."""
    behind = set[int]()
    for step in program.steps:
        follows = not behind.isdisjoint(step.reads())
        if follows and isinstance(step, Multiply):
            return True
        if isinstance(step, (Matvec, Convolve)) or (follows and not step.refreshes):
            behind.add(step.out)
    return False
