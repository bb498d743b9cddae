"""What `securedl datasets` prints: all sets, where each is now, and what came of fetching some."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from securedl.datasets import CATALOGUE, Patience, Source, cache_folder, fetch, names, where
from securedl.errors import InputError, SecureDLError


def facts(source: Source) -> dict[str, Any]:
    """One set, for scripts."""
    places = where(source)
    return {
        "name": source.name,
        "title": source.title,
        "rows": source.full.rows,
        "train_rows": source.full.train_rows,
        "sample": list(source.sample),
        "classes": list(source.classes),
        "licence": source.licence,
        "citation": source.citation,
        "page": source.page,
        "urls": [url for file in source.files for url in file.urls],
        "digest": source.full.digest,
        "places": [
            {"kind": p.kind, "variant": p.variant, "path": str(p.path) if p.path else None} for p in places
        ],
    }


def show(console: Console) -> list[dict[str, Any]]:
    """Print the catalogue; returns its facts."""
    table = Table(box=None, padding=(0, 1), show_edge=False, header_style="bold")
    table.add_column("set", no_wrap=True)
    for heading in ("rows", "sample", "classes"):
        table.add_column(heading, no_wrap=True, justify="right")
    table.add_column("licence")
    table.add_column("now in", no_wrap=True)
    parts: list[str] = []
    listed = [facts(source) for source in CATALOGUE.values()]
    for fact in listed:
        place = fact["places"][0] if fact["places"] else None
        now = "not fetched" if place is None else place["kind"]
        if place is not None and place["variant"] != fact["name"]:
            now += " *"
            parts.append(place["variant"])
        size = (str(fact["rows"]), "x".join(map(str, fact["sample"])), str(len(fact["classes"])))
        table.add_row(fact["name"], *size, escape(fact["licence"]), now)
    console.print(table)
    if parts:
        console.print(f" * a part only: {', '.join(parts)}", highlight=False)
    console.print("\n[bold]to cite[/bold]")
    for fact in listed:
        console.print(f"{fact['name']}: {escape(fact['citation'])},\n  {fact['page']}", highlight=False)
    console.print(f"\ncache: {cache_folder()}", highlight=False, soft_wrap=True)
    console.print(
        "securedl datasets fetch NAME... gets a set; SECUREDL_DATA names a folder of your own files."
    )
    return listed


def get(chosen: Sequence[str], console: Console, patience: Patience | None = None) -> list[dict[str, Any]]:
    """Fetch sets by name, or "all" that may be fetched; one line each. Facts have "error" if one failed.

    Raises:
        InputError: a name is unknown; then nothing is fetched.
    """
    unknown = sorted(set(chosen) - set(names()) - {"all"})
    if unknown:
        raise InputError(f"unknown: {', '.join(unknown)}; the data sets are all, {', '.join(names())}")
    wanted = names() if "all" in chosen else tuple(dict.fromkeys(chosen))
    results = []
    for name in wanted:
        source, error = CATALOGUE[name], None
        try:
            line = f"[green]{name}[/green]: {escape(fetch(name, patience=patience))}"
        except SecureDLError as failure:
            error = str(failure)
            # Of "all", a set that nobody may fetch is no failure.
            colour = "yellow" if source.by_hand and "all" in chosen else "red"
            line = f"[{colour}]{name}[/{colour}]: {escape(error)}"
        console.print(line, highlight=False, soft_wrap=True)
        failed = error is not None and not (source.by_hand and "all" in chosen)
        results.append({**facts(source), "error": error, "failed": failed})
    return results
