"""gRPC server and client: encrypted models and queries over TCP or Unix sockets.

    Client       one owner's connection to a server: upload, predict, status, remove
    AsyncClient  the same as coroutines, on an event loop
    Server       a server in this process: start, stop; a context manager
    serve        serve until stopped, as `securedl serve` does
    Store        the folder that keeps keys and encrypted models
    Limits       what one client may keep and ask
    prices       what operations take on a server and here, for securedl.compile

Names load on first use, so that a server never imports what only a client needs.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from protocol.async_client import AsyncClient as AsyncClient
    from protocol.client import Client as Client
    from protocol.client import prices as prices
    from protocol.server import Server as Server
    from protocol.serving import serve as serve
    from protocol.store import Limits as Limits
    from protocol.store import Store as Store

_HOMES = {
    "AsyncClient": "protocol.async_client",
    "Client": "protocol.client",
    "Limits": "protocol.store",
    "Server": "protocol.server",
    "Store": "protocol.store",
    "prices": "protocol.client",
    "serve": "protocol.serving",
}

__all__ = ["AsyncClient", "Client", "Limits", "Server", "Store", "prices", "serve"]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'protocol' has no attribute {name!r}")
    home = importlib.import_module(_HOMES[name])
    value = globals()[name] = getattr(home, name)
    return value


def __dir__() -> list[str]:
    """The public names, whether they are loaded yet or not."""
    hidden = {"__dir__", "__getattr__"}
    special = {name for name in globals() if name.startswith("__")} - hidden
    return sorted({*__all__, *special})
