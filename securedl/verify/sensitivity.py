"""How strongly the softmax outputs answer to the weights, and the slope of that in the input.

    S(x) = Σ_k ‖∂f_k/∂ω‖²,  f = softmax(logits)

(VerIDeep, He et al., arXiv 1808.03277, equation 7; SecureDL, Xu et al., ACSAC 2020, equation 4.) Neither
paper says whether f is softmax or logits, and that decides everything. On logits, with the last layer's
weights, S is C (‖a‖² + 1): it brightens the input and catches no more than natural samples do. On softmax it
drives samples to decision boundaries. No Jacobian is formed: see `ghost`.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from securedl.network.graph import Array
from securedl.verify.differentiable import AnyNetwork, Differentiable, Layers

CHUNK = 1 << 22  # values of a layer at once, samples x outputs x features: 32 MiB in double precision


class Sensitivity:
    """log S of a network, and its gradient in the input.

    The logarithm has the same direction of ascent, and neither overflows nor vanishes: where softmax
    saturates, S is below 1e-300 on confident samples of a wide box and its gradient is exactly 0.

    Args:
        layers: whose weights ω are, "all" or "last"; see `Differentiable` for what counts as one. The last
            takes one backward pass, all take two for each class.

    Example:
        height, slope = Sensitivity(model, layers="last")(images)
    """

    def __init__(
        self,
        network: AnyNetwork,
        *,
        layers: Layers = "all",
        dtype: torch.dtype = torch.float64,
    ) -> None:
        self._network = Differentiable(network, layers, dtype)
        self._all = layers == "all"

    def __call__(self, x: Array) -> tuple[Array, Array]:
        """(log S [samples], ∂ log S/∂x [samples, ...]); not finite where the network overflows."""
        heights, slopes = np.empty(len(x)), np.empty(np.shape(x))
        size = self._chunk(np.shape(x)[1:])
        for first in range(0, len(x), size):
            part = slice(first, first + size)
            inputs = self._network.tensor(x[part])
            found = self._log(inputs)
            (slope,) = torch.autograd.grad(found.sum(), inputs)
            heights[part], slopes[part] = found.detach().numpy(), slope.numpy()
        return heights, slopes

    def _chunk(self, shape: tuple[int, ...]) -> int:
        """Samples at a time."""
        classes, width = self._network.sizes(shape)
        return max(1, CHUNK // (width * (classes if self._all else 1)))

    def _log(self, x: Tensor) -> Tensor:
        shift = x.new_zeros(len(x))

        def softmax_slopes(logits: Tensor) -> Tensor:
            nonlocal shift
            slope, shift = _softmax_jacobian(logits)
            return slope

        layers, slopes = self._network.slopes(x, softmax_slopes)
        total = torch.stack([layer.norm(slope) for layer, slope in zip(layers, slopes, strict=True)]).sum(0)
        return torch.log(total) + 2.0 * shift


def _softmax_jacobian(z: Tensor) -> tuple[Tensor, Tensor]:
    """∂softmax(z)_k/∂z_j · exp(-shift) as [k, samples, j], and the constant shift [samples].

    Off the diagonal -f_k f_j, on it f_k (1 - f_k), every entry from its logarithm, so that the largest is
    1 whatever the logits. One logit is read as a sigmoid: a second class of logit 0 is put beside it.
    """
    single = z.shape[-1] == 1
    logits = torch.cat([z, torch.zeros_like(z)], -1) if single else z
    log_f = torch.log_softmax(logits, -1)
    eye = torch.eye(log_f.shape[-1], dtype=torch.bool)
    rest = torch.logsumexp(log_f[:, None, :].masked_fill(eye, -torch.inf), -1)
    other = torch.where(eye, rest[:, :, None], log_f[:, None, :])
    exponent = log_f[:, :, None] + other
    sign = torch.where(eye, 1.0, -1.0).to(z.dtype)
    shift = exponent.detach().amax((1, 2))
    jacobian = (sign * torch.exp(exponent - shift[:, None, None])).transpose(0, 1)
    return (jacobian[..., :1] if single else jacobian), shift
