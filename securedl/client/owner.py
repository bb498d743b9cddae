"""The one secret side: a plan with its keys and what verifies its answers, and their sealed file."""

from __future__ import annotations

import hashlib
import secrets
import time
from collections.abc import Generator, Iterable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from securedl.arguments import count, kind, number
from securedl.arguments import path as checked_path
from securedl.client.display import owner_card
from securedl.client.given import check_plan
from securedl.client.granted import Granted
from securedl.client.inference import Inference, Wish
from securedl.client.joined import JoinedInference
from securedl.client.keys import Keys
from securedl.client.kit import Kit, KitTerms
from securedl.client.ledger_file import LedgerFile
from securedl.client.preparing import prepared, processors
from securedl.client.probes import Verification
from securedl.client.sealed import Sealed
from securedl.client.stock import AHEAD, stock
from securedl.display import Card
from securedl.errors import InputError
from securedl.files import ARCHIVE, KIT, OWNER
from securedl.plan.network import of, under
from securedl.plan.plan import Plan, plan_from_bytes
from securedl.program.program import Program
from securedl.progress import Progress, check_progress, stage

DAY_S = 86_400
_SEALED = Sealed(OWNER, 5, "a saved owner")
_HINTS = {
    ARCHIVE: "; it may be a saved plan: securedl.load_plan(path)",
    KIT: "; it is a kit: securedl.Kit.load(path, passphrase=...)",
}


