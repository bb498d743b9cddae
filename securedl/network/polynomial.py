"""The polynomial activation as a PyTorch module."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from polyapprox import Approximation
from securedl.errors import InputError


@torch.library.custom_op("securedl::polynomial", mutates_args=())
def _exported(x: Tensor, coefficients: Tensor, centre: Tensor, radius: Tensor) -> Tensor:
    """What an exported network has in place of the activation; `capture` puts the module back."""
    raise NotImplementedError


@_exported.register_fake
def _(x: Tensor, coefficients: Tensor, centre: Tensor, radius: Tensor) -> Tensor:
    return torch.empty_like(x)


class PolynomialActivation(nn.Module):
    """p(x) = Σ_k c_k T_k((x - mid) / half), one polynomial for all features or one for each channel.

    The Chebyshev basis keeps fine-tuning well conditioned at any interval; `power` gives the plain one.

    Args:
        coefficients: Chebyshev coefficients [degree + 1] or [degree + 1, channels].
        domain: (lo, hi), the interval of the fit, or one such pair for each channel.
        trainable: whether fine-tuning may move the coefficients.
        name: the activation it stands for.

    Attributes:
        outside: share of the calibration values outside the interval when it was fitted; None if it was not.
    """

    coefficients: Tensor
    centre: Tensor
    radius: Tensor

    def __init__(
        self,
        coefficients: NDArray[np.float64],
        domain: NDArray[np.float64] | Sequence[float] | Sequence[Sequence[float]],
        trainable: bool = False,
        name: str = "polynomial",
    ) -> None:
        super().__init__()
        table = torch.as_tensor(np.asarray(coefficients, dtype=np.float64))
        if table.ndim == 1:
            table = table[:, None]
        lo, hi = np.asarray(domain, dtype=np.float64).reshape(-1, 2).T
        if table.ndim != 2 or table.shape[0] < 2 or not np.all(lo < hi):
            raise InputError(
                "a polynomial activation needs degree >= 1 and lo < hi, got coefficients of shape "
                f"{list(table.shape)} and domain {domain}"
            )
        if len(lo) not in (1, table.shape[1]):
            raise InputError(
                f"a polynomial activation needs one domain or one for each of its {table.shape[1]} "
                f"channels, got {len(lo)}"
            )
        self.name = name
        self.outside: float | None = None
        if trainable:
            self.coefficients = nn.Parameter(table)
        else:
            self.register_buffer("coefficients", table)
        self.register_buffer("centre", torch.as_tensor((lo + hi) / 2))
        self.register_buffer("radius", torch.as_tensor((hi - lo) / 2))

    @classmethod
    def of(cls, fits: Sequence[Approximation], name: str, trainable: bool = False) -> PolynomialActivation:
        """One activation from fits, one for each channel or a single one; lower degrees get zeros."""
        table = np.zeros((max(fit.degree for fit in fits) + 1, len(fits)))
        for column, fit in enumerate(fits):
            table[: fit.degree + 1, column] = fit.coefficients
        return cls(table, np.array([fit.domain for fit in fits]), trainable, name)

    @property
    def degree(self) -> int:
        """Degree of the polynomial."""
        return self.coefficients.shape[0] - 1

    def _along_channels(self, values: Tensor, x: Tensor) -> Tensor:
        return (
            values.to(x.dtype).reshape(-1, *[1] * (x.ndim - 2)) if values.numel() > 1 else values.to(x.dtype)
        )

    def normalised(self, x: Tensor) -> Tensor:
        """u = (x - mid) / half, in [-1, 1] where x lies inside the interval of the fit; x's shape."""
        return (x - self._along_channels(self.centre, x)) / self._along_channels(self.radius, x)

    def forward(self, x: Tensor) -> Tensor:
        """x: [samples, channels, ...] to the same shape, by Clenshaw's recurrence."""
        if torch.compiler.is_exporting():
            return torch.ops.securedl.polynomial(x, self.coefficients, self.centre, self.radius)  # type: ignore[no-any-return]
        u = self.normalised(x)
        rows = [self._along_channels(row, x) for row in self.coefficients]
        after, current = torch.zeros_like(rows[-1]), rows[-1]
        for row in rows[-2:0:-1]:
            after, current = current, torch.addcmul(row - after, 2 * u, current)
        return torch.addcmul(rows[0] - after, u, current)

    def power(self) -> NDArray[np.float64]:
        """Ascending power-basis coefficients [degree + 1, channels or 1]."""
        columns = []
        for c, mid, half in zip(
            self.coefficients.detach().cpu().double().numpy().T,
            np.broadcast_to(self.centre.cpu().numpy(), self.coefficients.shape[1:]),
            np.broadcast_to(self.radius.cpu().numpy(), self.coefficients.shape[1:]),
            strict=True,
        ):
            fit = Approximation(tuple(c.tolist()), (float(mid - half), float(mid + half)), 0.0, 0.0)
            columns.append(fit.power())
        table: NDArray[np.float64] = np.array(columns).T
        return table

    def extra_repr(self) -> str:
        """Shown by print(model)."""
        channels = self.coefficients.shape[1]
        return f"{self.name}, degree={self.degree}" + (f", channels={channels}" if channels > 1 else "")
