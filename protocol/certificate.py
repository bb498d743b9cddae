"""A server's certificate and its key, which can be read again while it serves."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import grpc
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_pem_private_key
from cryptography.x509 import load_pem_x509_certificates

from protocol.logs import log_event
from securedl.errors import InputError


class Certificate:
    """What secures new connections.

    Args:
        chain, key: PEM files.

    Raises:
        InputError: a file cannot be read, or they are not a certificate and its key.
    """

    def __init__(self, chain: str | os.PathLike[str], key: str | os.PathLike[str]) -> None:
        self._files = chain, key
        self._pair = _read(*self._files)
        self._fresh = False

    def reload(self) -> None:
        """Read the files again. Connections that are there go on with what they have.

        Raises:
            InputError: as at first; then all stays as it was.
        """
        self._pair, self._fresh = _read(*self._files), True
        log_event("certificate", file=os.fspath(self._files[0]))

    def credentials(self) -> Any:
        """Of one gRPC server, which asks at each new connection whether there is another pair."""
        self._fresh = False
        return grpc.dynamic_ssl_server_credentials(_configuration(self._pair), self._fetch)

    def _fetch(self) -> Any:
        if not self._fresh:
            return None
        self._fresh = False
        return _configuration(self._pair)


def _configuration(pair: tuple[bytes, bytes]) -> Any:
    return grpc.ssl_server_certificate_configuration([pair])


def _read(chain: str | os.PathLike[str], key: str | os.PathLike[str]) -> tuple[bytes, bytes]:
    """Key and chain, in gRPC's order."""
    try:
        pair = (Path(key).read_bytes(), Path(chain).read_bytes())
    except OSError as error:
        raise InputError(f"the TLS file {error.filename} cannot be read: {error.strerror}") from error
    try:
        publics = (
            load_pem_private_key(pair[0], password=None).public_key(),
            load_pem_x509_certificates(pair[1])[0].public_key(),
        )
        own, certified = (
            public.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo) for public in publics
        )
    except (ValueError, TypeError, UnsupportedAlgorithm) as error:
        raise InputError(f"the TLS files {chain} and {key} are not a PEM certificate and key") from error
    if own != certified:
        raise InputError(
            f"the key {key} is not that of the certificate {chain}: name both files of one pair, the "
            "server's own certificate first in its file"
        )
    return pair