class Owner:
    """The secret side of one plan.

    Args:
        plan: what was compiled. A new secret key is generated for it, and for each of its channels.
        processes: how many may encrypt weights, where there are enough; as many as there are processors by
            default, and 1 is this process alone.
        ahead: for how many queries, of a batch each, encryptions are prepared in idle time; 0 for none.
        ledger: a file in which every call is entered before anything is sent, made if there is none; several
            owners and processes may share it. Without one, calls are counted here and in a saved owner.
        progress: of the work, stage "keys"; see `securedl.progress`.

    Raises:
        InputError: not a plan, no such numbers, or a file that is no ledger or cannot be written.

    Attributes:
        plan: the plan. keys: the secret key and what is done with it.
        verification: probes with their tolerances, and what has been seen so far.

    Where a plan has several channels, an owner is one of each (`channels`), and has no key, no verification,
    no weights of its own: it only asks them together.
    """

    _channels: tuple[Owner, ...] = ()

    def __init__(
        self,
        plan: Plan,
        processes: int | None = None,
        ahead: int = AHEAD,
        ledger: str | Path | None = None,
        progress: Progress = None,
    ) -> None:
        check_plan(plan)
        _check_work(processes, ahead)
        with stage("keys", progress) as told:
            if len(plan.channels) == 1:
                self._new(plan, processes, ahead, ledger)
                return
            channels = list[Owner]()
            for number, one in enumerate(plan.channels):
                told(number, len(plan.channels))
                channels.append(Owner(one, processes, ahead, ledger, progress=False))
            self._join(plan, tuple(channels))

    def _new(self, plan: Plan, processes: int | None, ahead: int, ledger: str | Path | None) -> None:
        keys = Keys(plan.program.params, ahead=stock(plan.signature, ahead))
        verification = Verification(plan, secret=keys.slot_squares)
        self._set(plan, keys, secrets.token_bytes(16), verification, processes, ledger)

    def _set(
        self,
        plan: Plan,
        keys: Keys,
        key_id: bytes,
        verification: Verification,
        processes: int | None,
        ledger: str | Path | None = None,
    ) -> None:
        self.plan, self.keys, self.verification = plan, keys, verification
        self._key_id, self._processes = key_id, processes
        if ledger is not None:
            path = checked_path(ledger, "ledger")
            verification.ledger = LedgerFile(path, self.model_id.hex(), verification.ledger)

    def _join(self, plan: Plan, channels: tuple[Owner, ...]) -> None:
        self.plan, self._channels = plan, channels

    @property
    def channels(self) -> tuple[Owner, ...]:
        """The owner of each channel: of a plan with one program this one."""
        return self._channels or (self,)

    def __repr__(self) -> str:
        return self._card().text()

    def _repr_html_(self) -> str:
        return self._card().html()

    def _card(self) -> Card:
        return owner_card(self.model_id, self.plan, [one.verification for one in self.channels])

    def __reduce__(self) -> Any:
        raise TypeError("an Owner holds a secret key: use save with a passphrase")

    @property
    def program(self) -> Program:
        """The public program.

        Raises:
            InputError: there are several: each of `channels` has one.
        """
        return self.plan.program

    @property
    def model_id(self) -> bytes:
        """16 bytes that name the program together with this key set."""
        if self._channels:
            return hashlib.sha256(b"".join(one.model_id for one in self._channels)).digest()[:16]
        return hashlib.sha256(self.program.id + self._key_id).digest()[:16]

    def key(self, step: int | None) -> bytes:
        """A packed switch key, as `Keys.switch_key` makes it."""
        return self.keys.switch_key(step)

    def weight(self, index: int) -> bytes:
        """Packed weight `index` of the program, encrypted afresh."""
        return next(iter(self.weights([index])))

    def weights(self, indices: Iterable[int] | None = None) -> Generator[bytes, None, None]:
        """Packed weights in ascending order of `indices` (all by default), encrypted afresh.

        Raises:
            SecureDLError: a process that helped went away.
        """
        wanted = range(len(self.program.weight_shapes)) if indices is None else set(indices)
        tiles = (tile for index, tile in enumerate(self.plan.weight_slots()) if index in wanted)
        processes = self._processes or processors()
        return prepared(self.keys, tiles, len(wanted), processes if self.program.encrypted else 1)

    def prepare(self, progress: Progress = None) -> None:
        """Make what verifies answers now rather than in the first query, unless it is there already.

        Args:
            progress: of the work, stage "probes", if there is any; see `securedl.progress`.

        Example:
            >>> owner.prepare(lambda stage, done, total: print(stage, done, total))  # doctest: +SKIP
        """
        check_progress(progress)
        missing = [one for one in self.channels if not one.verification.ready]
        if not missing:
            return
        with stage("probes", progress) as told:
            for number, one in enumerate(missing):
                with one.keys.zeros.working():
                    one.verification.prepare(told, number, len(missing))

    def ask(
        self,
        x: Any,
        probes: Wish = 8,
        outliers: str = "raise",
        verify: str = "every",
        after_alarm: str = "refuse",
        server: str = "",
        progress: Progress = None,
    ) -> Inference | JoinedInference:
        """The client's side of one predict call.

        Args:
            x: samples [samples, ...]. probes: a number, or a Probes.
            outliers: what is done about samples that would overflow: "raise", "skip" or "clip".
            verify: whose answers are compared: "every", "probes" or "none".
            after_alarm: "refuse" or "continue", where an earlier call ended with an alarm.
            server: its address, for the ledger. progress: of probes, where they have to be made first.

        Raises:
            AlarmError: one did, and this call is not to go on.
            InputError: bad samples, or with "raise" samples that would overflow; nothing has been encrypted
                then.
        """
        asked = (x, probes, outliers, verify, after_alarm, server)
        for one in self._channels:  # before any of them enters the call
            one.verification.ledger.allow(after_alarm)
        parts = [one._ask(progress, *asked) for one in self.channels]
        return JoinedInference(self.plan, parts) if self._channels else parts[0]

    def _ask(self, progress: Progress, x: Any, probes: Wish, *options: Any) -> Inference:
        asked = (self.keys, self.verification, x, probes, (), *options, partial(self.prepare, progress))
        with self.keys.zeros.working():
            return Inference(*asked)

    def grant(self, name: str = "", days: float | None = None, progress: Progress = None) -> Kit:
        """A kit for a client who may ask, and verify answers, but is not given the weights.

        Args:
            name: whose it is. days: after which it is refused; None for no end.
            progress: of the work, stage "grant"; see `securedl.progress`.

        Raises:
            InputError: this plan cannot be granted, or no such name or number.
        """
        if self._channels:
            raise InputError("this plan cannot be granted: it has several channels, a model and a key each")
        if not isinstance(name, str):
            raise InputError(f"the name of a kit is text, got {kind(name)}")
        expires = None
        if days is not None:
            number(days, "days", above=0)
            expires = time.time() + DAY_S * days
        with stage("grant", progress), self.keys.zeros.working():
            keys = Keys(self.program.params, self.keys.body())
            granted = Granted.of(self.verification)
        return Kit(keys, self.model_id, granted, KitTerms(name, expires))

    def rotate(self) -> Owner:
        """An owner of the same plan with keys of its own, to be uploaded beside this one: this one, its model
        and its kits stay as they are until `Client.remove`.
        """
        return Owner(self.plan, self._processes)

    def save(self, path: str | Path, passphrase: str) -> None:
        """Write keys, plan and verification state, sealed by AES-256-GCM under scrypt(passphrase).

        Raises:
            InputError: an empty passphrase, or a path that cannot be written; nothing is left half-written.
        """
        arrays: dict[str, Any] = {"plan": np.frombuffer(self.plan.to_bytes(), np.uint8)}
        for k, one in enumerate(self.channels):
            arrays |= under(f"channel{k}", one._to_arrays())
        _SEALED.save(path, passphrase, arrays, "Owner.save")

    def _to_arrays(self) -> dict[str, Any]:
        """All but the plan."""
        return {
            "key": np.frombuffer(self.keys.body(), np.uint8),
            "key_id": np.frombuffer(self._key_id, np.uint8),
            **self.verification.to_arrays(),
        }

    @classmethod
    def _from_arrays(
        cls,
        plan: Plan,
        arrays: Mapping[str, Any],
        processes: int | None,
        ahead: int,
        ledger: str | Path | None,
    ) -> Owner:
        keys = Keys(plan.program.params, arrays["key"].tobytes(), stock(plan.signature, ahead))
        owner = cls.__new__(cls)
        verification = Verification.from_arrays(plan, arrays, keys.slot_squares)
        if verification.made:
            verification.prepare()
        owner._set(plan, keys, arrays["key_id"].tobytes(), verification, processes, ledger)
        return owner

    @classmethod
    def load(
        cls,
        path: str | Path,
        passphrase: str,
        processes: int | None = None,
        ahead: int = AHEAD,
        ledger: str | Path | None = None,
        progress: Progress = None,
    ) -> Owner:
        """The owner that `save` wrote.

        Args:
            processes, ahead, ledger, progress: as of an Owner. What the ledger has counted since `save`
                counts.

        Raises:
            KeyFileError: no such file, not an owner's file, a wrong passphrase or a damaged file.
            InputError: a path or a passphrase of a wrong type, no such numbers, or a ledger that cannot
                be used.
        """
        _check_work(processes, ahead)
        with stage("keys", progress), _SEALED.load(path, passphrase, "Owner.load", _HINTS) as arrays:
            plan = plan_from_bytes(arrays["plan"].tobytes())
            channels = tuple(
                cls._from_arrays(one, of(f"channel{k}", arrays), processes, ahead, ledger)
                for k, one in enumerate(plan.channels)
            )
        if len(channels) == 1:
            return channels[0]
        owner = cls.__new__(cls)
        owner._join(plan, channels)
        return owner


def _check_work(processes: int | None, ahead: int) -> None:
    if processes is not None:
        count(processes, "processes", least=1)
    count(ahead, "ahead", least=0)
