"""One ciphertext batch of a predict call, without any network: bytes out, bytes in, and what its checks find.

A tap shows the client a value on its way and asks nothing: what comes next is checked against what follows
from that value, as after a refresh.

The rules against a server that uses the client as a decryption oracle live here (docs/security.md).
A *structural* violation (wrong bytes, order, shapes) raises ProtocolError or FormatError, which the
server may see. A *value* violation (a probe that differs, a value out of range) changes nothing that
the server can see: later refreshes of that batch carry encryptions of zeros, and the verdict stays in
the report. Checks that take long look at a segment after its response has left (`Check.later`): so the time
that a server sees is not theirs, and zeros begin one refresh later.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import wraps
from typing import Concatenate, ParamSpec, TypeVar

import numpy as np

from securedl.client.keys import Keys
from securedl.client.threads import one_thread
from securedl.errors import InputError, ProtocolError
from securedl.network.graph import Array
from securedl.plan.plan import finish
from securedl.plan.signature import Signature
from securedl.verify.check import Check, Finding, Segment

_log = logging.getLogger(__name__)

#: The largest normalised value that is encrypted: the room of 2^26 and more above it is never used.
SENDABLE = 2.0**13
_P = ParamSpec("_P")
_R = TypeVar("_R")


def read_only(values: Array) -> Array:
    """The same values; checks look at them and change nothing."""
    view: Array = values.view()
    view.flags.writeable = False
    return view


def _undisturbed(work: Callable[Concatenate[Batch, _P], _R]) -> Callable[Concatenate[Batch, _P], _R]:
    """A part of a batch's work during which nothing else is done."""

    @wraps(work)
    def run(batch: Batch, /, *args: _P.args, **kwargs: _P.kwargs) -> _R:
        with batch._keys.zeros.working(), one_thread():
            return work(batch, *args, **kwargs)

    return run


