"""What a store holds: its models, whose they are, and what was asked of them. A server may run meanwhile."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from protocol.access import Access
from protocol.store import Store
from protocol.stored import locked
from protocol.usage import Usage, Use
from securedl.errors import InputError, ServerError

_DAY_S = 86_400


@dataclass(frozen=True)
class Held:
    """One model.

    Attributes:
        id: hex. client: the folder of its client. tenant: the name in logs and metrics.
        complete: whether queries can be asked; False, too, of damaged ones.
        bytes: on disk.
        queries, seconds: answered, and core seconds of them.
        created, changed, used: s since 1970; used is None where nothing was asked.
    """

    id: str
    client: str
    tenant: str
    complete: bool
    bytes: int
    queries: int
    seconds: float
    created: float
    changed: float
    used: float | None

    def figures(self) -> dict[str, Any]:
        """For a file: times in ISO 8601, UTC."""
        times = {name: iso(getattr(self, name)) for name in ("created", "changed", "used")}
        return {**asdict(self), **times}


def iso(seconds: float | None) -> str | None:
    """A time in ISO 8601, UTC."""
    if seconds is None:
        return None
    return datetime.fromtimestamp(seconds, timezone.utc).isoformat(timespec="seconds")


class Inventory:
    """The models of a store.

    Args:
        tokens: of a token file, for the names that it gives to tenants.

    Raises:
        InputError: there is no store.
    """

    def __init__(self, folder: Path, tokens: Mapping[str, str] | None = None) -> None:
        if not (folder / "clients").is_dir():
            raise InputError(
                f"there is no store in {folder}: name the folder that `securedl serve --store` has"
            )
        self._store, self._usage = Store(folder), Usage(folder)
        self._names = {tenant.client: tenant.label for tenant in Access(self._store, tokens or {}).tenants()}

    def close(self) -> None:
        """Close what is open."""
        self._usage.close()

    def models(self) -> list[Held]:
        """All of them, the oldest first."""
        uses, found = self._usage.models(), list[Held]()
        for root in sorted((self._store.folder / "clients").iterdir()):
            if root.is_dir():
                for model_id in self._store.models(root.name):
                    use = uses.get((root.name, model_id.hex()), Use())
                    with contextlib.suppress(FileNotFoundError):  # removed just now
                        found.append(self._held(root.name, model_id, use))
        return sorted(found, key=lambda held: held.created)

    def _held(self, client: str, model_id: bytes, use: Use) -> Held:
        folder = self._store.folder / "clients" / client / model_id.hex()
        files = {path.name: path.stat() for path in folder.iterdir()}
        complete = False
        with contextlib.suppress(ServerError):  # damaged
            stored = self._store.find(client, model_id)
            complete = stored is not None and not stored.missing()
        created = folder.stat().st_mtime if "program.json" not in files else files["program.json"].st_mtime
        changed = max([created, *(files[name].st_mtime for name in ("journal",) if name in files)])
        return Held(
            model_id.hex(), client, self._names.get(client, client[:8]), complete,
            sum(512 * one.st_blocks for one in files.values()), use.queries, use.seconds, created, changed,
            use.used,
        )  # fmt: skip

    def chosen(self, ids: Iterable[str]) -> list[Held]:
        """The models of these ids.

        Raises:
            InputError: one of them is not there.
        """
        held, wanted = self.models(), list(ids)
        for name in wanted:
            if name not in {one.id for one in held}:
                raise InputError(f"the store has no model {name!r}: `securedl models ls` lists all")
        return [one for one in held if one.id in wanted]

    def unused(self, days: float, incomplete: bool) -> list[Held]:
        """Models of which nobody asked anything for so many days, nor uploaded any part.

        Args:
            incomplete: those whose upload never ended, too.
        """
        until = time.time() - days * _DAY_S
        return [
            one
            for one in self.models()
            if max(one.changed, one.used or 0.0) < until and (one.complete or incomplete)
        ]

    def remove(self, held: Held) -> bool:
        """Delete a model, all at once; whether it was there and no upload works on it.

        Sessions that have it loaded end as they would without this.
        """
        lock = self._store.folder / "clients" / held.client / held.id / "lock"
        model_id = bytes.fromhex(held.id)
        with contextlib.ExitStack() as stack:
            if lock.exists() and not stack.enter_context(locked(lock)):
                return False
            removed = self._store.remove(held.client, model_id)
        self._usage.forget(held.client, model_id)
        return removed
