"""Commands of whoever runs a server: `securedl health`, `securedl token` and `securedl models`.

They import late, so that the command line starts fast.
"""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator
from datetime import datetime, timezone
from json import dumps
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from protocol.address import DEFAULT

if TYPE_CHECKING:
    from protocol.inventory import Held, Inventory


def health(
    address: Annotated[str, typer.Argument(help="Of the server: HOST:PORT or unix:PATH.")] = DEFAULT,
    ready: Annotated[
        bool, typer.Option("--ready", help="Ask too whether its store can take an upload.")
    ] = False,
    tls: Annotated[bool, typer.Option("--tls", help="TLS, whoever answers: nothing secret is sent.")] = False,
    tls_ca: Annotated[Path | None, typer.Option(help="TLS, trusting this authority alone: PEM.")] = None,
    timeout: Annotated[float, typer.Option(min=0.1, help="Seconds to wait for an answer.")] = 5.0,
) -> None:
    """Ask a server whether it serves, as health checks of containers do: exit status 1 unless it does."""
    from protocol.health_check import check_health

    check_health(address, ready, tls_ca or tls, timeout)
    print(f"{address} serves")


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


models_app = typer.Typer(help="Models in a server's store, which may run meanwhile.", no_args_is_help=True)
StoreFolder = Annotated[Path, typer.Option(help="Folder that keeps keys and encrypted models.")]
FileOption = Annotated[Path | None, typer.Option("--json", help="Write the figures to this file.")]
NamesOption = Annotated[Path | None, typer.Option("--token-file", help="Gives the names of tenants.")]
STORE = Path("securedl-store")


@contextlib.contextmanager
def _inventory(store: Path, token_file: Path | None = None) -> Iterator[Inventory]:
    from protocol.inventory import Inventory
    from protocol.tokens import read_tokens

    with contextlib.closing(Inventory(store, read_tokens(token_file) if token_file else None)) as inventory:
        yield inventory


def _write(path: Path | None, held: list[Held]) -> None:
    from securedl.files import write_atomically

    if path is not None:
        write_atomically(path, dumps([one.figures() for one in held], indent=1).encode(), mode=0o644)


def _day(seconds: float | None) -> str:
    return "never" if seconds is None else f"{datetime.fromtimestamp(seconds, timezone.utc):%Y-%m-%d}"


@models_app.command("ls")
def ls(store: StoreFolder = STORE, token_file: NamesOption = None, json: FileOption = None) -> None:
    """List the models: whose they are, what they take, and what was asked of them."""
    from rich.console import Console
    from rich.table import Column, Table

    from securedl.files import check_writable

    check_writable(json)
    with _inventory(store, token_file) as inventory:
        held = inventory.models()
    names = ("tenant", "complete", "MB", "queries", "core s", "created", "last use")
    table = Table(Column("model", no_wrap=True, min_width=32), *names, box=None)
    for one in held:
        table.add_row(
            one.id, one.tenant, "yes" if one.complete else "no", f"{one.bytes / 1e6:,.1f}",
            f"{one.queries:,}", f"{one.seconds:,.1f}", _day(one.created), _day(one.used),
        )  # fmt: skip
    Console(width=None if sys.stdout.isatty() else 140).print(table)  # a pipe has no width
    _write(json, held)


@models_app.command("rm")
def rm(
    ids: Annotated[list[str], typer.Argument(help="Ids of models, as ls prints them.")],
    store: StoreFolder = STORE,
    json: FileOption = None,
) -> None:
    """Delete models."""
    with _inventory(store) as inventory:
        _remove(inventory, inventory.chosen(ids), json)


@models_app.command("gc")
def gc(
    unused_days: Annotated[float, typer.Option(min=0.0, help="Nobody asked anything for so long.")],
    store: StoreFolder = STORE,
    incomplete: Annotated[
        bool, typer.Option("--incomplete", help="Also those whose upload never ended.")
    ] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say which.")] = False,
    json: FileOption = None,
) -> None:
    """Delete the models that nobody uses."""
    with _inventory(store) as inventory:
        held = inventory.unused(unused_days, incomplete)
        if dry_run:
            for one in held:
                print(f"{one.id} of {one.tenant} would be deleted: {one.bytes:,} bytes")
            _write(json, held)
        else:
            _remove(inventory, held, json)


def _remove(inventory: Inventory, held: list[Held], path: Path | None) -> None:
    from securedl.files import check_writable

    check_writable(path)
    removed = []
    for one in held:
        if inventory.remove(one):
            removed.append(one)
            print(f"{one.id} of {one.tenant} is deleted: {one.bytes:,} bytes")
        else:
            print(f"{one.id} of {one.tenant} is not deleted: it is being uploaded, or gone already")
    _write(path, removed)
