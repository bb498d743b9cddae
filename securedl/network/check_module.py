"""What is given as a network and is none: said at once, with what to give instead."""

from __future__ import annotations

import os
from typing import Any

from torch import jit, nn

from securedl.arguments import kind
from securedl.errors import InputError


def check_module(model: Any, x_train: Any, function: str) -> None:
    """Refuse what is no torch module that can be looked into.

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


def _instead(model: Any, x_train: Any) -> str:
    if isinstance(x_train, nn.Module):
        return "the network comes first, the samples second"
    if isinstance(model, type):
        return "make one of it by calling it, and give that"
    if isinstance(model, str | os.PathLike):
        return "build the network in PyTorch, load its weights, and give that rather than a file"
    if isinstance(model, dict):
        return "build the network, call its load_state_dict with this, and give the network"
    if type(model).__module__.split(".")[0] == "sklearn":
        return "build the same network of torch layers and copy its coefficients into them"
    return "give the network itself, made of torch layers"
