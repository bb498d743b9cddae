"""What differs between schemes: slots, scales, encoding, and what rounding costs. Each is one file.

Everybody else asks `schemes.scheme_of(params)`. Scales are exact doubles; a scheme without scales keeps its
own figure in their place (BGV a correction factor).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from securedl.he.arithmetic import Arithmetic, H
from securedl.he.params import Parameters
from securedl.he.record import Shape

Slots = NDArray[np.float64]


class Encoder(Protocol):
    """Slots to plaintexts of SEAL and back."""

    def encode(self, slots: Slots, shape: Shape) -> Any:
        """A plaintext of slots [n] at the shape's level and scale.

        Raises:
            ValueError, RuntimeError: SEAL's, where values do not fit.
        """

    def decode(self, plain: Any) -> Slots:
        """Slots [n]."""


class Simulator(Arithmetic[H]):
    """An evaluator in the clear."""

    @abstractmethod
    def fresh(self, slots: Slots, shape: Shape) -> H:
        """What encoding (and, for a ciphertext, encrypting) slots [n], [rows, n] where there are several, or
        coefficients [N] gives.
        """

    @abstractmethod
    def slots(self, handle: H) -> Slots:
        """What decrypting gives, [n] or [rows, n]."""

    def known(self, handle: H, read: NDArray[np.int64]) -> H:
        """What a client has read: what stands in slot k, in slot read[k], int64 [n]. By default the same."""
        return handle

    @abstractmethod
    def coefficients(self, handle: H) -> Slots:
        """What decrypting gives in the coefficient form, [N]."""


class CoefficientForm(NamedTuple):
    """How values stand in coefficients (`plan.bands`).

    Attributes:
        level: of what is sent, and of weights. value_scale, weight_scale: of these.
    """

    level: int
    value_scale: float
    weight_scale: float


class Scheme(ABC):
    """One scheme. It has no state."""

    name: str
    #: Largest magnitude that an encrypted value may have.
    value_limit: float
    coefficient_form: CoefficientForm

    @abstractmethod
    def parameters(self, ring: int, levels: int) -> Parameters:
        """A modulus chain of 128 bits of security.

        Raises:
            CompileError: none offers so many levels.
        """

    @abstractmethod
    def slots(self, ring: int) -> tuple[int, int]:
        """Rows that rotate by themselves, and slots of each."""

    @abstractmethod
    def scale(self, params: Parameters) -> float:
        """The scale on which values rest between layers."""

    @abstractmethod
    def product(self, params: Parameters, level: int, left: float, right: float) -> float:
        """Scale of a product at `level`, rescaled to `level` - 1."""

    @abstractmethod
    def whole(self, params: Parameters, left: float, right: float) -> float:
        """Scale of a product that is not rescaled."""

    @abstractmethod
    def lowered(self, params: Parameters, scale: float, level: int, to: int) -> float:
        """Scale of a value that is switched from a level down to another."""

    @abstractmethod
    def same(self, one: float, other: float) -> bool:
        """Whether two scales are one: what is added must agree."""

    @abstractmethod
    def factor(self, params: Parameters, level: int, given: float, wanted: float) -> float:
        """Scale of a weight, so that its product with a value of scale `given` lands on `wanted`."""

    @abstractmethod
    def rounding(self, params: Parameters, scale: float) -> float:
        """Standard deviation that one rescaling leaves in a slot, in units of values."""

    @abstractmethod
    def simulator(self, params: Parameters, noise: np.random.Generator | None) -> Simulator[Any]:
        """An evaluator in the clear; with `noise` it adds the modelled errors."""

    @abstractmethod
    def variances(self, params: Parameters, secret: Any = None) -> Simulator[Any]:
        """An evaluator in the clear, exact, in which decrypting gives the variance of honest errors.

        Args:
            secret: |s|² of a secret key in each slot, [n]; else the mean of all keys.
        """

    @abstractmethod
    def encoder(self, context: Any) -> Encoder:
        """SEAL's encoder; context: a SealContext."""
