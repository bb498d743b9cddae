"""SecureDL: encrypted neural-network inference that the client can verify.

    poly = securedl.approximate(model, x_train)
    plan = securedl.compile(poly, x_train)
    owner = securedl.Owner(plan)
    with protocol.Client("127.0.0.1:7443", owner) as client:
        client.upload()
        answer = client.predict(x)

From a network to a plan:
    from_sklearn     a torch network that computes what a fitted estimator of scikit-learn does
    from_onnx        a torch network that computes what an ONNX file describes
    approximate      a copy of a torch network with polynomials for activations
    compile          a plan for such a network: ring, primes, refreshes, cost
    Link             the connection that a plan is made for: round trip and bandwidth
    Plan             how one network runs encrypted; holds the weights, keep it secret
    load_plan        the plan that Plan.save wrote

The secret side:
    Owner            the keys of one plan, encryption and decryption; save, Owner.load
    Kit              what Owner.grant gives: to ask and to verify, without weights; save, Kit.load
    Probes           how many samples with known answers travel with a query
    Answer           what predict returns: logits, labels, verification report, timings

Beside these:
    SecureDLError    the base of every error that is raised on purpose
    errors           module: all errors
    datasets         module: public data sets, fetched from their official sources and checked
    __version__      the release

Client and server are in `protocol`. Names load on first use: a server never imports torch, and never the file
that holds secret keys.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from securedl import datasets as datasets
    from securedl import errors as errors
    from securedl.activations.replace import approximate as approximate
    from securedl.client.inference import Answer as Answer
    from securedl.client.kit import Kit as Kit
    from securedl.client.owner import Owner as Owner
    from securedl.compiler.compile import compile as compile
    from securedl.errors import SecureDLError as SecureDLError
    from securedl.network.from_onnx import from_onnx as from_onnx
    from securedl.network.from_sklearn import from_sklearn as from_sklearn
    from securedl.plan.plan import Plan as Plan
    from securedl.plan.plan import load_plan as load_plan
    from securedl.plan.signature import Link as Link
    from securedl.verify.placement import Probes as Probes
    from securedl.version import __version__ as __version__

_MODULES = ("datasets", "errors")
_HOMES = {
    "Answer": "securedl.client.inference",
    "Link": "securedl.plan.signature",
    "Kit": "securedl.client.kit",
    "Owner": "securedl.client.owner",
    "Plan": "securedl.plan.plan",
    "Probes": "securedl.verify.placement",
    "SecureDLError": "securedl.errors",
    "__version__": "securedl.version",
    "approximate": "securedl.activations.replace",
    "compile": "securedl.compiler.compile",
    "from_onnx": "securedl.network.from_onnx",
    "from_sklearn": "securedl.network.from_sklearn",
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
    "from_onnx",
    "from_sklearn",
    "load_plan",
]


def __getattr__(name: str) -> Any:
    if name in _MODULES:
        return importlib.import_module(f"securedl.{name}")
    if name not in _HOMES:
        raise AttributeError(f"module 'securedl' has no attribute {name!r}")
    value = globals()[name] = getattr(importlib.import_module(_HOMES[name]), name)
    return value


def __dir__() -> list[str]:
    """The public names, whether they are loaded yet or not."""
    hidden = {"__dir__", "__getattr__"}
    special = {name for name in globals() if name.startswith("__")} - hidden
    return sorted({*__all__, *_MODULES, *special, "__version__"})
