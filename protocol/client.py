"""The client: uploads an owner's model and asks it questions. Checks every byte that comes back."""

from __future__ import annotations

import contextlib
import secrets
import time
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

from protocol import address as addresses
from protocol import messages_pb2 as pb
from protocol.asking import Clock, Line, answered
from protocol.blobs import BlobTable
from protocol.expect import Expectations
from protocol.given import check_client
from protocol.link import Connection, Stream, Tls
from protocol.priced import ask_prices
from protocol.retrying import RETRY_S, Retrying
from protocol.wire import (
    NONCE_BYTES,
    PROTOCOL_VERSION,
    Receiver,
    done_digest,
    expand_ranges,
    frames,
    parse,
    session_id,
)
from securedl.arguments import number
from securedl.errors import AlarmError, FormatError, ProtocolError, ServerError, UnreachableError
from securedl.program.program import Program

if TYPE_CHECKING:  # a server's process may import this module, and must not load what a client needs
    from securedl.client.inference import Answer, AnswerPart, Inference, Wish
    from securedl.client.joined import JoinedInference
    from securedl.client.priced import CoefficientPrices

#: Longest silence of the server: it computes between two messages.
TIMEOUT_S = 600.0
CONNECT_S = 10.0
#: done, total
Progress = Callable[[int, int], object]


class SecretChannel(Protocol):
    """What the client needs of a `securedl.Owner` of one program."""

    @property
    def program(self) -> Program:
        """The public program."""

    @property
    def model_id(self) -> bytes:
        """16 bytes that name program and keys."""

    def key(self, step: int | None) -> bytes:
        """A packed switch key: of a rotation in slots, or for relinearisation."""

    def weights(self, indices: Iterable[int]) -> Generator[bytes, None, None]:
        """Packed weights. It is closed when no more are wanted."""


class SecretSide(Protocol):
    """What the client needs of `securedl.Owner`."""

    @property
    def channels(self) -> Sequence[SecretChannel]:
        """Those that are asked together: one, but of plans that several plain moduli are computed for."""

    def prepare(self, progress: Progress | None = None) -> None:
        """Make what verifies answers, unless it is there already. progress: called with steps."""

    def ask(
        self,
        x: Any,
        probes: Wish = 8,
        outliers: str = "raise",
        verify: str = "every",
        after_alarm: str = "refuse",
        server: str = "",
    ) -> Inference | JoinedInference:
        """The owner's side of one predict call to the server of this address."""


@dataclass(frozen=True)
class Upload:
    """What an upload sent: parts of the model, their bytes, and how long it took; before it, how long probes
    and tolerances took.
    """

    blobs: int
    bytes: int
    seconds: float
    prepare_s: float = 0.0


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


@dataclass(frozen=True)
class _Known:
    """A channel, and what follows from its program, computed once."""

    channel: SecretChannel
    json: bytes
    program_id: bytes
    table: BlobTable
    expectations: Expectations

    @staticmethod
    def of(channel: SecretChannel) -> _Known:
        program = channel.program
        return _Known(channel, program.to_json(), program.id, BlobTable(program), Expectations.of(program))


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


