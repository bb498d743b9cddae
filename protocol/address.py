"""Addresses (HOST:PORT, [IPV6]:PORT and unix:PATH), and what may be a token."""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass

from securedl.arguments import kind
from securedl.errors import InputError

DEFAULT = "127.0.0.1:7443"
#: sun_path holds 108 bytes with its closing zero (Linux).
MAX_UNIX_PATH = 107


@dataclass(frozen=True)
class Address:
    """Where a server listens.

    Attributes:
        text: as gRPC takes it.
        host: empty for a Unix socket.
        port: 0 for a Unix socket, or for "any free port".
    """

    text: str
    host: str
    port: int

    @property
    def unix(self) -> bool:
        """Whether this is a Unix socket."""
        return not self.host

    @property
    def local(self) -> bool:
        """Whether nothing outside this machine can listen in."""
        if self.unix or self.host == "localhost":
            return True
        try:
            return ipaddress.ip_address(self.host).is_loopback
        except ValueError:
            return False


def parse_address(text: str) -> Address:
    """A checked address.

    Raises:
        InputError: not HOST:PORT or unix:PATH.
    """
    if not isinstance(text, str):
        raise InputError(f"an address is text, HOST:PORT or unix:PATH; got {kind(text)}")
    if text.startswith("unix:"):
        name = text[len("unix:") :]
        if not name or len(name.encode()) > MAX_UNIX_PATH or "\0" in name:
            raise InputError(
                f"{text!r}: a socket's path has 1 to {MAX_UNIX_PATH} bytes, this one has {len(name.encode())}"
            )
        return Address(text, "", 0)
    host, separator, port = text.rpartition(":")
    bare = host[1:-1] if host.startswith("[") and host.endswith("]") else host
    valid = bool(separator and bare) and port.isascii() and port.isdigit() and int(port) < 1 << 16
    if not valid or "/" in host or (":" in bare and bare == host):
        raise InputError(f"{text!r} is no address: write HOST:PORT, as in {DEFAULT}, or unix:PATH")
    return Address(text, bare, int(port))


def check_token(token: str) -> None:
    """Refuse what a header cannot carry.

    Raises:
        InputError: so it is.
    """
    if not token or not token.isascii() or not token.isprintable() or " " in token:
        raise InputError("a token is one or more printable ASCII characters without spaces")
