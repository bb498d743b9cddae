"""What clients say to a server: written once, for those of threads and those of event loops."""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from protocol import address as addresses
from protocol import messages_pb2 as pb
from protocol.asking import Clock
from protocol.given import check_client
from protocol.link import Connection, Tls
from protocol.parts import PredictCall
from protocol.priced import ask_prices
from protocol.retrying import RETRY_S
from protocol.side import KnownChannel, SecretSide
from protocol.uploading import Upload, send_models
from protocol.waits import Dialogue
from protocol.wire import PROTOCOL_VERSION, M
from securedl.arguments import number
from securedl.errors import ProtocolError
from securedl.progress import Progress, stage

if TYPE_CHECKING:  # a server's process may import this module, and must not load what a client needs
    from securedl.client.inference import Wish
    from securedl.client.priced import CoefficientPrices

C = TypeVar("C", bound=Connection)

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


def ask_all_prices(link: Connection, fresh: bool) -> Dialogue[CoefficientPrices]:
    """See `protocol.prices`."""
    from securedl.client.priced import KnownPrices

    known = KnownPrices(fresh)
    return known.joined((yield from ask_prices(link, known.server, known.note)))


class Dialogues(ABC, Generic[C]):
    """One owner's with one server; arguments, and methods by their names, are those of `protocol.Client`.

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
        self._link = self._linked(address, token, tls, timeout_s)
        self._known: tuple[KnownChannel, ...] = ()
        self._prices: CoefficientPrices | None = None

    @abstractmethod
    def _linked(self, address: str, token: str | None, tls: Tls, timeout_s: float) -> C:
        """The channel."""

    def _describe(self) -> Dialogue[dict[str, int | str]]:
        request = pb.DescribeRequest(version=PROTOCOL_VERSION)
        found: Any = yield from self._link.ask("Describe", request, pb.Description)
        if found.version != PROTOCOL_VERSION:
            raise ProtocolError(
                f"the server at {self._link.address} speaks version {found.version} of the protocol, this "
                f"client {PROTOCOL_VERSION}: upgrade the older side"
            )
        names = ("version", "evaluator", "max_models", "max_bytes", "max_sessions", "chunk_bytes")
        return {name: getattr(found, name) for name in names}

    def _ask_prices(self, fresh: bool) -> Dialogue[CoefficientPrices]:
        self._link.check_open()
        if self._prices is None or fresh:
            self._prices = yield from ask_all_prices(self._link, fresh)
        return self._prices

    def _each_model(self, method: str, reply: type[M]) -> Dialogue[list[M]]:
        """A short method about the model of each channel."""
        found = list[M]()
        for channel in self._owner.channels:
            request = pb.ModelRequest(version=PROTOCOL_VERSION, model_id=channel.model_id)
            found.append((yield from self._link.ask(method, request, reply)))
        return found

    def _status(self) -> Dialogue[ModelStatus]:
        found: list[Any] = yield from self._each_model("Status", pb.Status)
        return ModelStatus(
            all(one.known for one in found), sum(one.blobs for one in found),
            sum(one.missing_blobs for one in found),
        )  # fmt: skip

    def _remove(self) -> Dialogue[bool]:
        replies: list[Any] = yield from self._each_model("Remove", pb.Removed)
        return any(reply.known for reply in replies)

    def _upload(self) -> Dialogue[Upload]:
        self._link.check_open()
        prepared = time.monotonic()
        self._owner.prepare(self._progress)
        began = time.monotonic()
        with stage("upload", self._progress) as told:
            blobs, size = yield from send_models(self._link, self._models(), told)
        return Upload(blobs, size, time.monotonic() - began, began - prepared)

    def _call(self, x: Any, probes: Wish, outliers: str, verify: str, after_alarm: str) -> PredictCall:
        """One that has sent nothing yet."""
        self._link.check_open()  # making probes takes long
        clock, models = Clock(), self._models()
        asked = (x, probes, outliers, verify, after_alarm, self._link.address, self._progress)
        return PredictCall(self._link, self._owner.ask(*asked), models, clock, self._retry_s, self._progress)

    def _models(self) -> tuple[KnownChannel, ...]:
        """One for each channel."""
        self._known = self._known or tuple(map(KnownChannel.of, self._owner.channels))
        return self._known
