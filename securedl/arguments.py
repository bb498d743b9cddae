"""Checks of what a caller passes, for messages that name it; values that could be secret are never shown."""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from numbers import Integral, Real
from pathlib import Path
from typing import Any

from securedl.errors import InputError

SHOWN_CHARACTERS = 60


def kind(value: Any) -> str:
    """What a value is, for a sentence: `a Plan`, `an int`, `None`, `the class Plan`. Never its contents."""
    if value is None:
        return "None"
    if isinstance(value, type):
        return f"the class {value.__name__}"
    name = type(value).__name__
    if name == "bytes":
        return name
    return f"{'an' if name[:1] in 'aeioAEIO' or name == 'ndarray' else 'a'} {name}"


def shown(value: Any) -> str:
    """A value as Python writes it when it is a number or text, not too long; what it is otherwise."""
    if isinstance(value, str | Real) and len(text := repr(value)) <= SHOWN_CHARACTERS:
        return text
    return kind(value)


def number(
    value: Any, what: str, *, least: float = -math.inf, above: float = -math.inf, finite: bool = True
) -> None:
    """Refuse what is no real number from `least`, above `above`; NaN always, infinity when `finite`.

    Raises:
        InputError: so it is.
    """
    if isinstance(value, Real) and not isinstance(value, bool):
        size: Any = value  # Real has no order in its types
        high_enough = size >= least and (size > above or above == -math.inf)
        if high_enough and (not finite or abs(size) < math.inf):
            return
    due = f" greater than {above:g}" if above > -math.inf else f" of at least {least:g}" * (least > -math.inf)
    raise InputError(f"{what} must be a {'finite ' if finite else ''}number{due}, got {shown(value)}")


def count(value: Any, what: str, *, least: int | None = None) -> None:
    """Refuse what is no whole number, or below `least`; True and False are none.

    Raises:
        InputError: so it is.
    """
    whole = isinstance(value, Integral) and not isinstance(value, bool)
    if not whole or (least is not None and value < least):
        due = "" if least is None else f" of at least {least}"
        raise InputError(f"{what} must be a whole number{due}, got {shown(value)}")


def path(value: Any, what: str) -> Path:
    """A path.

    Raises:
        InputError: neither text nor a path, or one that no file can have.
    """
    if not isinstance(value, str | os.PathLike):
        raise InputError(f"{what} takes the path of a file, got {kind(value)}")
    if "\0" in (text := os.fsdecode(value)):
        raise InputError(f"{what} takes the path of a file, got text with a zero character")
    return Path(text)


def choice(value: Any, what: str, among: Sequence[str]) -> str:
    """One of some names.

    Raises:
        InputError: it is none of them.
    """
    if isinstance(value, str) and value in among:
        return value
    raise InputError(f"{what} must be one of {', '.join(map(repr, among))}, got {shown(value)}")


def boolean(value: Any, what: str) -> None:
    """Refuse what is neither True nor False.

    Raises:
        InputError: so it is.
    """
    if not isinstance(value, bool):
        raise InputError(f"{what} must be True or False, got {shown(value)}")


def check_passphrase(value: Any) -> None:
    """Refuse what cannot be a passphrase; an empty one can. It is never shown.

    Raises:
        InputError: not text, or text that has no UTF-8.
    """
    if not isinstance(value, str):
        raise InputError(f"the passphrase must be text, got {kind(value)}")
    try:
        value.encode()
    except UnicodeEncodeError:
        raise InputError("the passphrase holds half a character (a lone surrogate): type it anew") from None
