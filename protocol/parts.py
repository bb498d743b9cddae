"""The answers of one call as they come, asked again where the server goes away."""

from __future__ import annotations

import contextlib
from collections.abc import Generator, Sequence
from typing import TYPE_CHECKING

from protocol.asking import Clock, Line, answered, steps
from protocol.greeting import greet
from protocol.link import Connection
from protocol.retrying import Retrying
from protocol.side import KnownChannel
from protocol.waits import Wait
from protocol.wire import Receiver
from securedl.errors import AlarmError, FormatError, ProtocolError, ServerError, UnreachableError
from securedl.progress import Progress, StageProgress, stage

if TYPE_CHECKING:  # a server's process may import this module, and must not load what a client needs
    from securedl.client.inference import Answer, AnswerPart, Inference
    from securedl.client.joined import JoinedInference

_DOING = "nothing is lost and nothing was learnt: the query can be repeated"


class PredictCall:
    """One call, as far as it has come.

    Args:
        clock: of the call, from its beginning. retry_s, progress: as of a `Client`.

    Attributes:
        parts: yields what the call waits for, and the answers of its batches as they come.
    """

    def __init__(
        self,
        link: Connection,
        inference: Inference | JoinedInference,
        models: Sequence[KnownChannel],
        clock: Clock,
        retry_s: float,
        progress: Progress,
    ) -> None:
        self._link, self._inference, self._models, self.clock = link, inference, models, clock
        self._retrying, self._progress = Retrying(retry_s), progress
        self._asked = self._done = 0  # batches in all streams; those that have their answer
        self._answer: Answer | None = None
        self.parts = self._all()
        clock.turn("caller")

    def close(self) -> None:
        """End the call, whether all parts have come or not."""
        self.parts.close()
        self.clock.turn(None)

    @property
    def answer(self) -> Answer:
        """What `Client.predict` returns, when all parts have come.

        Raises:
            ProtocolError: they have not.
        """
        if self._answer is None:
            sizes = [known.expectations.traffic(self._asked) for known in self._models]
            traffic = {kind: sum(one[kind] for one in sizes) for kind in sizes[0]}
            timings = dict[str, float]()
            with self.clock("decrypt"):
                answer = self._inference.answer(timings, traffic)
            timings.update(self.clock.timings())  # with the time that the report took
            self._answer = answer
        return self._answer

    def _all(self) -> Generator[Wait | AnswerPart, None, None]:
        """Answers as they come; what is missing is asked again where the server goes away."""
        inference = self._inference
        self._retrying.renew()
        try:
            with stage("predict", self._progress) as told:
                while numbers := inference.unanswered:
                    yield from self._once(numbers, told)
        except (ServerError, ProtocolError, FormatError) as error:
            if alarm := inference.broken_off():
                raise AlarmError(f"{alarm}; then the call ended: {error}") from error
            raise

    def _once(self, numbers: Sequence[int], told: StageProgress) -> Generator[Wait | AnswerPart, None, None]:
        """Of these batches, those that are answered before the server goes away."""
        inference, clock, came = self._inference, self.clock, 0
        self._asked += len(numbers)
        try:
            with contextlib.ExitStack() as streams:
                lines = list[Line]()
                for known, batches in zip(self._models, inference.again(numbers), strict=True):
                    with clock("connect"):
                        stream = streams.enter_context(self._link.stream("Predict", _DOING))
                        session, _ = yield from greet(stream, "Predict", known)
                    receiver = Receiver(session, stream.source, stream)
                    lines.append(Line(stream, session, receiver, batches, known.expectations))
                each = steps(lines) // len(numbers)
                told.count(self._done * each, (self._done + len(numbers)) * each)
                with contextlib.closing(answered(lines, clock, told.tick)) as made:
                    for index in made:
                        if isinstance(index, Wait):
                            yield index
                            continue
                        came, self._done = came + 1, self._done + 1
                        self._retrying.renew()
                        with clock("decrypt"):
                            part = inference.part(numbers[index])
                        with told.outside():
                            yield part
                with clock("server"):
                    for line in lines:
                        line.stream.finish()
                        yield from line.stream.expect_end()
        except UnreachableError as error:
            if came == len(numbers):
                return
            with clock("connect"):
                if inference.broken_off() or not (yield from self._retrying.again(error)):
                    raise


class Parts:
    """The answers of a call as they come (`Client.predict_batches`)."""

    def __init__(self, call: PredictCall) -> None:
        self._call = call

    def __iter__(self) -> Parts:
        return self

    def __next__(self) -> AnswerPart:
        call = self._call
        try:
            with call.clock("prepare"):
                while isinstance(found := next(call.parts), Wait):
                    found.block()
                return found
        except BaseException:
            call.close()
            raise

    def close(self) -> None:
        """End the call, whether all parts have come or not."""
        self._call.close()

    @property
    def answer(self) -> Answer:
        """What `Client.predict` returns, when all parts have come.

        Raises:
            ProtocolError: they have not.
        """
        return self._call.answer
