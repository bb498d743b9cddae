"""The encrypted column: a real server process, a real client, every test sample of a fold."""

from __future__ import annotations

import time
from dataclasses import dataclass

import numpy as np
from torch import nn

import securedl
from protocol import Client
from securedl.compiler.precision import PRECISION
from securedl.errors import InputError
from securedl.plan.plan import Plan

from .networks import logits

PROBES = 4
#: Labels are asked to agree where the two largest logits differ by more than this share of the logit range:
#: the error that every plan promises to stay below. Opposite errors of that size would need twice the gap.
MARGIN = PRECISION
#: Fields of Encrypted that add up over folds.
COUNTS = ("samples", "refused", "right", "agree", "outside", "agree_outside", "alarms")
SECONDS = ("compile_s", "upload_s", "predict_s")


@dataclass(frozen=True)
class Encrypted:
    """Figures of one fold.

    Attributes:
        samples: sent. refused: test samples that would overflow, which the client does not send.
        right: right labels among the sent. agree: labels equal to the polynomial network's.
        outside: samples outside the error margin. agree_outside: equal labels among them.
        error: largest logit error. reach: range of the logits.
        alarms: batches in which the verification raised one. refreshes: of one batch.
        compile_s, upload_s, predict_s: seconds.
    """

    samples: int
    refused: int
    right: int
    agree: int
    outside: int
    agree_outside: int
    error: float
    reach: float
    alarms: int
    refreshes: int
    compile_s: float
    upload_s: float
    predict_s: float


def predict(
    model: nn.Module, x_train: np.ndarray, x: np.ndarray, y: np.ndarray, batch: int, address: str
) -> Encrypted:
    """Compile, upload and predict x [samples, ...] on the server at `address`."""
    start = time.perf_counter()
    plan = securedl.compile(model, x_train, batch=batch)
    sent = np.array([_accepted(plan, sample) for sample in x])
    x, y, refused = x[sent], y[sent], int((~sent).sum())
    owner = securedl.Owner(plan)
    owner.verification.prepare()
    compiled = time.perf_counter()
    with Client(address, owner) as client:
        client.upload()
        uploaded = time.perf_counter()
        answer = client.predict(x, probes=PROBES)
        predicted = time.perf_counter()
        client.remove()
    expected = logits(model, x)
    ordered, reach = np.sort(expected, axis=1), float(np.ptp(expected))
    outside = ordered[:, -1] - ordered[:, -2] > MARGIN * reach
    labels = np.asarray(answer.labels)
    agree = labels == expected.argmax(axis=1)
    return Encrypted(
        samples=len(x),
        refused=refused,
        right=int((labels == y).sum()),
        agree=int(agree.sum()),
        outside=int(outside.sum()),
        agree_outside=int(agree[outside].sum()),
        error=float(np.abs(answer.logits - expected).max()),
        reach=reach,
        alarms=len(answer.report.alarms),
        refreshes=len(plan.program.refreshes),
        compile_s=compiled - start,
        upload_s=uploaded - compiled,
        predict_s=predicted - uploaded,
    )


def _accepted(plan: Plan, sample: np.ndarray) -> bool:
    try:
        plan.checked(sample[None])
    except InputError:
        return False
    return True
