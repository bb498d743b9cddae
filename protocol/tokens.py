"""A server's token file: one bearer token a line, and behind it a name for its tenant where one is wanted."""

from __future__ import annotations

import os
import re
import secrets
from collections.abc import Iterable, Mapping
from pathlib import Path

from protocol.address import check_token
from securedl.errors import InputError
from securedl.files import check_private, open_file, private_text

TENANT_NAME = re.compile(r"[a-z0-9-]{1,32}")
#: Of whoever has no token: the one client of a server without tokens, and strangers.
LOCAL, STRANGER = "local", "stranger"


def read_tokens(path: Path) -> dict[str, str]:
    """Tokens, and the names of their tenants: "" where the file gives none.

    Raises:
        InputError: the file cannot be read, others can read or change it, or a line is no token with a name.
    """
    lines = private_text(path, "token file").splitlines()
    tokens: dict[str, str] = {}
    for number, line in enumerate(lines, 1):
        token, *names = line.split()[:3] or [""]
        if not token:
            continue
        try:
            if len(names) > 1:
                raise InputError("a line holds a token and at most one name")
            check_token(token)
            add_token(tokens, token, names[0] if names else "")
        except InputError as error:  # never the line itself: it is a secret
            raise InputError(f"line {number} of the token file {path}: {error}") from error
    if not tokens:
        raise InputError(f"the token file {path} holds no token: write one a line")
    return tokens


def tokens_of(token: str | Iterable[str] | Mapping[str, str] | None) -> dict[str, str]:
    """One token, several, or such as `read_tokens` gives; none where None is given: then everybody who can
    connect is one client.

    Raises:
        InputError: no token in a list, one that cannot travel in a header, or a bad name.
    """
    if token is None:
        return {}
    given = {token: ""} if isinstance(token, str) else token
    named = given if isinstance(given, Mapping) else dict.fromkeys(given, "")
    if not named:
        raise InputError("a list of tokens holds at least one; None means that nobody needs a token")
    tokens: dict[str, str] = {}
    for text, name in named.items():
        check_token(text)
        add_token(tokens, text, name)
    return tokens


def add_token(tokens: dict[str, str], token: str, name: str) -> None:
    """Add one to `tokens`.

    Raises:
        InputError: a name that cannot be one, or that another token has; or the token is there already.
    """
    if name and (not TENANT_NAME.fullmatch(name) or name in (LOCAL, STRANGER)):
        raise InputError(
            "a tenant's name is 1 to 32 of a-z, 0-9 and -, and neither local nor stranger: change it"
        )
    if token in tokens and tokens[token] != name:
        raise InputError("this token is there twice, with different names: remove one")
    if name and name in tokens.values() and tokens.get(token) != name:
        raise InputError(f"two tokens have the name {name}: each tenant has one of its own")
    tokens[token] = name


def new_token() -> str:
    """A token that nobody guesses: 256 bits."""
    return secrets.token_urlsafe(32)


def append_token(path: Path, token: str, name: str = "") -> None:
    """Add a line to a token file, which is made, for its owner alone, where it is missing.

    Raises:
        InputError: others can read or change it, it cannot be written, or the name cannot be used.
    """
    line = f"{token} {name}".rstrip() + "\n"
    try:
        file = open_file(path, os.O_RDWR | os.O_CREAT | os.O_APPEND)
        with open(file, "rb+", buffering=0) as handle:
            check_private(path, os.fstat(file), "token file")
            if before := handle.read():
                add_token(read_tokens(path) if before.strip() else {}, token, name)
                line = line if before.endswith(b"\n") else "\n" + line
            else:
                add_token({}, token, name)
            handle.write(line.encode())
            os.fsync(file)
    except OSError as error:
        raise InputError(f"cannot write the token file {path}: {error.strerror}") from error
