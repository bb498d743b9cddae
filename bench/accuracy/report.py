"""The table on the terminal, in Markdown, and as a picture."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

from securedl.errors import InputError

from . import networks
from .encrypted import COUNTS, MARGIN
from .folds import FOLDS

#: SecureDL, Table 1: accuracy in % of the original and of the polynomial network.
PAPER = {
    ("breast_tissue", "sigmoid"): (87.00, 86.10),
    ("breast_tissue", "relu"): (93.00, 92.47),
    ("breast_tissue", "tanh"): (86.40, 85.17),
    ("crabs", "sigmoid"): (92.23, 91.26),
    ("crabs", "relu"): (96.32, 96.17),
    ("crabs", "tanh"): (89.30, 89.12),
    ("ovarian", "sigmoid"): (93.75, 92.77),
    ("ovarian", "relu"): (97.21, 97.01),
    ("ovarian", "tanh"): (89.25, 89.05),
    ("wine", "sigmoid"): (96.29, 96.19),
    ("wine", "relu"): (97.21, 97.18),
    ("wine", "tanh"): (90.23, 89.73),
    ("climate_crashes", "sigmoid"): (95.37, 95.32),
    ("climate_crashes", "relu"): (96.54, 96.25),
    ("climate_crashes", "tanh"): (89.21, 89.04),
    ("fertility", "sigmoid"): (86.67, 85.12),
    ("fertility", "relu"): (92.32, 92.27),
    ("fertility", "tanh"): (84.25, 83.07),
}
#: What is asked of the table: the mean difference of all cells, and of each cell the paper's worst one,
#: or an interval that contains the mean's bound. In percentage points.
MEAN_BOUND, CELL_BOUND = -0.5, -1.55
NAMES = {
    "breast_tissue": "Breast tissue", "crabs": "Crabs", "ovarian": "Ovarian", "wine": "Wine",
    "climate_crashes": "Climate", "fertility": "Fertility", "relu": "ReLU", "cnn": "CNN", "mlp": "MLP",
}  # fmt: skip
HEADS = ("set", "activation", "original", "swapped", "tuned", "tuned - original", "encrypted", "paper f, P")


def name(key: str) -> str:
    """As it is written in a table."""
    return NAMES.get(key, key)


def misses(row: dict[str, Any]) -> bool:
    """Whether a cell loses more than the table allows."""
    low, high = row["interval"]
    return row["difference"] < CELL_BOUND and not low <= MEAN_BOUND <= high


def mean_difference(rows: list[dict[str, Any]]) -> float:
    """Over the cells, in percentage points."""
    return float(np.mean([row["difference"] for row in rows]))


def cells_of(row: dict[str, Any]) -> tuple[str, ...]:
    """One line of the table."""
    low, high = row["interval"]
    paper = PAPER[row["data"], row["activation"]]
    under = row.get("encrypted")
    return (
        name(row["data"]),
        name(row["activation"]),
        *(f"{row[stage]:.1f}" for stage in ("original", "swapped", "tuned")),
        f"{row['difference']:+.2f} [{low:+.1f}, {high:+.1f}]" + (" *" if misses(row) else ""),
        f"{under['accuracy']:.1f}" if under else "-",
        f"{paper[0]:.1f}, {paper[1]:.1f} ({paper[1] - paper[0]:+.2f})",
    )


def sentences(rows: list[dict[str, Any]]) -> Iterator[str]:
    """What the rows of one network say in all."""
    bad = [f"{name(r['data'])} {name(r['activation'])}" for r in rows if misses(r)]
    yield (
        f"Mean difference over {len(rows)} cells: {mean_difference(rows):+.2f} points "
        f"(asked: at least {MEAN_BOUND}), of balanced accuracy "
        f"{np.mean([r['balanced_difference'] for r in rows]):+.2f}."
    )
    yield (
        f"Cells below {CELL_BOUND} points whose interval excludes {MEAN_BOUND} (marked *): "
        f"{', '.join(bad) if bad else 'none'}."
    )
    sent = [r["encrypted"] for r in rows if "encrypted" in r]
    if sent:
        total = {key: sum(e[key] for e in sent) for key in COUNTS}
        yield (
            f"Encrypted: {total['agree']} of {total['samples']} labels equal the polynomial network's, "
            f"{total['agree_outside']} of the {total['outside']} outside the error margin; largest logit "
            f"error 2^{np.log2(max(e['error'] for e in sent)):.1f} of the logit range; "
            f"{total['refused']} test samples refused because they would overflow; "
            f"{total['alarms']} alarms of the verification."
        )


def by_network(rows: list[dict[str, Any]]) -> dict[str, list[dict[str, Any]]]:
    """Rows of each network, in order."""
    return {
        key: [r for r in rows if r["network"] == key] for key in dict.fromkeys(r["network"] for r in rows)
    }


def show(console: Console, rows: list[dict[str, Any]]) -> None:
    """All tables on the terminal."""
    for network, some in by_network(rows).items():
        table = Table(title=f"{name(network)}: accuracy in %, means over {some[0]['folds']} folds", box=None)
        for head in HEADS:
            table.add_column(head, justify="left" if head in HEADS[:2] else "right")
        for row in some:
            table.add_row(*cells_of(row))
        console.print(table)
        for sentence in sentences(some):
            console.print(sentence, highlight=False, soft_wrap=True)


PREAMBLE = """# Accuracy: Table 1 of SecureDL

