"""Run a network in evaluation mode, and leave it exactly as it was."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn


@contextlib.contextmanager
def evaluation(model: nn.Module) -> Iterator[None]:
    """Evaluation mode inside. After, every module has its own mode, attributes, hooks and numbers again.

    A network may count its calls, keep what it saw, or change its weights when it runs; `torch.export` runs
    it on symbols, which would stay in such attributes.
    """
    saved = _Saved()
    for module in list(model.modules()):
        saved.keep(module.__dict__)
    try:
        model.eval()
        yield
    finally:
        saved.put_back()


class _Saved:
    """What is in dictionaries, lists and sets, and the numbers of tensors in them."""

    def __init__(self) -> None:
        self.containers: dict[int, tuple[Any, Any]] = {}
        self.tensors: dict[int, tuple[Tensor, Tensor, bool]] = {}

    def keep(self, value: Any) -> None:
        """A value and what is in it; modules have to be given one by one."""
        if id(value) in self.containers or id(value) in self.tensors:
            return
        if isinstance(value, Tensor):
            if _has_numbers(value):
                self.tensors[id(value)] = value, value.detach().clone(), value.requires_grad
        elif isinstance(value, dict | list | set):
            inside = list(value.items()) if isinstance(value, dict) else list(value)
            self.containers[id(value)] = value, inside
            for one in value.values() if isinstance(value, dict) else inside:
                self.keep(one)
        elif isinstance(value, tuple):
            for one in value:
                self.keep(one)

    def put_back(self) -> None:
        """All of it, into the same objects."""
        for container, inside in self.containers.values():
            container.clear()
            (container.extend if isinstance(container, list) else container.update)(inside)
        for tensor, numbers, requires_grad in self.tensors.values():
            _fill(tensor, numbers)
            if tensor.is_leaf and tensor.requires_grad != requires_grad:
                tensor.requires_grad_(requires_grad)


def _has_numbers(tensor: Tensor) -> bool:
    return not (tensor.is_meta or nn.parameter.is_lazy(tensor)) and tensor.layout is torch.strided


def _fill(tensor: Tensor, numbers: Tensor) -> None:
    """Make a tensor's numbers these, if they are others now."""
    if tensor.shape != numbers.shape or tensor.dtype != numbers.dtype:
        tensor.data = numbers
    elif not torch.equal(tensor, numbers):
        with torch.inference_mode(tensor.is_inference()), torch.no_grad():
            tensor.copy_(numbers)
