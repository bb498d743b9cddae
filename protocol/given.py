"""What is given to a client and cannot be used: said before anything is sent."""

from __future__ import annotations

from typing import Any

from securedl.arguments import kind, number
from securedl.errors import InputError
from securedl.progress import check_progress

OWNERS = "securedl.Owner(plan) makes one, securedl.Owner.load(path, passphrase=...) opens a saved one"


def check_client(address: Any, owner: Any, token: Any, timeout_s: Any, progress: Any) -> None:
    """Refuse arguments of a wrong kind or in a wrong order. A token is never shown.

    Raises:
        InputError: so it is.
    """
    if not isinstance(address, str):
        raise InputError(
            "Client(address, owner): the address comes first and is text, HOST:PORT or unix:PATH; got "
            f"{kind(address)} and then {kind(owner)}"
        )
    if owner is None:
        raise InputError(f"a client needs an owner: Client(address, owner); {OWNERS}")
    # What is asked of an owner first; a plan, a network or a path has no such name.
    if isinstance(owner, type) or not hasattr(owner, "model_id"):
        raise InputError(f"Client(address, owner) needs an owner, got {kind(owner)}; {OWNERS}")
    if token is not None and not isinstance(token, str):
        raise InputError(f"a token is text, got {kind(token)}")
    number(timeout_s, "timeout_s", above=0, finite=False)
    check_progress(progress)
