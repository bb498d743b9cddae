"""The release, as the installation knows it."""

from __future__ import annotations

from importlib import metadata

#: Of a checkout that was never installed; it sorts before every release.
UNKNOWN = "0+unknown"


def _installed() -> str:
    try:
        return metadata.version("securedl")
    except metadata.PackageNotFoundError:
        return UNKNOWN


__version__ = _installed()
