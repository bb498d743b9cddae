"""Who may speak to a server: bearer tokens."""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from protocol.store import Store
from protocol.tokens import LOCAL
from securedl.errors import AuthenticationError, InputError

BEARER = "Bearer "
#: How much of a client's name in the store is its label.
LABEL_DIGITS = 8


@dataclass(frozen=True)
class Tenant:
    """Whose call it is.

    Attributes:
        client: the folder name in the store.
        label: in logs and metrics; tells neither token nor model.
    """

    client: str
    label: str


class Access:
    """Tenants by token. Tokens themselves are not kept.

    Args:
        store: gives each token its client name.
        tokens: see `tokens_of`; without any, everybody who can connect is one client.

    Raises:
        InputError: two tenants would have one label.
    """

    def __init__(self, store: Store, tokens: Mapping[str, str]) -> None:
        self._store = store
        self._tenants: dict[bytes, Tenant] = {}
        self._anonymous = Tenant(store.client(None), LOCAL)
        self.replace(tokens)

    def replace(self, tokens: Mapping[str, str]) -> None:
        """Know these tokens from now on, and no others. Sessions that run go on.

        Raises:
            InputError: two tenants would have one label; then all stays as it was.
        """
        known, fresh = self._tenants, dict[bytes, Tenant]()
        for text, name in tokens.items():
            digest = _hash(text)
            client = known[digest].client if digest in known else self._store.client(text)
            fresh[digest] = Tenant(client, name or client[:LABEL_DIGITS])
        labels = [tenant.label for tenant in fresh.values()]
        if again := next((label for label in labels if labels.count(label) > 1), None):
            raise InputError(f"two tokens have the tenant {again}: give one of them another name")
        self._tenants = fresh

    @property
    def count(self) -> int:
        """How many clients there can be."""
        return max(1, len(self._tenants))

    def tenants(self) -> list[Tenant]:
        """All there can be."""
        return list(self._tenants.values()) or [self._anonymous]

    def tenant(self, context: Any) -> Tenant:
        """The caller, compared with every token in constant time.

        Raises:
            AuthenticationError: no token, or an unknown one.
        """
        tenants = self._tenants
        if not tenants:
            return self._anonymous
        given = dict(context.invocation_metadata()).get("authorization", "")
        text = given if isinstance(given, str) else given.decode("latin-1")
        offered = _hash(text[len(BEARER) :] if text.startswith(BEARER) else "")
        found = None
        for known, tenant in tenants.items():
            if hmac.compare_digest(known, offered):
                found = tenant
        if found is None:
            raise AuthenticationError("it is not one of this server's tokens" if text else "it needs a token")
        return found


def _hash(token: str) -> bytes:
    """Equal lengths, so that the time of a comparison tells nothing."""
    return hashlib.sha256(token.encode("latin-1", "replace")).digest()