class Batch:
    """One ciphertext batch: its query, its refreshes in order, its answer.

    Args:
        values: samples and probes [batch, features], in the network's own units.
        number: of the batch in its call. checks: what looks at each segment, in order. seen: is told of
            each checkpoint, and whether there has been an alarm, for a call may never end.

    Attributes:
        findings: what each check found, by its name and then by segment: the last one is the answer's.
    """

    def __init__(
        self,
        keys: Keys,
        signature: Signature,
        values: Array,
        number: int,
        checks: Sequence[Check],
        seen: Callable[[bool], None] = lambda alarm: None,
    ) -> None:
        self._keys, self._signature, self.checks, self._number = keys, signature, checks, number
        self._values, self._failed, self._zeros = values, False, False
        self._waiting, self._settled = list[tuple[Check, Segment, bool]](), True
        self._talk = signature.converse(values)
        self._sent: Array | None = None
        self._next = 0
        self.answer: Array | None = None
        self.alarms: list[str] = []
        self._seen = seen
        self.findings: dict[str, list[Finding]] = {check.name: [] for check in checks}
        if len(self.findings) < len(checks):
            raise InputError(f"checks need a name each, got {[check.name for check in checks]}")

    @property
    def begun(self) -> bool:
        """Whether its query has been made."""
        return self._sent is not None

    @_undisturbed
    def query(self) -> list[bytes]:
        """Packed ciphertexts of the query, one a tile."""
        if self._sent is None:
            self._sent = next(self._talk)
        return self._encrypt(0, self._sent)

    def _encrypt(self, point: int, values: Array) -> list[bytes]:
        take, tiles = self._keys.zeros.take, self._signature.slots(point, values)
        return [self._keys.encrypt(slots, shape, take) for slots, shape in tiles]

    def _decrypt(self, tiles: list[bytes], point: int) -> Array:
        if self._next != point - 1 or self.answer is not None:
            raise ProtocolError(f"checkpoint {point} came out of order, after {self._next} of them")
        port = self._signature.sent[point - 1]
        if len(tiles) != port.tiles:
            raise ProtocolError(f"checkpoint {point} needs {port.tiles} ciphertexts, got {len(tiles)}")
        found = [self._keys.decrypt(tile, port.sent, port.coefficients) for tile in tiles]
        return self._signature.values(point, np.array(found))

    def _go_on(self, values: Array, point: int) -> Array:
        """What the client makes of values that were received: those to send, or at the end the logits.

        What it does with an honest server's values cannot fail. Raised, a failure would tell a dishonest one
        what they were.
        """
        layout = self._signature.checkpoints[point].back
        try:
            found = finish(self._talk, values) if layout is None else self._talk.send(values)
        except Exception as error:
            if not self._failed:
                _log.exception("the client's part of batch %d failed at %d", self._number + 1, point)
                self._alarm(f"what came at checkpoint {point} cannot be gone on with: {error}")
            self._start_over()
            outputs = len(self._signature.output_scale)
            rest = outputs if layout is None else math.prod(layout.shape) // len(values)
            return np.full((len(values), rest), np.nan)
        if layout is not None and not np.abs(found).max() <= SENDABLE:
            self._alarm(f"what came at checkpoint {point} leads to a value that cannot be encrypted")
        return found

    def _start_over(self) -> None:
        """From now on the client works for nothing, since a server sees how long its work takes."""
        self._failed = True
        self._talk = self._signature.converse(self._values)
        next(self._talk)

    @_undisturbed
    def refresh(self, index: int, tiles: list[bytes]) -> list[bytes]:
        """Decrypt, check, and encrypt afresh: zeros after an alarm.

        Raises:
            ProtocolError, FormatError: not the refresh that the signature lists next.
        """
        point, values = self._shown(index, tiles, refresh=True)
        fresh = self._go_on(values, point).copy()
        for check in self.checks:
            check.refill(point, fresh)
        self._zeros = bool(self.alarms)
        fresh *= not self._zeros
        self._sent = np.nan_to_num(fresh, copy=False, posinf=0.0, neginf=0.0)
        return self._encrypt(point, fresh)

    @_undisturbed
    def tap(self, index: int, tiles: list[bytes]) -> None:
        """Decrypt and check what the server goes on with: the next segment starts from these values.

        Raises:
            ProtocolError, FormatError: not the tap that the signature lists next.
        """
        _, values = self._shown(index, tiles, refresh=False)
        self._sent = np.nan_to_num(values, posinf=0.0, neginf=0.0)

    def _shown(self, index: int, tiles: list[bytes], refresh: bool) -> tuple[int, Array]:
        """The number of a checkpoint before the answer, and the values [batch, features] there, checked."""
        points, what, point = self._signature.checkpoints, "refresh" if refresh else "tap", index + 1
        if point >= len(points) - 1 or (points[point].back is not None) != refresh:
            raise ProtocolError(f"{what} {index} was asked for, the program has none there")
        values = self._decrypt(tiles, point)
        self._next += 1
        self._check(point, values, f"{what} {point} of batch {self._number + 1}")
        return point, values

    @_undisturbed
    def finish(self, tiles: list[bytes]) -> None:
        """Decrypt the answer and check it.

        Raises:
            ProtocolError, FormatError: not the answer that the signature names, or too early.
        """
        point = len(self._signature.checkpoints) - 1
        values = self._decrypt(tiles, point)
        self._check(point, values, f"answer of batch {self._number + 1}")
        self.answer = self._go_on(values, point)
        self.settle()

    @_undisturbed
    def settle(self) -> None:
        """What may be looked at after a response has left: best while the server works on it."""
        if self._settled:
            return
        while self._waiting:
            self._look(*self._waiting[0])
            self._waiting.pop(0)  # not before: what is interrupted is looked at again
        self._seen(bool(self.alarms))
        self._settled = True

    def _check(self, point: int, values: Array, where: str) -> None:
        assert self._sent is not None  # a query came before
        segment = Segment(point, read_only(self._sent), read_only(values), where)
        self.settle()
        self._settled = False
        for check in self.checks:
            if check.later:
                self._waiting.append((check, segment, self._zeros))
            else:
                self._look(check, segment, self._zeros)

    def _look(self, check: Check, segment: Segment, zeros: bool) -> None:
        """What comes back for zeros says nothing more, but is looked at as long."""
        try:
            finding = check.segment(segment)
        except Exception as error:  # raised, it would tell the server what the values are
            _log.exception("the check %r failed", check.name)
            alarm = f"{check.name} failed at the {segment.where}: {error}"
            finding = Finding(worst=math.inf, alarms=(alarm,))
        if not finding.worst <= 1 and not finding.alarms:
            finding = replace(finding, alarms=(f"{check.name} alarms at the {segment.where}",))
        self.findings[check.name].append(Finding() if zeros else finding)
        self._alarm(*(() if zeros else finding.alarms))

    def _alarm(self, *alarms: str) -> None:
        self.alarms += alarms

    @property
    def worst(self) -> float:
        """Largest deviation over its tolerance so far; infinite if one is no number."""
        ratios = [finding.worst for found in self.findings.values() for finding in found]
        return max((math.inf if math.isnan(ratio) else ratio for ratio in ratios), default=0.0)

    def compared(self, name: str) -> tuple[int, int]:
        """Lanes that a check compared at refreshes, and in the answer."""
        counts = [finding.compared for finding in self.findings.get(name, ())]
        return (sum(counts), 0) if self.answer is None else (sum(counts[:-1]), counts[-1] if counts else 0)
