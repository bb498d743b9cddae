"""gRPC server and client: encrypted models and queries over TCP or Unix sockets.

Names load on first use, so that a server never imports what only a client needs.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from protocol.client import Client as Client
    from protocol.server import Server as Server
    from protocol.server import serve as serve
    from protocol.store import Limits as Limits
    from protocol.store import Store as Store

_HOMES = {
    "Client": "protocol.client",
    "Limits": "protocol.store",
    "Server": "protocol.server",
    "Store": "protocol.store",
    "serve": "protocol.server",
}

__all__ = ["Client", "Limits", "Server", "Store", "serve"]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'protocol' has no attribute {name!r}")
    home = importlib.import_module(_HOMES[name])
    value = globals()[name] = getattr(home, name)
    return value