Made by `{command}`.{picture}

- **original**: the network with its own activations. **swapped**: each activation replaced by its
  least-squares polynomial (sigmoid and ReLU degree 2, tanh degree 3), nothing trained. **tuned**: that
  network fine-tuned by `securedl.approximate` for {tuning} epochs after the original's {epochs}, with the
  original's batch size and learning rate ({batch}, {rate}) and default options otherwise. **encrypted**:
  the tuned network, compiled; every test sample of the first repetition, sent by a client to a server
  process, weights encrypted, verification on.
- CNN: the paper's network in one dimension: convolutions of 20 and 50 maps (kernels of 3), one average
  pooling, dense 256, the classes. MLP: two hidden layers of 32.
- Means over {count} folds of stratified {folds}-fold cross-validation, reshuffled for each repetition;
  features standardised by the training part. All columns share splits and starting weights, so that
  differences are paired. In brackets the 95 % interval of the mean difference, with Nadeau and Bengio's
  correction for overlapping training parts. Training options were chosen on other shuffles of the same sets.
- A sample is outside the error margin where its two largest logits differ by more than 2^{margin:.0f} of the
  logit range, the error that every plan promises to stay below. There labels are asked to agree.
- The paper does not say how it split the sets, and its absolute figures are not ours: on Breast tissue no
  network here comes near them. What is compared is what a polynomial costs: P - f in brackets."""


def page(rows: list[dict[str, Any]], command: str, picture: str | None = None, quick: bool = False) -> str:
    """The whole of docs/results/accuracy.md; `picture` is where `plot` drew, as seen from the page."""
    head = PREAMBLE.format(
        command=command, picture=f"\n\n![Differences and their intervals]({picture})" if picture else "",
        tuning=networks.TUNING_EPOCHS, epochs=networks.EPOCHS, count=rows[0]["folds"], folds=FOLDS,
        margin=np.log2(MARGIN), batch=networks.TUNING["batch_size"], rate=networks.TUNING["learning_rate"],
    )  # fmt: skip
    if quick:
        head += "\n\n**A quick run**: fewer folds and epochs than this page says. Its figures mean nothing."
    return head + "\n\n" + markdown(rows)


def markdown(rows: list[dict[str, Any]]) -> str:
    """The same tables in Markdown, balanced accuracy and the cost of encryption beside."""
    parts = []
    for network, some in by_network(rows).items():
        lines = [_line(HEADS), _line(["---"] * 2 + ["---:"] * (len(HEADS) - 2))]
        lines += [_line(cells_of(row)) for row in some]
        parts += [f"## {name(network)}: accuracy, %", "\n".join(lines), *sentences(some)]
        parts += [f"### {name(network)}: balanced accuracy, %", _balanced(some)]
        if all("encrypted" in row for row in some):
            parts += [f"### {name(network)}: under encryption", _cost(some)]
    return "\n\n".join(parts) + "\n"


def _line(cells: Any) -> str:
    return "| " + " | ".join(cells) + " |"


def _balanced(rows: list[dict[str, Any]]) -> str:
    heads = ("set", "activation", "original", "swapped", "tuned", "tuned - original")
    lines = [_line(heads), _line(["---"] * 2 + ["---:"] * 4)]
    for row in rows:
        low, high = row["balanced_interval"]
        values = (f"{row[f'balanced_{stage}']:.1f}" for stage in ("original", "swapped", "tuned"))
        difference = f"{row['balanced_difference']:+.2f} [{low:+.1f}, {high:+.1f}]"
        lines.append(_line((name(row["data"]), name(row["activation"]), *values, difference)))
    return "\n".join(lines)


def _cost(rows: list[dict[str, Any]]) -> str:
    heads = (
        "set", "activation", "samples", "labels equal", "outside margin", "equal there", "refused",
        "error / range", "refreshes", "ms a sample", "alarms",
    )  # fmt: skip
    lines = [_line(heads), _line(["---"] * 2 + ["---:"] * 9)]
    for row in rows:
        e = row["encrypted"]
        counts = (str(e[k]) for k in ("samples", "agree", "outside", "agree_outside", "refused"))
        lines.append(
            _line(
                (
                    name(row["data"]),
                    name(row["activation"]),
                    *counts,
                    f"2^{np.log2(e['error']):.1f}",
                    str(e["refreshes"]),
                    f"{1e3 * e['predict_s'] / e['samples']:.0f}",
                    str(e["alarms"]),
                )
            )
        )
    return "\n".join(lines)


def check_picture(path: Path) -> None:
    """That `plot` can draw there: asked before the hour whose results it draws.

    Raises:
        InputError: matplotlib is not installed, or does not know the ending of `path`.
    """
    try:
        from matplotlib.backend_bases import FigureCanvasBase
    except ImportError as error:
        raise InputError("--plot needs matplotlib: run pip install 'securedl[plots]'") from error
    known = sorted(FigureCanvasBase.get_supported_filetypes())
    if path.suffix[1:].lower() not in known:
        raise InputError(f"cannot draw {path}: its name must end in one of {', '.join(known)}")


def plot(rows: list[dict[str, Any]], path: Path) -> None:
    """Paired differences with their intervals, and the paper's beside them."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    grouped = by_network(rows)
    figure, axes = pyplot.subplots(
        1, len(grouped), figsize=(1.5 + 4.5 * len(grouped), 6.5), squeeze=False, sharey=True,
        layout="constrained",
    )  # fmt: skip
    for axis, (network, some) in zip(axes[0], grouped.items(), strict=True):
        at = np.arange(len(some))
        middle = np.array([row["difference"] for row in some])
        ends = np.array([row["interval"] for row in some]).T
        axis.axvline(0, color="0.7", linewidth=0.8)
        axis.axvline(MEAN_BOUND, color="0.7", linewidth=0.8, linestyle=":", label=f"{MEAN_BOUND} points")
        axis.errorbar(
            middle, at, xerr=np.abs(ends - middle), fmt="o", markersize=4, linewidth=1, capsize=2,
            label="ours, tuned - original, 95 % corrected interval",
        )  # fmt: skip
        pairs = [PAPER[row["data"], row["activation"]] for row in some]
        axis.plot([p - f for f, p in pairs], at, "x", color="tab:red", markersize=5, label="paper, P - f")
        axis.set_yticks(at, [f"{name(r['data'])}, {name(r['activation'])}" for r in some])
        axis.set_xlabel("difference in accuracy, percentage points")
        axis.set_title(f"{name(network)} (mean {mean_difference(some):+.2f})")
    axes[0, 0].invert_yaxis()
    handles, labels = axes[0, 0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=1, fontsize="small")
    figure.savefig(path, dpi=150)
    pyplot.close(figure)
