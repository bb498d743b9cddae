"""What a network is to answer, told by targets and answers; targets in the forms that people have."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import torch

from securedl.activations.targets import as_targets, found_task
from securedl.errors import InputError
from securedl.network.outputs import Head

CLASSES = np.arange(12) % 3
ONE_HOT = np.eye(3)[CLASSES]


@pytest.mark.parametrize(
    ("y", "shape", "head", "task"),
    [
        (CLASSES, (3,), "", "classes"),
        (ONE_HOT, (3,), "", "classes"),
        (ONE_HOT.astype(bool), (3,), "", "classes"),
        (ONE_HOT, (3,), "sigmoid", "multilabel"),
        (1 - ONE_HOT, (3,), "", "multilabel"),
        (ONE_HOT * 2, (3,), "", "regression"),
        (ONE_HOT, (3,), "softmax", "classes"),
        (CLASSES > 0, (1,), "", "binary"),
        (CLASSES, (1,), "", "regression"),
        (CLASSES / 2, (1,), "sigmoid", "binary"),
        (None, (3,), "", "classes"),
    ],
)
def test_the_task_is_told(y, shape, head, task):
    assert found_task(None, y, shape, Head(head)) == task


@pytest.mark.parametrize("low", [-1, 1])
def test_two_numbers_that_are_no_switches_are_asked_about(low):
    y = np.where(CLASSES > 0, low + (2 if low < 0 else 1), low)
    with pytest.raises(InputError, match=f"two whole numbers, {low} and .: give 0 and 1 for two classes"):
        found_task(None, y, (1,), Head())
    assert found_task("regression", y, (1,), Head()) == "regression"


@pytest.mark.parametrize(
    "y",
    [
        CLASSES,
        CLASSES.astype(np.float32),
        CLASSES.tolist(),
        CLASSES[:, None],
        ONE_HOT,
        torch.as_tensor(ONE_HOT).bool(),
        torch.as_tensor(CLASSES),
        pd.Series(CLASSES, name="class"),
        pd.DataFrame({"class": CLASSES}),
    ],
)
def test_class_numbers_in_many_forms(y):
    found = as_targets(y, torch.zeros(12, 3), "classes", "y_train")
    assert found.dtype == torch.int64
    assert found.tolist() == CLASSES.tolist()


@pytest.mark.parametrize(
    ("y", "message"),
    [
        (
            CLASSES + 0.5,
            r"class numbers \(integers from 0\), or numbers \[12, 3\] for a regression, got 0.5 to",
        ),
        (CLASSES - 1, "got -1 to 1"),
        (CLASSES + 1, "y holds class 3, but the network has the classes 0 to 2"),
        (np.where(CLASSES > 1, np.nan, 0), "y has NaN or infinite values"),
        (["cat"] * 12, "y holds text: give numbers"),
        ([[1, 2], [3]], "its rows have several lengths"),
        (3, r"got the shape \[\]"),
        (CLASSES[:5], r"got the shape \[5\]"),
        (ONE_HOT[:5], r"got the shape \[5, 3\]"),
        (ONE_HOT[:, :2], r"a row of one 1 and zeros for each sample, got the shape \[12, 2\]"),
        (1 - ONE_HOT, r"got the shape \[12, 3\]"),
    ],
)
def test_what_are_no_class_numbers(y, message):
    with pytest.raises(InputError, match=message):
        as_targets(y, torch.zeros(12, 3), "classes", "y")
