"""Asking a server how it is, as a container's health check does: `securedl health`."""

from __future__ import annotations

import socket
import ssl
from pathlib import Path
from typing import Any

import grpc
from cryptography import x509
from grpc_health.v1 import health_pb2, health_pb2_grpc

from protocol.address import Address, parse_address
from protocol.failures import from_rpc
from protocol.link import credentials
from protocol.service import CLIENT_OPTIONS, SERVICE
from securedl.errors import ServerError


def check_health(address: str, ready: bool, tls: bool | Path, timeout_s: float) -> None:
    """Ask one server by the standard health service; nothing secret is sent.

    Args:
        address: HOST:PORT or unix:PATH.
        ready: ask too whether its store can take an upload.
        tls: True: whoever answers. A PEM file: only who has a certificate of this authority.
        timeout_s: longest wait for a connection, and for the answer.

    Raises:
        InputError: an argument cannot be used. ServerError: it does not answer, or is not well.
    """
    parsed = parse_address(address)
    with _channel(parsed, tls, timeout_s) as channel:
        request = health_pb2.HealthCheckRequest(service=SERVICE if ready else "")
        try:
            found = health_pb2_grpc.HealthStub(channel).Check(request, timeout=timeout_s)
        except grpc.RpcError as error:
            raise from_rpc(error, address, "see whether it runs there, and whether with TLS") from error
    if found.status != health_pb2.HealthCheckResponse.SERVING:
        why = "it stops, or its store cannot be written or is full" if ready else "it stops"
        raise ServerError(f"the server at {address} answers that it does not serve: {why}")


def _channel(address: Address, tls: bool | Path, timeout_s: float) -> Any:
    if not tls:
        return grpc.insecure_channel(address.text, CLIENT_OPTIONS)
    if isinstance(tls, Path):
        return grpc.secure_channel(address.text, credentials(tls), CLIENT_OPTIONS)
    shown, name = _shown(address, timeout_s)
    options = [*CLIENT_OPTIONS, ("grpc.ssl_target_name_override", name)]
    return grpc.secure_channel(address.text, grpc.ssl_channel_credentials(shown), options)


def _shown(address: Address, timeout_s: float) -> tuple[bytes, str]:
    """The certificate that a server shows, PEM, and a name in it: gRPC always checks one."""
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    context.set_alpn_protocols(["h2"])
    try:
        with _connected(address, timeout_s) as plain, context.wrap_socket(plain) as secure:
            shown = secure.getpeercert(binary_form=True)
    except OSError as error:
        raise ServerError(f"no TLS connection to {address.text}: {error.strerror or error}") from error
    assert shown is not None  # a server always shows one
    certificate = x509.load_der_x509_certificate(shown)
    return ssl.DER_cert_to_PEM_cert(shown).encode(), _name(certificate)


def _connected(address: Address, timeout_s: float) -> socket.socket:
    if not address.unix:
        return socket.create_connection((address.host, address.port), timeout_s)
    found = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    found.settimeout(timeout_s)
    found.connect(address.text.removeprefix("unix:"))
    return found


def _name(certificate: x509.Certificate) -> str:
    """The first name that a certificate is for."""
    try:
        names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound:
        names = None
    if names:
        return str(names[0].value).replace("*", "any", 1)
    return str(certificate.subject.get_attributes_for_oid(x509.NameOID.COMMON_NAME)[0].value)
