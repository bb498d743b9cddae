"""Commands of whoever runs a server: `securedl token`. They import late: the command line starts fast."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

token_app = typer.Typer(help="Bearer tokens of a server's clients.", no_args_is_help=True)


@token_app.callback()
def _tokens() -> None:
    """Bearer tokens of a server's clients."""


@token_app.command("new")
def new(
    file: Annotated[Path | None, typer.Option(help="Append it to this token file, made 0600.")] = None,
    name: Annotated[str, typer.Option(help="Of the tenant, in logs and metrics: a-z, 0-9 and -.")] = "",
) -> None:
    """Make a token, and print it or append it to a file. Give it to its client, and to nobody else."""
    from protocol.tokens import add_token, append_token, new_token
    from securedl.errors import InputError

    token = new_token()
    if name and file is None:
        raise InputError("--name goes into a token file: add --file FILE")
    add_token({}, token, name)
    if file is None:
        print(token)
        return
    append_token(file, token, name)
    print(f"{file} has one token more; a server that runs reads it again at SIGHUP")
