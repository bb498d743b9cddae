"""A kit: all that a client needs to ask a model and to verify its answers, and no weight."""

from __future__ import annotations

import json
import time
from collections.abc import Generator, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from securedl.arguments import count
from securedl.client.granted import Granted
from securedl.client.inference import Inference, Wish
from securedl.client.keys import Keys
from securedl.client.ledger_file import LedgerFile
from securedl.client.sealed import Sealed
from securedl.client.stock import AHEAD, stock
from securedl.display import Card
from securedl.errors import InputError, KeyFileError
from securedl.files import ARCHIVE, KIT, OWNER
from securedl.plan.network import of, under
from securedl.program.program import Program
from securedl.progress import Progress

_SEALED = Sealed(KIT, 1, "a kit")
_HINTS = {
    OWNER: "; it is a saved owner: securedl.Owner.load(path, passphrase=...)",
    ARCHIVE: "; it may be a saved plan, which its owner keeps",
}


@dataclass(frozen=True)
class KitTerms:
    """What a kit was granted for.

    Attributes:
        name: whose it is. expires: seconds since 1970 from which it is refused, or None.
    """

    name: str = ""
    expires: float | None = None

    def check(self) -> None:
        """Refuse what is over.

        Raises:
            InputError: it has expired.
        """
        if self.expires is not None and time.time() >= self.expires:
            raise InputError(f"this kit has expired on {self.until}: ask the model's owner for another one")

    @property
    def until(self) -> str:
        """For people, UTC."""
        if self.expires is None:
            return "without end"
        return time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime(self.expires))


class Kit:
    """What `Owner.grant` gives: asks, and verifies answers, in place of an owner; it cannot upload.

    It holds the secret key. With it the weights that a server keeps can be opened, and what other kits of the
    same owner ask: give it only to who may see these.

    Example:
        >>> kit = owner.grant("ward 3", days=30)  # doctest: +SKIP
        >>> kit.save("ward3.kit", passphrase="...")  # doctest: +SKIP
        >>> kit = securedl.Kit.load("ward3.kit", passphrase="...")  # doctest: +SKIP
        >>> protocol.Client("127.0.0.1:7443", kit).predict(x)  # doctest: +SKIP
    """

    def __init__(self, keys: Keys, model_id: bytes, granted: Granted, terms: KitTerms) -> None:
        self.keys, self.model_id, self.granted, self.terms = keys, model_id, granted, terms

    def __repr__(self) -> str:
        return self._card().text()

    def _repr_html_(self) -> str:
        return self._card().html()

    def _card(self) -> Card:
        signature, sums = self.granted.signature, self.granted.sums
        tested = sum(one is not None for one in sums)
        rows = (
            ("for", self.terms.name or "nobody by name"),
            ("expires", self.terms.until),
            ("key", "secret, in this process; save(path, passphrase=...) keeps it"),
            ("asks", f"batches of {signature.program.batch}, ring {signature.program.params.ring}"),
            ("tests", f"every value at {tested} of {len(sums)} checkpoints, without weights"),
            ("served", f"{self.granted.ledger.batches} batches"),
        )
        return Card(f"Kit of model {self.model_id.hex()}", rows)

    def __reduce__(self) -> Any:
        raise TypeError("a Kit holds a secret key: use save with a passphrase")

    @property
    def program(self) -> Program:
        """The public program."""
        return self.granted.signature.program

    @property
    def channels(self) -> tuple[Kit]:
        """A kit asks one model: itself."""
        return (self,)

    def prepare(self, progress: Progress = None) -> None:
        """Refuse an upload before anything is sent.

        Raises:
            InputError: always; a kit has no weights.
        """
        raise InputError("a kit holds no weights and cannot upload: the owner of the model does")

    def key(self, step: int | None) -> bytes:
        """As `prepare`."""
        raise InputError("a kit holds no weights and cannot upload: the owner of the model does")

    def weights(self, indices: Iterable[int]) -> Generator[bytes, None, None]:
        """As `prepare`."""
        raise InputError("a kit holds no weights and cannot upload: the owner of the model does")

    def ask(
        self,
        x: Any,
        probes: Wish = 8,
        outliers: str = "raise",
        verify: str = "every",
        after_alarm: str = "refuse",
        server: str = "",
        progress: Progress = None,
    ) -> Inference:
        """As `Owner.ask`; which samples would overflow is told by the plan's box. A kit has its probes.

        Raises:
            InputError: the kit has expired; or as `Owner.ask`. AlarmError: as there.
        """
        self.terms.check()
        with self.keys.zeros.working():
            return Inference(self.keys, self.granted, x, probes, (), outliers, verify, after_alarm, server)

    def save(self, path: str | Path, passphrase: str) -> None:
        """Write the kit, sealed by AES-256-GCM under scrypt(passphrase).

        Raises:
            InputError: an empty passphrase, or a path that cannot be written; nothing is left half-written.
        """
        meta, arrays = self.granted.to_parts()
        terms = {"name": self.terms.name, "expires": self.terms.expires}
        found = {
            "meta": np.array(json.dumps({"granted": meta, "terms": terms})),
            "key": np.frombuffer(self.keys.body(), np.uint8),
            "model_id": np.frombuffer(self.model_id, np.uint8),
        }
        _SEALED.save(path, passphrase, {**found, **under("granted", arrays)}, "Kit.save")

    @classmethod
    def load(
        cls, path: str | Path, passphrase: str, ahead: int = AHEAD, ledger: str | Path | None = None
    ) -> Kit:
        """The kit that `save` wrote; an expired one too, which asks nothing.

        Args:
            ahead: for how many queries encryptions are prepared in idle time. ledger: a file in which every
                call is entered; see `Owner`.

        Raises:
            KeyFileError: no such file, no kit, a wrong passphrase or a damaged file.
            InputError: a path or a passphrase of a wrong type, no such number, or a ledger that cannot be
                used.
        """
        count(ahead, "ahead", least=0)
        with _SEALED.load(path, passphrase, "Kit.load", _HINTS) as arrays:
            try:
                meta = json.loads(str(arrays["meta"]))
                granted = Granted.from_parts(meta["granted"], of("granted", arrays))
            except KeyError as error:
                raise KeyFileError(f"{path} is a kit without {error}: another version wrote it") from error
            signature, model_id = granted.signature, arrays["model_id"].tobytes()
            keys = Keys(signature.program.params, arrays["key"].tobytes(), stock(signature, ahead))
            if ledger is not None:
                granted.ledger = LedgerFile(Path(ledger), model_id.hex(), granted.ledger)
            return cls(keys, model_id, granted, KitTerms(**meta["terms"]))
