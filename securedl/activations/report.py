"""What `approximate` did to a network, as plain data that can be read, compared and kept."""

from __future__ import annotations

import textwrap
from dataclasses import dataclass


@dataclass(frozen=True)
class Replacement:
    """One activation that became a polynomial.

    Attributes:
        path: module path. function: what it was. degree: of the polynomial.
        interval: (lo, hi) of the fit; over all channels where there is one polynomial for each.
        max_error, rms_error: of f - p on the calibration values when it was fitted, in units of the
            activation's output. Fine-tuning may move p away from f on purpose.
        outside: share of the calibration values outside the interval in the finished network.
        observed: smallest and largest calibration value in the finished network.
        channels: number of polynomials, 1 when all channels share one.
    """

    path: str
    function: str
    degree: int
    interval: tuple[float, float]
    max_error: float
    rms_error: float = 0.0
    outside: float = 0.0
    observed: tuple[float, float] = (0.0, 0.0)
    channels: int = 1


@dataclass(frozen=True)
class Stages:
    """One figure of three networks.

    Attributes:
        original: of the network that was given. replaced: after all replacements, before any tuning;
            None when layers were replaced one by one. tuned: of the network that was returned.
    """

    original: float
    replaced: float | None
    tuned: float


@dataclass(frozen=True)
class Accuracy(Stages):
    """Shares of samples with the right label, 0 to 1; R² for regression.

    Attributes:
        rms: root mean square errors over all outputs, in the unit of the targets; for regression only.
    """

    rms: Stages | None = None


@dataclass(frozen=True)
class ApproximationReport:
    """What became of each activation, and of the network's accuracy. `print` shows a table of 80 columns.

    A star beside a degree in the table: one polynomial for each channel.

    Attributes:
        replacements: one for each activation, in order. pools: paths of max pools made average pools.
        epochs: of fine-tuning, in all.
        agreement: share of x_train on which the finished network's label is the original's; for regression
            the share of the original's variance that it explains.
        train, validation: accuracy on x_train with y_train and on the validation set; None without targets.
        task: "classes", "binary", "multilabel" or "regression".
    """

    replacements: tuple[Replacement, ...]
    pools: tuple[str, ...]
    epochs: int
    agreement: float
    train: Accuracy | None = None
    validation: Accuracy | None = None
    task: str = "classes"

    def __str__(self) -> str:
        lines = [_HEAD, "-" * len(_HEAD), *map(_row, self.replacements)]
        if self.pools:
            lines.append(f"max pools made average pools: {', '.join(self.pools)}")
        if self.epochs:
            lines.append(f"fine-tuned for {self.epochs} epochs")
        for name, found in (("x_train", self.train), ("validation", self.validation)):
            if found is not None:
                numbers = self.task == "regression"
                figures = self._figures(found, ".4f" if numbers else ".2%")
                lines.append(f"{'R²' if numbers else 'accuracy'} on {name}: {figures}")
                if found.rms is not None:
                    lines.append(f"rms error on {name}: {self._figures(found.rms, '.4g')}")
        if self.task == "regression":
            lines.append(f"variance of the original explained on x_train: {self.agreement:.2%}")
        else:
            lines.append(f"labels equal to the original's on x_train: {self.agreement:.2%}")
        return "\n".join(part for line in lines for part in textwrap.wrap(line, _WIDTH))

    def _figures(self, found: Stages, form: str) -> str:
        stages = [("original", found.original), ("replaced", found.replaced)]
        stages += [("tuned", found.tuned)] if self.epochs else []
        return ", ".join(f"{stage} {figure:{form}}" for stage, figure in stages if figure is not None)


_WIDTH = 80
_HEAD = f"{'layer':<16} {'was':<8} {'deg':>3} {'interval':>22} {'max err':>8} {'rms err':>8} {'outside':>8}"


def _row(r: Replacement) -> str:
    path = r.path if len(r.path) <= 16 else "…" + r.path[-15:]
    interval = f"[{r.interval[0]:.3g}, {r.interval[1]:.3g}]"
    degree = f"{r.degree}" if r.channels == 1 else f"{r.degree}*"
    errors = f"{r.max_error:>8.2g} {r.rms_error:>8.2g}"
    return f"{path:<16} {r.function:<8} {degree:>3} {interval:>22} {errors} {r.outside:>8.2%}"
