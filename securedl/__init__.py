"""SecureDL: encrypted neural-network inference that the client can verify.

Names load on first use: a server never imports torch, and never the file that holds secret keys.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from securedl.activations.replace import approximate as approximate
    from securedl.client.inference import Answer as Answer
    from securedl.client.owner import Owner as Owner
    from securedl.compiler.compile import compile as compile
    from securedl.errors import SecureDLError as SecureDLError
    from securedl.plan.plan import Plan as Plan
    from securedl.plan.plan import load_plan as load_plan
    from securedl.plan.signature import Link as Link
    from securedl.verify.placement import Probes as Probes

_HOMES = {
    "Answer": "securedl.client.inference",
    "Link": "securedl.plan.signature",
    "Owner": "securedl.client.owner",
    "Plan": "securedl.plan.plan",
    "Probes": "securedl.verify.placement",
    "SecureDLError": "securedl.errors",
    "approximate": "securedl.activations.replace",
    "compile": "securedl.compiler.compile",
    "load_plan": "securedl.plan.plan",
}

__all__ = [
    "Answer",
    "Link",
    "Owner",
    "Plan",
    "Probes",
    "SecureDLError",
    "approximate",
    "compile",
    "load_plan",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'securedl' has no attribute {name!r}")
    value = globals()[name] = getattr(importlib.import_module(_HOMES[name]), name)
    return value
