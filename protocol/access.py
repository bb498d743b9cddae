"""Who may speak to a server: bearer tokens, and the certificate that protects them."""

from __future__ import annotations

import hashlib
import hmac
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import grpc
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.serialization import load_pem_private_key
from cryptography.x509 import load_pem_x509_certificate

from protocol.address import check_token
from protocol.store import Store
from securedl.errors import AuthenticationError, InputError

BEARER = "Bearer "


class Access:
    """Client names by token. Tokens themselves are not kept.

    Args:
        store: gives each token its client name.
        tokens: see `tokens_of`; without any, everybody who can connect is one client.
    """

    def __init__(self, store: Store, tokens: list[str]) -> None:
        self._clients = {_hash(text): store.client(text) for text in tokens}
        self._anonymous = store.client(None)

    @property
    def count(self) -> int:
        """How many clients there can be."""
        return max(1, len(self._clients))

    def client(self, context: Any) -> str:
        """Name of the caller, compared with every token in constant time.

        Raises:
            AuthenticationError: no token, or an unknown one.
        """
        if not self._clients:
            return self._anonymous
        given = dict(context.invocation_metadata()).get("authorization", "")
        text = given if isinstance(given, str) else given.decode("latin-1")
        offered = _hash(text[len(BEARER) :] if text.startswith(BEARER) else "")
        found = None
        for known, client in self._clients.items():
            if hmac.compare_digest(known, offered):
                found = client
        if found is None:
            raise AuthenticationError("it is not one of this server's tokens" if text else "it needs a token")
        return found


def tokens_of(token: str | Iterable[str] | None) -> list[str]:
    """One token, several, or none where None is given: then everybody who can connect is one client.

    Raises:
        InputError: an empty list, or a token that cannot travel in a header.
    """
    if token is None:
        return []
    tokens = [token] if isinstance(token, str) else list(token)
    if not tokens:
        raise InputError("a list of tokens holds at least one; None means that nobody needs a token")
    for text in tokens:
        check_token(text)
    return tokens


def server_credentials(certificate: str | os.PathLike[str], key: str | os.PathLike[str]) -> Any:
    """gRPC credentials from PEM files.

    Raises:
        InputError: a file cannot be read.
    """
    try:
        pair = (Path(key).read_bytes(), Path(certificate).read_bytes())
    except OSError as error:
        raise InputError(f"the TLS file {error.filename} cannot be read: {error.strerror}") from error
    try:
        load_pem_private_key(pair[0], password=None)
        load_pem_x509_certificate(pair[1])
    except (ValueError, TypeError, UnsupportedAlgorithm) as error:
        raise InputError(
            f"the TLS files {certificate} and {key} are not a PEM certificate and key"
        ) from error
    return grpc.ssl_server_credentials([pair])


def _hash(token: str) -> bytes:
    """Equal lengths, so that the time of a comparison tells nothing."""
    return hashlib.sha256(token.encode("latin-1", "replace")).digest()
