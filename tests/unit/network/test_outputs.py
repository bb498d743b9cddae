"""Labels and probabilities of answers, against torch's."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

import securedl
from securedl.errors import InputError
from securedl.network.outputs import Head, Output, task_of

LOGITS = np.random.default_rng(0).normal(size=(5, 3, 4))


@pytest.mark.parametrize("axis", [0, 1])
def test_classes_along_the_axis_of_the_softmax(axis: int) -> None:
    output: Any = Output((3, 4), "classes", Head("softmax", axis))
    want = torch.softmax(torch.tensor(LOGITS), axis + 1)
    np.testing.assert_allclose(output.probabilities(LOGITS), want, atol=1e-12)
    np.testing.assert_allclose(output.head(LOGITS), want, atol=1e-12)
    np.testing.assert_allclose(
        Head("log_softmax", axis)(LOGITS), torch.log_softmax(torch.tensor(LOGITS), axis + 1), atol=1e-12
    )
    labels = output.labels(LOGITS)
    np.testing.assert_array_equal(labels, want.argmax(axis + 1))


def test_labels_by_the_sign() -> None:
    for task, shape in (("binary", (1,)), ("multilabel", (12,)), ("multilabel", (3, 4))):
        logits = LOGITS.ravel()[: 5 * int(np.prod(shape))].reshape(5, *shape)
        output: Any = Output(shape, task)
        labels, probabilities = output.labels(logits), output.probabilities(logits)
        np.testing.assert_array_equal(labels.ravel(), logits.ravel() > 0)
        assert labels.shape == ((5,) if task == "binary" else (5, *shape))
        np.testing.assert_allclose(probabilities, torch.sigmoid(torch.tensor(logits)), atol=1e-12)
    assert Output((2,), "regression").labels(LOGITS[:, 0, :2]) is None
    assert Output((2,), "regression").probabilities(LOGITS[:, 0, :2]) is None


@pytest.mark.parametrize(
    ("shape", "head", "task"),
    [
        ((3,), Head(), "classes"),
        ((1,), Head(), "binary"),
        ((), Head(), "binary"),
        ((1,), Head("sigmoid"), "binary"),
        ((3,), Head("sigmoid"), "multilabel"),
        ((3, 4), Head(), "multilabel"),
        ((3, 4), Head("log_softmax"), "classes"),
    ],
)
def test_the_task_that_is_told_by_the_answer(shape: tuple[int, ...], head: Head, task: str) -> None:
    assert task_of(shape, head) == task


@pytest.mark.parametrize(
    ("shape", "task", "head"),
    [
        ((3,), "sorting", Head()),
        ((3,), "binary", Head()),
        ((1,), "classes", Head()),
        ((), "classes", Head()),
        ((3,), "classes", Head("softmax", 1)),
        ((3, 1), "classes", Head("softmax", 1)),
        ((3,), "classes", Head("softmax", -1)),
    ],
)
def test_tasks_that_an_answer_cannot_have(shape: tuple[int, ...], task: str, head: Head) -> None:
    with pytest.raises(InputError):
        Output(shape, task, head)


def test_a_head_that_is_none() -> None:
    with pytest.raises(InputError, match="hardmax"):
        Head("hardmax")


def test_a_label_at_each_step_of_a_sequence() -> None:
    """Classes last, as recurrent networks' heads have them."""
    model = torch.nn.Sequential(torch.nn.Linear(2, 3), torch.nn.Softmax(-1)).eval()
    x = np.random.default_rng(1).normal(size=(100, 4, 2)).astype(np.float32)
    plan = securedl.compile(securedl.approximate(model, x), x)
    output: Any = plan.signature.output
    with torch.no_grad():
        want = model(torch.tensor(x))
    np.testing.assert_allclose(plan.simulate(x[:8], noise_seed=None), want[:8], atol=1e-5)
    logits = np.log(want.double().numpy())
    labels = output.labels(logits)
    np.testing.assert_array_equal(labels, want.argmax(-1))
    assert labels.shape == (100, 4)
