"""The exception tree. Every message says what was given, what was expected, where, and what to do.

SecureDLError
├── InputError             a value the caller passed: shape, NaN, range, unknown name
├── UnsupportedLayerError  layers the compiler cannot encrypt, all of them listed
├── CompileError           no plan fits: parameters, levels, overflow
├── FormatError            bytes that are not what the program says they must be
├── ProtocolError          the other side broke the protocol, or spoke of another plan or key
│   ├── AuthenticationError
│   └── QuotaError
├── ServerError            the server could not be reached, or went away
├── AlarmError             an earlier answer was not the network's, and the owner is asked again
└── KeyFileError           a saved owner that cannot be opened
"""

from __future__ import annotations


class SecureDLError(Exception):
    """Base of every error this project raises on purpose."""


class InputError(SecureDLError, ValueError):
    """A value the caller passed has the wrong shape, type or range."""


class UnsupportedLayerError(SecureDLError, TypeError):
    """The network holds layers that cannot be compiled; the message lists all of them."""


class CompileError(SecureDLError, ValueError):
    """No plan fits the network and the parameters asked for."""


class FormatError(SecureDLError, ValueError):
    """Bytes do not have the layout, level, length or residues that the program names."""


class ProtocolError(SecureDLError):
    """The other side broke the protocol."""


class AuthenticationError(ProtocolError):
    """The server refused the bearer token."""


class QuotaError(ProtocolError):
    """The server's limits do not allow the request."""


class ServerError(SecureDLError, ConnectionError):
    """The server could not be reached or went away."""


class UnreachableError(ServerError):
    """The server went away, or cannot be reached: what was asked can be asked again."""


class AlarmError(SecureDLError):
    """An earlier call of this owner ended with an alarm, or this one did and was then broken off."""


class KeyFileError(SecureDLError):
    """A saved owner could not be opened: wrong passphrase, or a damaged file."""
