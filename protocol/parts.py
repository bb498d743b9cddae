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
from protocol.wire import Receiver
from securedl.errors import AlarmError, FormatError, ProtocolError, ServerError, UnreachableError
from securedl.progress import Progress, StageProgress, stage

if TYPE_CHECKING:  # a server's process may import this module, and must not load what a client needs
    from securedl.client.inference import Answer, AnswerPart, Inference
    from securedl.client.joined import JoinedInference

_DOING = "nothing is lost and nothing was learnt: the query can be repeated"


class Parts:
    """The answers of a call as they come (`Client.predict_batches`).

    Args:
        clock: of the call, from its beginning. retry_s, progress: as of a `Client`.
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
        self._link, self._inference, self._models, self._clock = link, inference, models, clock
        self._retrying, self._progress = Retrying(retry_s), progress
        self._asked = self._done = 0  # batches in all streams; those that have their answer
        self._answer: Answer | None = None
        self._parts = self._all()
        clock.turn("caller")

    def __iter__(self) -> Parts:
        return self

    def __next__(self) -> AnswerPart:
        try:
            with self._clock("prepare"):
                return next(self._parts)
        except BaseException:
            self._clock.turn(None)
            raise

    def close(self) -> None:
        """End the call, whether all parts have come or not."""
        self._parts.close()
        self._clock.turn(None)

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
            with self._clock("decrypt"):
                answer = self._inference.answer(timings, traffic)
            timings.update(self._clock.timings())  # with the time that the report took
            self._answer = answer
        return self._answer

    def _all(self) -> Generator[AnswerPart, None, None]:
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

    def _once(self, numbers: Sequence[int], told: StageProgress) -> Generator[AnswerPart, None, None]:
        """Of these batches, those that are answered before the server goes away."""
        inference, clock, came = self._inference, self._clock, 0
        self._asked += len(numbers)
        try:
            with contextlib.ExitStack() as streams:
                lines = list[Line]()
                for known, batches in zip(self._models, inference.again(numbers), strict=True):
                    with clock("connect"):
                        stream = streams.enter_context(self._link.stream("Predict", _DOING))
                        session, _ = greet(stream, "Predict", known)
                    receiver = Receiver(session, stream.source)
                    lines.append(Line(stream, session, receiver, batches, known.expectations))
                each = steps(lines) // len(numbers)
                told.count(self._done * each, (self._done + len(numbers)) * each)
                with contextlib.closing(answered(lines, clock, told.tick)) as made:
                    for index in made:
                        came, self._done = came + 1, self._done + 1
                        self._retrying.renew()
                        with clock("decrypt"):
                            part = inference.part(numbers[index])
                        with told.outside():
                            yield part
                with clock("server"):
                    for line in lines:
                        line.stream.finish()
                        line.stream.expect_end()
        except UnreachableError as error:
            if came == len(numbers):
                return
            with clock("connect"):
                if inference.broken_off() or not self._retrying.again(error):
                    raise
