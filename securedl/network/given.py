"""What is given as a network or as samples and is none: said at once, with what to give instead."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Any

import torch
from torch import jit, nn
from torch.utils.data import DataLoader, Dataset

from securedl.arguments import kind
from securedl.errors import InputError
from securedl.network.samples import column_names

#: Where torch keeps layers whose weights are small integers.
_QUANTISED = ("torch.ao.nn.quantized", "torch.ao.nn.intrinsic.quantized", "torch.nn.quantized")


@dataclass(frozen=True)
class Known:
    """What is known of a network beside its layers, as its attribute `known`.

    Attributes:
        task: one of `outputs.TASKS`; None to tell it by the answers. columns: names of the features, in the
            order in which the network takes them; none if they have none.
    """

    task: str | None = None
    columns: tuple[str, ...] = ()

    def columns_for(self, x: Any, what: str) -> tuple[str, ...]:
        """Names of the features: the network's, or those of a table of samples.

        Raises:
            InputError: two columns have one name.
        """
        return self.columns or column_names(x, what)


def known_of(model: nn.Module) -> Known:
    """Of networks that `approximate`, `from_sklearn` made; nothing of others."""
    found = getattr(model, "known", None)
    return found if isinstance(found, Known) else Known()


def check_given(model: Any, x_train: Any, function: str) -> None:
    """Refuse what is no torch module that can be looked into, or no module ready to use; and data sets.

    Args:
        x_train: the calibration samples that came with it; the two may have changed places.
        function: "approximate" or "compile", for the message.

    Raises:
        InputError: so it is; the message says what was given and what to give.
    """
    if isinstance(model, jit.ScriptModule):
        raise InputError(
            f"{function} needs the layers of the network, and {type(model).__name__} hides them: "
            "give the module itself, as it was before torch.jit"
        )
    if not isinstance(model, nn.Module):
        raise InputError(f"{function} takes a torch.nn.Module, got {kind(model)}: {_instead(model, x_train)}")
    if isinstance(x_train, Dataset | DataLoader):
        raise InputError(
            f"{function} takes samples as one array or tensor, got {kind(x_train)}: "
            "stack them, as in torch.stack([row[0] for row in dataset])"
        )
    for name, module in model.named_modules():
        if type(module).__module__.startswith(_QUANTISED):
            _refuse_quantised(f"{type(module).__name__} {name}".strip())
    for name, tensor in [*model.named_parameters(), *model.named_buffers()]:
        _check_numbers(name, tensor)
    for name, parameter in model.named_parameters():
        _check_parameter(name, parameter)


def _refuse_quantised(what: str) -> None:
    raise InputError(
        f"the network is quantised ({what}), and encrypted arithmetic needs the weights as they were "
        "trained: give the float model from before torch.ao quantised it"
    )


def _check_numbers(name: str, tensor: torch.Tensor) -> None:
    if tensor.is_quantized:
        _refuse_quantised(name)
    if tensor.is_complex():
        raise InputError(
            f"{name} of the network is complex: write the network with real weights, real and imaginary "
            "parts as features"
        )
    if tensor.is_floating_point() and tensor.dtype not in (torch.float32, torch.float64):
        kind = str(tensor.dtype).removeprefix("torch.")
        raise InputError(
            f"the network is of half precision or less ({name} is {kind}), too coarse to compare encrypted "
            "answers with: call model.float() first"
        )


def _check_parameter(name: str, parameter: nn.Parameter) -> None:
    if parameter.is_meta or nn.parameter.is_lazy(parameter):
        raise InputError(
            f"the parameter {name} of the network has no values yet: run or load the network first"
        )
    if not torch.isfinite(parameter.detach()).all():
        raise InputError(
            f"the parameter {name} of the network has NaN or infinite values: "
            "train it again with a lower learning rate, or load weights that are whole"
        )


def _instead(model: Any, x_train: Any) -> str:
    if isinstance(x_train, nn.Module):
        return "the network comes first, the samples second"
    if isinstance(model, type):
        return "make one of it by calling it, and give that"
    if isinstance(model, str | os.PathLike):
        if os.fsdecode(model).lower().endswith(".onnx"):
            return "call securedl.from_onnx(path) first, and give the network that it returns"
        return "build the network in PyTorch, load its weights, and give that rather than a file"
    if isinstance(model, dict):
        return "build the network, call its load_state_dict with this, and give the network"
    package = type(model).__module__.split(".")[0]
    if package in ("sklearn", "onnx"):
        return f"call securedl.from_{package}(model) first, and give the network that it returns"
    return "give the network itself, made of torch layers"
