"""The client for event loops: as `protocol.client`; what takes long in this process is done in threads."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Generator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from protocol.aio import AsyncConnection, in_thread
from protocol.dialogues import CONNECT_S, Dialogues, ModelStatus
from protocol.link import Tls
from protocol.parts import PredictCall
from protocol.uploading import Upload
from protocol.waits import Dialogue, Outcome, Wait
from securedl.errors import ProtocolError

if TYPE_CHECKING:  # a server's process may import this module, and must not load what a client needs
    from securedl.client.inference import Answer, AnswerPart, Wish
    from securedl.client.priced import CoefficientPrices

_Part = TypeVar("_Part")


@dataclass(frozen=True)
class _End(Generic[Outcome]):
    """A dialogue is over, and this comes of it."""

    outcome: Outcome


async def _next(talk: Generator[Wait | _Part, None, Outcome]) -> _Part | _End[Outcome]:
    """What it gives next beside what it waits for. Whatever ends it early, it is closed: streams end, and
    what came is looked at.
    """

    def step() -> Wait | _Part | _End[Outcome]:
        try:
            return next(talk)
        except StopIteration as end:  # which no task can raise
            return _End(end.value)

    try:
        while isinstance(found := await in_thread(step), Wait):
            await found.passed()
    except BaseException:
        await in_thread(talk.close)
        raise
    return found


class AsyncClient(Dialogues[AsyncConnection]):
    """One owner's client of one server, on one event loop; a context manager for `async with`.

    Arguments and errors are those of `protocol.Client`, and so are methods: coroutines, all of them but
    `predict_batches`. Calls may run at once. `progress` is called in other threads than the event loop's.

    Where a task is cancelled its call ends, on the server too, as where a program is interrupted: a query
    stays in the ledger, and an upload's server keeps what arrived. First what is being computed is finished,
    and what came is checked.

    Example:
        >>> async with protocol.AsyncClient(address, owner) as client:  # doctest: +SKIP
        ...     answers = await asyncio.gather(*map(client.predict, xs))
        ...     async for part in client.predict_batches(x): print(part.samples, part.labels)
    """

    def _linked(self, address: str, token: str | None, tls: Tls, timeout_s: float) -> AsyncConnection:
        return AsyncConnection(address, token, tls, timeout_s, CONNECT_S)

    async def __aenter__(self) -> AsyncClient:
        try:
            await self.describe()
        except BaseException:
            await self.close()
            raise
        return self

    async def __aexit__(self, *error: object) -> None:
        await self.close()

    async def close(self) -> None:
        """Close the connection for good; whatever is asked afterwards raises InputError."""
        await self._link.close()

    async def _said(self, talk: Dialogue[Outcome]) -> Outcome:
        self._link.join()
        end = await _next(talk)
        assert isinstance(end, _End)
        return end.outcome

    async def describe(self) -> dict[str, int | str]:
        """See `Client.describe`."""
        return await self._said(self._describe())

    async def prices(self, fresh: bool = False) -> CoefficientPrices:
        """See `Client.prices`."""
        return await self._said(self._ask_prices(fresh))

    async def status(self) -> ModelStatus:
        """See `Client.status`."""
        return await self._said(self._status())

    async def remove(self) -> bool:
        """See `Client.remove`."""
        return await self._said(self._remove())

    async def upload(self) -> Upload:
        """See `Client.upload`."""
        return await self._said(self._upload())

    async def predict(
        self,
        x: Any,
        probes: Wish = 8,
        outliers: str = "raise",
        verify: str = "every",
        after_alarm: str = "refuse",
    ) -> Answer:
        """See `Client.predict`."""
        parts = self.predict_batches(x, probes, outliers, verify, after_alarm)
        async for _ in parts:
            pass
        return parts.answer

    def predict_batches(
        self,
        x: Any,
        probes: Wish = 8,
        outliers: str = "raise",
        verify: str = "every",
        after_alarm: str = "refuse",
    ) -> AsyncParts:
        """See `Client.predict_batches`. Nothing is done before the first part is asked for, not even looking
        at samples. The call of a loop that is left early ends with `await parts.aclose()`.
        """
        return AsyncParts(self._link, lambda: self._call(x, probes, outliers, verify, after_alarm))


class AsyncParts:
    """The answers of a call as they come (`AsyncClient.predict_batches`)."""

    def __init__(self, link: AsyncConnection, make: Callable[[], PredictCall]) -> None:
        self._link, self._make = link, make
        self._call: PredictCall | None = None

    def __aiter__(self) -> AsyncParts:
        return self

    async def __anext__(self) -> AnswerPart:
        self._link.join()
        if self._call is None:
            self._call = await in_thread(self._make)
        call = self._call
        try:
            with call.clock("prepare"):
                found: AnswerPart | _End[None] = await _next(call.parts)
        except BaseException:
            call.close()
            raise
        if isinstance(found, _End):
            call.close()
            with contextlib.suppress(ProtocolError):  # closed too early: `answer` says so
                await in_thread(lambda: call.answer)  # it may wait for the file of a ledger
            raise StopAsyncIteration
        return found

    async def aclose(self) -> None:
        """End the call, whether all parts have come or not."""
        if self._call is not None:
            await in_thread(self._call.close)

    @property
    def answer(self) -> Answer:
        """What `AsyncClient.predict` returns, when all parts have come.

        Raises:
            ProtocolError: they have not.
        """
        if self._call is None:
            raise ProtocolError("nothing was asked yet: an answer is there when all parts have come")
        return self._call.answer
