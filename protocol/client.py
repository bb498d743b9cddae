"""The client: uploads an owner's model and asks it questions. Checks every byte that comes back."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from protocol import address as addresses
from protocol import messages_pb2 as pb
from protocol.asking import Clock
from protocol.given import check_client
from protocol.link import Connection, Tls
from protocol.parts import Parts
from protocol.priced import ask_prices
from protocol.retrying import RETRY_S
from protocol.side import KnownChannel, SecretChannel, SecretSide
from protocol.uploading import Upload, send_models
from protocol.wire import PROTOCOL_VERSION
from securedl.arguments import number
from securedl.errors import ProtocolError
from securedl.progress import Progress, stage

if TYPE_CHECKING:  # a server's process may import this module, and must not load what a client needs
    from securedl.client.inference import Answer, Wish
    from securedl.client.priced import CoefficientPrices

#: Longest silence of the server: it computes between two messages.
TIMEOUT_S = 600.0
CONNECT_S = 10.0


@dataclass(frozen=True)
class ModelStatus:
    """What a server has of a model: parts that it should have, and those it still misses."""

    known: bool
    blobs: int
    missing: int

    @property
    def complete(self) -> bool:
        """Whether queries can be asked."""
        return self.known and not self.missing


def _model_request(channel: SecretChannel) -> Any:
    return pb.ModelRequest(version=PROTOCOL_VERSION, model_id=channel.model_id)


def prices(
    address: str = addresses.DEFAULT, token: str | None = None, tls: Tls = None, fresh: bool = False
) -> CoefficientPrices:
    """What operations take on that server and this client, for `securedl.compile(..., prices=...)`.

    The server measures its part when somebody first asks; that takes a second or two, and longer while it has
    queries to answer. This client's part takes as long. Both are kept in the user's cache folder: a server's
    under its address and what it says of its machine, threads and release.

    Args:
        address, token, tls: as for `Client`.
        fresh: take nothing from the cache folder.

    Raises:
        ServerError: nobody answers, or the server is not done with its measurement in time.
        ProtocolError: it offers no prices, or such as no server can have.
    """
    link = Connection(address, token, tls, TIMEOUT_S, CONNECT_S)
    try:
        return _prices(link, fresh)
    finally:
        link.close()


def _prices(link: Connection, fresh: bool) -> CoefficientPrices:
    from securedl.client.priced import KnownPrices

    known = KnownPrices(fresh)
    return known.joined(ask_prices(link, known.server, known.note))


class Client:
    """One owner's client of one server; a context manager.

    Args:
        address: HOST:PORT or unix:PATH.
        owner: keys, plan and weights; nothing secret of it leaves this process.
        token: sent over TLS, loopback and Unix sockets only.
        tls: see `protocol.link.Tls`.
        timeout_s: longest silence of the server before ServerError.
        retry_s: where the server goes away during a call, batches without an answer are asked again, for
            so long since the last answer; what is answered is kept. 0: not at all.
        progress: of uploads and queries; see `securedl.progress`. Stages are "probes", where these are not
            made yet, "upload" (in bytes) and "predict".

    Raises:
        InputError: an argument cannot be used.
    """

    def __init__(
        self,
        address: str = addresses.DEFAULT,
        owner: SecretSide | None = None,
        token: str | None = None,
        tls: Tls = None,
        timeout_s: float = TIMEOUT_S,
        progress: Progress = None,
        retry_s: float = RETRY_S,
    ) -> None:
        check_client(address, owner, token, timeout_s, progress)
        number(retry_s, "retry_s", least=0)
        assert owner is not None  # for type checkers; it was checked
        self._owner, self._progress, self._retry_s = owner, progress, retry_s
        self._link = Connection(address, token, tls, timeout_s, CONNECT_S)
        self._known: tuple[KnownChannel, ...] = ()
        self._prices: CoefficientPrices | None = None

    def __enter__(self) -> Client:
        try:
            self.describe()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the connection for good; whatever is asked afterwards raises InputError."""
        self._link.close()

    def describe(self) -> dict[str, int | str]:
        """The server's version, evaluator and limits.

        Raises:
            ServerError: nobody answers. ProtocolError: another version. AuthenticationError: wrong token.
        """
        found: Any = self._link.ask("Describe", pb.DescribeRequest(version=PROTOCOL_VERSION), pb.Description)
        if found.version != PROTOCOL_VERSION:
            raise ProtocolError(
                f"the server at {self._link.address} speaks version {found.version} of the protocol, this "
                f"client {PROTOCOL_VERSION}: upgrade the older side"
            )
        names = ("version", "evaluator", "max_models", "max_bytes", "max_sessions", "chunk_bytes")
        return {name: getattr(found, name) for name in names}

    def prices(self, fresh: bool = False) -> CoefficientPrices:
        """As `protocol.prices`, of this client's server; kept as long as the client is."""
        self._link.check_open()
        if self._prices is None or fresh:
            self._prices = _prices(self._link, fresh)
        return self._prices

    def status(self) -> ModelStatus:
        """What the server has of this owner's model, all its channels together.

        Raises:
            ServerError, ProtocolError: as `describe`.
        """
        found: list[Any] = [
            self._link.ask("Status", _model_request(channel), pb.Status) for channel in self._owner.channels
        ]
        return ModelStatus(
            all(one.known for one in found), sum(one.blobs for one in found),
            sum(one.missing_blobs for one in found),
        )  # fmt: skip

    def remove(self) -> bool:
        """Delete this owner's model on the server; whether it was there, or a part of it."""
        replies: list[Any] = [
            self._link.ask("Remove", _model_request(channel), pb.Removed) for channel in self._owner.channels
        ]
        return any(reply.known for reply in replies)

    def upload(self) -> Upload:
        """Send the program, the keys and the encrypted weights: what the server lacks of them. Before that
        the owner makes its probes, so that the first query need not.

        Raises:
            ServerError: the server went away; what arrived is kept, so call it again.
            QuotaError: the server has no room for this model.
            ProtocolError: the server broke the protocol, or refuses.
        """
        self._link.check_open()
        prepared = time.monotonic()
        self._owner.prepare(self._progress)
        began = time.monotonic()
        with stage("upload", self._progress) as told:
            blobs, size = send_models(self._link, self._models(), told)
        return Upload(blobs, size, time.monotonic() - began, began - prepared)

    def predict(
        self,
        x: Any,
        probes: Wish = 8,
        outliers: str = "raise",
        verify: str = "every",
        after_alarm: str = "refuse",
    ) -> Answer:
        """Ask the encrypted model, and verify.

        Args:
            x: [samples, ...], as for the plain model.
            probes: sensitive samples to mix in, or a `securedl.Probes`.
            outliers: what is done about samples that would overflow under encryption, each by itself:
                "raise" refuses all, "skip" answers the others and gives these logits NaN and label -1, "clip"
                moves them into the range that the plan allows. The report lists them; the server sees no
                difference.
            verify: "every" compares every value that comes back with the network's own, within what honest
                errors may be; "probes" compares only those; with "none" there are none. The server sees no
                difference but the probes.
            after_alarm: "refuse" stops at the first alarm of an owner's life: what a server sees of a
                reaction is what it learns. "continue" asks nevertheless.

        Returns:
            securedl.Answer. A failed verification shows in its report only.

        Raises:
            AlarmError: an earlier call of this owner ended with an alarm.
            InputError: bad samples, or with "raise" samples out of range; or a closed client.
            ServerError: the server went away, and did not come back in `retry_s`; repeat the query.
            ProtocolError: the server broke the protocol, or has another model.
        """
        self._link.check_open()  # making probes takes long
        parts = self.predict_batches(x, probes, outliers, verify, after_alarm)
        for _ in parts:
            pass
        return parts.answer

    def predict_batches(
        self,
        x: Any,
        probes: Wish = 8,
        outliers: str = "raise",
        verify: str = "every",
        after_alarm: str = "refuse",
    ) -> Parts:
        """As `predict`, but answers come as they are verified, one ciphertext batch after another.

        Returns:
            An iterator of `securedl.client.inference.AnswerPart`; when it has ended, its `answer` is what
            `predict` returns. Nothing is sent before the first is asked for.

        Example:
            >>> parts = client.predict_batches(x)  # doctest: +SKIP
            >>> for part in parts: print(part.samples, part.labels, part.passed)  # doctest: +SKIP
            >>> parts.answer.report.passed  # doctest: +SKIP
            True
        """
        self._link.check_open()  # making probes takes long
        clock, models = Clock(), self._models()
        asked = (x, probes, outliers, verify, after_alarm, self._link.address, self._progress)
        return Parts(self._link, self._owner.ask(*asked), models, clock, self._retry_s, self._progress)

    def _models(self) -> tuple[KnownChannel, ...]:
        """One for each channel."""
        self._known = self._known or tuple(map(KnownChannel.of, self._owner.channels))
        return self._known
