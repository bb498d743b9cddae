"""The answers of a job in a file: .npz with arrays, or .csv with a row for each sample."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np

from protocol.jobs.job import JobAnswer
from securedl.errors import InputError
from securedl.files import check_writable, write_atomically

#: What a file of answers may be.
ANSWER_FILES = (".npz", ".csv")


def check_output(path: Path) -> None:
    """Refuse a file that cannot be written, before long work.

    Raises:
        InputError: so it is.
    """
    if path.suffix not in ANSWER_FILES:
        raise InputError(f"answers are written as {' or '.join(ANSWER_FILES)}, got --out {path}")
    check_writable(path)


def write_answer(path: Path, found: JobAnswer) -> None:
    """Write logits, and labels where there are any; readable for the user alone."""
    buffer = io.BytesIO()
    if path.suffix == ".npz":
        arrays: dict[str, Any] = {"logits": found.logits, "withheld": found.withheld}
        np.savez(buffer, **arrays if found.labels is None else {**arrays, "labels": found.labels})
    else:
        flat = found.logits.reshape(len(found.logits), -1)
        labels_ = np.zeros((len(flat), 0)) if found.labels is None else found.labels.reshape(len(flat), -1)
        names = [*_numbered("label", labels_.shape[1]), *_numbered("logit", flat.shape[1], always=True)]
        formats = ["%d"] * labels_.shape[1] + ["%.17g"] * flat.shape[1]
        table = np.column_stack([labels_, flat])
        np.savetxt(buffer, table, fmt=formats, delimiter=",", header=",".join(names), comments="")
    write_atomically(path, buffer.getvalue())


def _numbered(name: str, count: int, always: bool = False) -> list[str]:
    return [name] if count == 1 and not always else [f"{name}{number}" for number in range(count)]
