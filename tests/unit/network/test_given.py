"""What is given as a network and is none, or none that can be encrypted: said in one sentence."""

from __future__ import annotations

import warnings
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from sklearn.linear_model import LogisticRegression
from torch import nn

import securedl
from securedl.errors import InputError
from securedl.network.given import check_given

X = np.random.default_rng(0).normal(size=(20, 4))
MODEL = nn.Sequential(nn.Linear(4, 3), nn.BatchNorm1d(3), nn.ReLU()).eval()


def refused(model, *words: str) -> None:
    for function in (securedl.compile, securedl.approximate):
        with pytest.raises(InputError) as caught:
            function(model, X)
        sentence = str(caught.value)
        assert "\n" not in sentence
        assert len(sentence) < 250
        for word in words:
            assert word in sentence


def test_an_estimator():
    estimator = LogisticRegression().fit(X, np.arange(20) % 2)
    refused(estimator, "got a LogisticRegression: call securedl.from_sklearn(model) first")
    check_given(securedl.from_sklearn(estimator), X, "compile")


@pytest.mark.parametrize("path", ["net.onnx", Path("some/NET.ONNX"), b"net.onnx".decode()])
def test_a_file_of_onnx(path):
    refused(path, "call securedl.from_onnx(path) first")


def test_a_model_of_onnx():
    refused(onnx.ModelProto(), "got a ModelProto: call securedl.from_onnx(model) first")


@pytest.mark.parametrize("path", ["net.pt", Path("net.pth"), "onnx"])
def test_other_files(path):
    refused(path, "build the network in PyTorch, load its weights")


@pytest.mark.parametrize("change", [nn.Module.half, nn.Module.bfloat16])
def test_half_precision(change):
    half = change(nn.Sequential(nn.Linear(4, 3)))
    refused(half, "half precision", "0.weight is", "float16", "call model.float() first")
    check_given(half.float(), X, "compile")


def test_a_part_in_half_precision():
    model = nn.Sequential(nn.Linear(4, 3), nn.BatchNorm1d(3))
    model[1].running_mean = model[1].running_mean.half()
    refused(model, "1.running_mean is float16", "call model.float() first")


def test_complex_weights():
    refused(nn.Sequential(nn.Linear(4, 3, dtype=torch.complex64)), "0.weight of the network is complex")


def test_a_quantised_network():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch.ao leaves torch, its models stay
        quantised = torch.ao.quantization.quantize_dynamic(MODEL, {nn.Linear}, torch.qint8)
    refused(quantised, "the network is quantised (Linear 0)", "give the float model")


def test_a_quantised_weight():
    model = nn.Sequential(nn.Linear(4, 3))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        weight = torch.quantize_per_tensor(torch.zeros(3, 4), 0.1, 0, torch.qint8)
    model[0].weight = nn.Parameter(weight, requires_grad=False)
    refused(model, "the network is quantised (0.weight)")


@pytest.mark.parametrize("kind", [torch.float32, torch.float64])
def test_ordinary_networks_pass(kind):
    check_given(MODEL.to(kind), X, "compile")
