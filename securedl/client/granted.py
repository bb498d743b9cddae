"""What an owner grants to a client without weights: secret sums of them, by which it tests every value.

Of a layer with `out` outputs, K sums r·y know rᵀW: K numbers for each input, and out - K of its weights stay
open. So there are half as many sums as outputs at most, and none of a layer with one output; what is computed
there is tested by probes, half as many as it has inputs at most. A layer whose weights are shared by many
outputs, as a convolution's, has fewer weights than a sum has numbers: there they can be solved for.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from securedl.client.ledger import Ledger
from securedl.client.modular import ModularCheck, ModularProjections
from securedl.client.probes import Verification
from securedl.client.projected import Projected, ProjectionCheck, projections
from securedl.client.tolerances import Tolerance
from securedl.client.verifier import Probed, Verifier
from securedl.errors import InputError
from securedl.network.graph import Array
from securedl.plan.network import Exchange, of, under, within_headroom
from securedl.plan.outliers import Screened, screen_by
from securedl.plan.projection import ModularProjection, Projection
from securedl.plan.signature import Signature
from securedl.plan.signature_file import signature_from_parts, signature_parts
from securedl.verify.check import ValueCheck
from securedl.verify.fingerprint import Fingerprint

#: Probes of a kit, at most.
MOST_PROBES = 16


class Granted(Verifier):
    """See the module; no weight, and no calibration sample.

    Args:
        tolerances: of each segment. reach: see `Verifier`.
        sums: of each segment, None where it has none.
        probes: with what they must receive; None where all segments have sums.
    """

    def __init__(
        self,
        signature: Signature,
        tolerances: list[Tolerance],
        reach: float,
        sums: Sequence[Projected | ModularProjection | None],
        probes: Probed | None = None,
        ledger: Ledger | None = None,
    ) -> None:
        self._signature, self._tolerances, self._reach = signature, tolerances, reach
        self.sums, self._probes, self.ledger = tuple(sums), probes, ledger or Ledger()

    @staticmethod
    def of(known: Verification) -> Granted:
        """By an owner's knowledge; sums are drawn afresh.

        Raises:
            InputError: a client computes parts of the network, which are weights; or no box is known in which
                samples do not overflow.
        """
        plan, signature = known.plan, known.plan.signature
        if signature.rounds is not None:
            raise InputError(
                "this plan cannot be granted: layers are computed one by one, and whoever asks does what is "
                "between them, with biases and norms; compile with activations='server', ring=8192"
            )
        if not signature.input_limit:
            raise InputError(
                "this plan cannot be granted: no box is known in which samples do not overflow, so each has "
                "to be tried with the weights"
            )
        sums: list[Projected | None] | list[ModularProjection | None]
        if plan.program.params.exact:
            t = plan.program.params.plain_modulus
            sums = ModularProjections(plan.network, t).fewer()
        else:
            sums = projections(plan, plan.network, known.tolerances, fewer=True)
        probes = _probes(known, sums)
        return Granted(signature, known.tolerances, known.reach, sums, probes)

    @property
    def signature(self) -> Signature:
        """See `Verifier`."""
        return self._signature

    @property
    def tolerances(self) -> list[Tolerance]:
        """See `Verifier`."""
        return self._tolerances

    @property
    def probes(self) -> Probed | None:
        """See `Verifier`."""
        return self._probes

    @property
    def reach(self) -> float:
        """See `Verifier`."""
        return self._reach

    @property
    def neutral(self) -> Array:
        """See `Verifier`: the middle of the box."""
        return self._signature.input_offset

    def screened(self, x: Any, outliers: str) -> Screened:
        """See `Verifier`: by the box of the signature."""

        def outside(flat: Array) -> NDArray[np.bool_]:
            return np.asarray(np.abs(self._signature.query(flat)).max(axis=1) > self._signature.input_limit)

        return screen_by(outside, self._signature, self.neutral[None], x, outliers)

    def every(self) -> Callable[[], ValueCheck]:
        """See `Verifier`."""
        if self._signature.program.params.exact:
            return partial(
                ModularCheck, [one if isinstance(one, ModularProjection) else None for one in self.sums]
            )
        return partial(ProjectionCheck, [one if isinstance(one, Projected) else None for one in self.sums])

    # --- in a file -------------------------------------------------------------------------------

    def to_parts(self) -> tuple[Any, dict[str, Any]]:
        """What JSON can hold, and arrays; docs/deploy.md explains each."""
        meta, arrays = signature_parts(self._signature)
        found = under("signature", arrays)
        forms = []
        for number, (tolerance, one) in enumerate(zip(self._tolerances, self.sums, strict=True)):
            found |= under(f"tolerance{number}", tolerance.to_arrays())
            form, parts = (None, {}) if one is None else one.to_parts()
            forms.append(form)
            found |= under(f"sums{number}", parts)
        found["ledger"] = self.ledger.to_array()
        if self._probes is not None:
            found |= under("probes", self._probes.to_arrays())
        return {"signature": meta, "reach": self._reach, "forms": forms}, found

    @staticmethod
    def from_parts(meta: Any, arrays: Mapping[str, Any]) -> Granted:
        """The inverse of `to_parts`."""
        signature = signature_from_parts(meta["signature"], of("signature", arrays))
        tolerances, sums = list[Tolerance](), list[Projected | ModularProjection | None]()
        kind = ModularProjection if signature.program.params.exact else Projection
        for number, form in enumerate(meta["forms"]):
            tolerances.append(Tolerance.from_arrays(of(f"tolerance{number}", arrays), None))
            if form is None:
                sums.append(None)
                continue
            one = kind.from_parts(form, of(f"sums{number}", arrays))
            sums.append(Projected(one, tolerances[-1]) if isinstance(one, Projection) else one)
        probes = of("probes", arrays)
        return Granted(
            signature, tolerances, float(meta["reach"]), sums,
            Probed.from_arrays(probes, len(tolerances)) if probes else None,
            Ledger.from_array(arrays["ledger"]),
        )  # fmt: skip


def _probes(known: Verification, sums: Sequence[Any]) -> Probed | None:
    """Random samples, and random values at refreshes, with what segments without sums must make of them: half
    as many as such a segment has inputs at most. None where nothing would be compared.
    """
    plan, random = known.plan, np.random.default_rng(secrets.randbits(64))
    points, network, limit = plan.signature.checkpoints, plan.network, plan.program.scheme.value_limit
    low, high = plan.signature.box
    widths = [exchange.sent.shape[1] for exchange in network.exchanges(plan.neutral[None], points)]
    open_ = [k for k, one in enumerate(sums) if one is None and points[k].back is not None]
    count = min([MOST_PROBES, *(widths[k] // 2 for k in open_)])
    if not open_ or count < 1:
        return None
    samples = random.uniform(low, high, (count, len(low)))
    samples = np.where(within_headroom(network, samples, limit)[:, None], samples, plan.neutral)
    exchanges, grown = list[Exchange](), list[Array]()
    for number, (width, allowed) in enumerate(zip(widths, known.tolerances, strict=True)):
        sent = network.exchanges(samples, points)[0].sent
        if number:
            sent = network.random_sent(random, (count, width))
        *stages, last = network.inside(number + 1, sent, points)
        received = last.values if number in open_ else np.zeros((0, 0))
        exchanges.append(Exchange(sent, received))
        grown.append(np.ones(0) if allowed.tiles else allowed.grown(stages))
    fingerprint = Fingerprint(samples, ("random",) * count, np.zeros((count, plan.classes)))
    return Probed(fingerprint, tuple(exchanges), tuple(grown))
