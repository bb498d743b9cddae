"""What is given to an owner as its plan and is none: said before a key is made."""

from __future__ import annotations

import os
import sys
from typing import Any

from securedl.arguments import kind
from securedl.errors import InputError
from securedl.plan.plan import Plan


def check_plan(plan: Any) -> None:
    """Refuse what is no plan.

    Raises:
        InputError: so it is; the message says how a plan is made or opened.
    """
    if isinstance(plan, Plan):
        return
    if isinstance(plan, str | os.PathLike):
        raise InputError(
            f"Owner takes a plan, got {kind(plan)}; to open a saved owner: "
            "Owner.load(path, passphrase=...); to open a saved plan: Owner(securedl.load_plan(path))"
        )
    torch = sys.modules.get("torch")  # whoever has a module has torch
    if torch is not None and isinstance(plan, torch.nn.Module):
        raise InputError(
            f"Owner takes a plan, got the network itself ({type(plan).__name__}): compile it first: "
            "Owner(securedl.compile(model, x_train))"
        )
    raise InputError(
        f"Owner takes a plan, got {kind(plan)}: make one by securedl.compile(model, x_train), or open a "
        "saved one by securedl.load_plan(path)"
    )
