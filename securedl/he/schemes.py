"""The schemes that there are."""

from __future__ import annotations

from securedl.errors import CompileError
from securedl.he.bgv import Bgv
from securedl.he.ckks import Ckks
from securedl.he.params import Parameters
from securedl.he.scheme import Scheme

SCHEMES: dict[str, Scheme] = {kind.name: kind() for kind in (Ckks, Bgv)}


def scheme_named(name: str) -> Scheme:
    """The scheme of that name.

    Raises:
        CompileError: it is not available.
    """
    if name not in SCHEMES:
        raise CompileError(f"scheme {name!r} is not available yet: use one of {', '.join(SCHEMES)}")
    return SCHEMES[name]


def scheme_of(params: Parameters) -> Scheme:
    """The scheme of these parameters; errors are those of `scheme_named`."""
    return scheme_named(params.scheme)
