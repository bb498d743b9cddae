"""Who asks the shares of a job: an owner or a kit, opened from its file, with one client."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from protocol.client import Client
from protocol.jobs.shares import Answered, Share
from protocol.link import Tls
from protocol.tokens import read_tokens
from securedl.client.kit import Kit
from securedl.client.owner import Owner
from securedl.client.rows import read_rows
from securedl.client.verifier import Verifier
from securedl.errors import InputError
from securedl.files import KIT, private_text
from securedl.progress import Progress


@dataclass(frozen=True)
class AskerFiles:
    """Where a job's asker finds what it needs: no secret, so that it may travel.

    Attributes:
        secret: an owner's or a kit's file. passphrase_file: its passphrase; None where it is known.
        rows: the samples. address, tls: of the server. token_file: its first token is the client's.
    """

    secret: Path
    passphrase_file: Path | None
    rows: Path
    address: str
    token_file: Path | None = None
    tls: Tls = None

    def passphrase(self) -> str:
        """As the file has it, without the end of its line.

        Raises:
            InputError: there is none, or others can read it.
        """
        if self.passphrase_file is None:
            raise InputError("no passphrase: give --passphrase-file FILE")
        return private_text(self.passphrase_file, "passphrase file").rstrip("\r\n")

    def client(self, side: Owner | Kit, progress: Progress) -> Client:
        """One, connected.

        Raises:
            ServerError, ProtocolError: as `protocol.Client.describe`.
        """
        token = next(iter(read_tokens(self.token_file))) if self.token_file else None
        return Client(self.address, side, token, self.tls, progress=progress).__enter__()


@dataclass(frozen=True)
class Manner:
    """How rows are asked: as of `protocol.Client.predict`."""

    probes: int = 8
    outliers: str = "raise"
    verify: str = "every"


def secret_side(path: Path, passphrase: str, ledger: Path | None, progress: Progress = None) -> Owner | Kit:
    """What a file holds.

    Raises:
        KeyFileError: no such file, neither an owner's nor a kit's, or it cannot be opened.
        InputError: a ledger that cannot be used.
    """
    try:
        with open(path, "rb") as file:
            first = file.read(len(KIT))
    except OSError:
        first = b""  # load says what is wrong
    if first == KIT:
        return Kit.load(path, passphrase, ledger=ledger)
    return Owner.load(path, passphrase, ledger=ledger, progress=progress)


def verifiers_of(side: Owner | Kit) -> list[Verifier]:
    """What each channel verifies by; its ledger is there."""
    if isinstance(side, Kit):
        return [side.granted]
    return [channel.verification for channel in side.channels]


def rows_for(path: Path, side: Owner | Kit) -> Any:
    """The samples of a file, for this model."""
    signature = verifiers_of(side)[0].signature
    return read_rows(path, signature.input_shape, signature.columns)


def asked(client: Client, rows: Any, share: Share, manner: Manner) -> Answered:
    """The answers of a share; those of batches with an alarm are withheld, and the call goes on to its end:
    a server sees no difference.

    Raises:
        AlarmError: there was an alarm, and then the call broke off. SecureDLError: as `Client.predict`.
    """
    # A job is one call to whoever watches: an alarm in a share changes nothing for the next one.
    parts = client.predict_batches(
        np.asarray(rows[share.start : share.stop]), manner.probes, manner.outliers, manner.verify, "continue"
    )
    doubtful = [part.samples for part in parts if not part.passed]
    answer = parts.answer
    withheld = np.unique(np.concatenate([np.zeros(0, np.int64), *doubtful]))
    logits = answer.logits.copy()
    logits[withheld] = np.nan
    return Answered(logits, withheld, answer.report)
