"""A fingerprint: samples with the logits that the owner's network gives on them. No torch here."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from securedl.errors import FormatError, InputError
from securedl.network.graph import Array


@dataclass(frozen=True, eq=False, repr=False)
class Fingerprint:
    """Samples and what an honest server answers.

    Attributes:
        samples: float64 [samples, features], features in row-major order of the input.
        kinds: how each was made: "sensitive", "natural" or "wide".
        logits: float64 [samples, classes] of the network that is evaluated.
    """

    samples: Array
    kinds: tuple[str, ...]
    logits: Array

    def __post_init__(self) -> None:
        if self.samples.ndim != 2 or self.logits.ndim != 2:
            raise InputError(
                f"fingerprint: samples {self.samples.shape} and logits {self.logits.shape} must be 2-D"
            )
        if not len(self.samples) == len(self.kinds) == len(self.logits):
            raise InputError(
                f"fingerprint: {len(self.samples)} samples, {len(self.kinds)} kinds and "
                f"{len(self.logits)} rows of logits must be as many"
            )
        if not (np.isfinite(self.samples).all() and np.isfinite(self.logits).all()):
            raise InputError("fingerprint: a sample or a logit is not finite")

    def __len__(self) -> int:
        return len(self.samples)

    @property
    def natural(self) -> list[int]:
        """Which samples are calibration data."""
        return [number for number, kind in enumerate(self.kinds) if kind == "natural"]

    @property
    def labels(self) -> NDArray[np.int64]:
        """int64 [samples]."""
        return np.asarray(np.argmax(self.logits, axis=1), dtype=np.int64)

    def to_arrays(self) -> dict[str, NDArray[Any]]:
        """For `numpy.savez`; no object arrays, so no pickle."""
        return {"samples": self.samples, "kinds": np.array(self.kinds, dtype=np.str_), "logits": self.logits}

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, NDArray[Any]]) -> Fingerprint:
        """The inverse of `to_arrays`; FormatError for anything else."""
        missing = {"samples", "kinds", "logits"} - set(arrays)
        if missing:
            raise FormatError(f"fingerprint: arrays {sorted(missing)} are missing")
        samples, kinds, logits = (np.asarray(arrays[name]) for name in ("samples", "kinds", "logits"))
        if samples.dtype != np.float64 or logits.dtype != np.float64 or kinds.dtype.kind != "U":
            raise FormatError(
                f"fingerprint: samples {samples.dtype}, kinds {kinds.dtype}, logits {logits.dtype}; "
                "expected float64, text, float64"
            )
        try:
            return cls(samples, tuple(str(kind) for kind in kinds), logits)
        except (InputError, TypeError) as error:
            raise FormatError(str(error)) from error