class Parts:
    """The answers of a call as they come (`Client.predict_batches`)."""

    def __init__(
        self,
        client: Client,
        inference: Inference | JoinedInference,
        models: Sequence[_Known],
        clock: Clock,
    ) -> None:
        self.inference, self.models, self.clock = inference, models, clock
        self.asked = self.came = 0  # batches in all, and answered in the present streams
        self._parts = client._parts(self)
        self._answer: Answer | None = None

    def __iter__(self) -> Parts:
        return self

    def __next__(self) -> AnswerPart:
        return next(self._parts)

    @property
    def answer(self) -> Answer:
        """What `Client.predict` returns, when all parts have come.

        Raises:
            ProtocolError: they have not.
        """
        if self._answer is None:
            sizes = [known.expectations.traffic(self.asked) for known in self.models]
            traffic = {kind: sum(one[kind] for one in sizes) for kind in sizes[0]}
            self._answer = self.inference.answer(self.clock.timings(), traffic)
        return self._answer


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
        progress: called with (done, total) during an upload: with steps of what is made before it, if
            anything is, and then, from another thread, with bytes.

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
        progress: Progress | None = None,
        retry_s: float = RETRY_S,
    ) -> None:
        check_client(address, owner, token, timeout_s, progress)
        number(retry_s, "retry_s", least=0)
        assert owner is not None  # for type checkers; it was checked
        self._owner, self._progress, self._retry_s = owner, progress, retry_s
        self._link = Connection(address, token, tls, timeout_s, CONNECT_S)
        self._known: tuple[_Known, ...] = ()
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
        began, blobs, size = time.monotonic(), 0, 0
        for known in self._models():
            sent, remaining = set[int](), 1
            while remaining:
                done = self._upload_once(known, sent)
                size, remaining = size + done.blob_bytes, done.remaining
                if remaining and not done.blobs:
                    raise ProtocolError("the server misses parts of the model but does not say which")
            blobs += len(sent)
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
        models, clock = self._models(), Clock()
        with clock("prepare"):
            inference = self._owner.ask(x, probes, outliers, verify, after_alarm, self._link.address)
        return Parts(self, inference, models, clock)

    def _parts(self, parts: Parts) -> Generator[AnswerPart, None, None]:
        """Answers as they come; what is missing is asked again where the server goes away."""
        inference, retrying = parts.inference, Retrying(self._retry_s)
        doing = "nothing is lost and nothing was learnt: the query can be repeated"
        try:
            while numbers := inference.unanswered:
                parts.asked, parts.came = parts.asked + len(numbers), 0
                try:
                    with contextlib.ExitStack() as streams:
                        lines = list[Line]()
                        for known, batches in zip(parts.models, inference.again(numbers), strict=True):
                            stream = streams.enter_context(self._link.stream("Predict", doing))
                            session, _ = self._greet(stream, "Predict", known)
                            receiver = Receiver(session, stream.source)
                            lines.append(Line(stream, session, receiver, batches, known.expectations))
                        with contextlib.closing(answered(lines, parts.clock)) as made:
                            for index in made:
                                parts.came += 1
                                retrying.renew()
                                yield inference.part(numbers[index])
                        for line in lines:
                            line.stream.finish()
                            line.stream.expect_end()
                except UnreachableError as error:
                    left = len(numbers) - parts.came
                    if left and (inference.broken_off() or not retrying.again(error)):
                        raise
        except (ServerError, ProtocolError, FormatError) as error:
            if alarm := inference.broken_off():
                raise AlarmError(f"{alarm}; then the call ended: {error}") from error
            raise

    def _models(self) -> tuple[_Known, ...]:
        """One for each channel."""
        self._known = self._known or tuple(map(_Known.of, self._owner.channels))
        return self._known

    def _upload_once(self, known: _Known, sent: set[int]) -> Any:
        """One stream. sent: numbers of the parts that earlier ones brought, to which this one's are added.

        Raises:
            ProtocolError: the server asks for one of them again, as one that keeps nothing would for ever.
        """
        table, program = known.table, known.json
        with self._link.stream("Upload", "what arrived is kept: call upload() again") as stream:
            session, welcome = self._greet(stream, "Upload", known, len(program))
            count = len(table)
            missing = list(range(count)) if welcome.needs_program else expand_ranges(welcome.missing, count)
            if again := sent.intersection(missing):
                raise ProtocolError(
                    f"the server at {self._link.address} asks again for {len(again)} parts that it said it "
                    "has kept: its store is damaged, or it is hostile"
                )
            if welcome.needs_program:
                stream.send(frames(session, pb.PROGRAM, 0, program))
            stream.send(self._blob_frames(session, known, missing))
            stream.finish()
            raw = next(stream.source, None)
            if raw is None:
                raise ProtocolError("the server ended the upload without a word")
            done: Any = parse(pb.Done, raw)
            size = sum(table[number].length for number in missing)
            honest = (done.blobs, done.blob_bytes) == (len(missing), size)
            if not honest or done.digest != done_digest(session, done):
                raise ProtocolError("the server's account of the upload is wrong")
            sent.update(missing)
            with contextlib.suppress(ServerError):  # loading may take longer than this client waits
                stream.expect_end()
        return done

    def _greet(self, stream: Stream, method: str, known: _Known, program_bytes: int = 0) -> tuple[bytes, Any]:
        """Exchange greetings; the session's id and the server's Welcome."""
        hello: Any = pb.Hello(
            version=PROTOCOL_VERSION,
            model_id=known.channel.model_id,
            program_id=known.program_id,
            nonce=secrets.token_bytes(NONCE_BYTES),
            program_bytes=program_bytes,
        )
        sent = hello.SerializeToString()
        stream.send([sent])
        received = next(stream.source, None)
        if received is None:
            raise ProtocolError("the server ended the stream before its Welcome")
        welcome: Any = parse(pb.Welcome, received)
        if welcome.version != PROTOCOL_VERSION or len(welcome.nonce) != NONCE_BYTES:
            raise ProtocolError("the server's Welcome is malformed")
        if method == "Predict" and (welcome.needs_program or welcome.missing):
            raise ProtocolError("the server's Welcome to a query speaks of an upload")
        return session_id(method, sent, received), welcome

    def _blob_frames(self, session: bytes, known: _Known, missing: list[int]) -> Iterator[bytes]:
        table, channel = known.table, known.channel
        total, done = sum(table[number].length for number in missing), 0
        indices = [number - len(table.keys) for number in missing if number >= len(table.keys)]
        with contextlib.closing(channel.weights(indices)) as weights:
            for number in missing:
                blob = table[number]
                index = number if blob.kind == pb.KEY else number - len(table.keys)
                data = channel.key(blob.name) if blob.kind == pb.KEY else next(weights)
                if len(data) != blob.length:
                    raise FormatError(
                        f"the owner made part {number} of {len(data)} bytes where {blob.length} are due"
                    )
                yield from frames(session, blob.kind, index, data)
                done += len(data)
                if self._progress is not None:
                    self._progress(done, total)
