"""The client's side of one predict call, without any network: bytes out, bytes in, and the verdict.

The rules against a server that uses the client as a decryption oracle live here (docs/security.md).
A *structural* violation (wrong bytes, order, shapes) raises ProtocolError or FormatError, which the
server may see. A *value* violation (a probe that differs, a value out of range) changes nothing that
the server can see: later refreshes of that batch carry encryptions of zeros, and the verdict stays in
the report.
"""

from __future__ import annotations

import secrets
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from securedl.client.display import answer_card
from securedl.client.owner import Owner
from securedl.display import Card
from securedl.errors import InputError, ProtocolError
from securedl.he.record import Shape
from securedl.network.graph import Array
from securedl.plan.normalised import VALUE_LIMIT
from securedl.program.steps import Port
from securedl.verify.placement import EMPTY, Placement, Probes, place
from securedl.verify.report import Report
from securedl.verify.statistics import detection_by_fraction, upper_bound_tampered

#: Honest values stay below VALUE_LIMIT; noise and rounding may add this factor.
SLACK = 1.1
#: How many probes travel with a query.
Wish: TypeAlias = int | Probes


@dataclass(frozen=True, eq=False)
class Answer:
    """What predict returns.

    Attributes:
        logits: float64 [samples, classes]. labels: int64 [samples].
        report: the verdict of the verification. timings: ms by stage. traffic: bytes by message kind.
    """

    logits: Array
    labels: NDArray[np.int64]
    report: Report
    timings: dict[str, float]
    traffic: dict[str, int]

    def __repr__(self) -> str:
        return self._card().text()

    def _repr_html_(self) -> str:
        return self._card().html()

    def _card(self) -> Card:
        return answer_card(self.logits, self.labels, self.report, self.timings, self.traffic)


class Batch:
    """One ciphertext batch: its query, its refreshes in order, its answer."""

    def __init__(self, owner: Owner, values: Array, probes: NDArray[np.int64], number: int) -> None:
        self._owner, self._values, self._probes, self._number = owner, values, probes.copy(), number
        self._next = 0
        self.answer: Array | None = None
        self.alarms: list[str] = []
        self.compared = 0
        self.probe_answers = 0
        self.worst = 0.0

    def query(self) -> list[bytes]:
        """Packed ciphertexts of the query, one a tile."""
        scaled = self._values / self._owner.plan.network.input_scale
        return self._encrypt(scaled, self._owner.program.query, 0)

    def _encrypt(self, values: Array, port: Port, checkpoint: int) -> list[bytes]:
        packing = self._owner.plan.signature.checkpoints[checkpoint].packing
        shape = Shape(port.level, 2, port.scale, seeded=True)
        return [self._owner.encrypt(slots, shape) for slots in packing.pack(values)]

    def _decrypt(self, tiles: list[bytes], port: Port, checkpoint: int) -> Array:
        if self._next != checkpoint - 1 or self.answer is not None:
            raise ProtocolError(f"checkpoint {checkpoint} came out of order, after {self._next} refreshes")
        if len(tiles) != port.tiles:
            raise ProtocolError(f"checkpoint {checkpoint} needs {port.tiles} ciphertexts, got {len(tiles)}")
        shape = Shape(port.level, 2, port.scale)
        slots = np.array([self._owner.decrypt(tile, shape) for tile in tiles])
        return self._owner.plan.signature.checkpoints[checkpoint].packing.unpack(slots)

    def refresh(self, index: int, tiles: list[bytes]) -> list[bytes]:
        """Decrypt, compare probes, refill them with others, and encrypt afresh.

        Raises:
            ProtocolError, FormatError: not the refresh that the signature lists next.
        """
        refreshes = self._owner.program.refreshes
        if index >= len(refreshes):
            raise ProtocolError(f"refresh {index} was asked for, the program has {len(refreshes)}")
        sent, fresh = refreshes[index]
        values = self._decrypt(tiles, sent, index + 1)
        self._next += 1
        self._check(index, values, "refresh")
        if self.alarms:
            values = np.zeros_like(values)
        else:
            self._refill(index, values)
        return self._encrypt(values, fresh, index + 1)

    def finish(self, tiles: list[bytes]) -> None:
        """Decrypt the answer and compare probes.

        Raises:
            ProtocolError, FormatError: not the answer that the signature names, or too early.
        """
        program = self._owner.program
        values = self._decrypt(tiles, program.answer, len(program.refreshes) + 1)
        self._check(len(program.refreshes), values, "answer")
        self.probe_answers = int(np.count_nonzero(self._probes != EMPTY))
        self.answer = self._owner.plan.logits(values)

    def _check(self, checkpoint: int, values: Array, where: str) -> None:
        place = (
            f"{where} {checkpoint + 1} of batch {self._number + 1}"
            if where == "refresh"
            else (f"answer of batch {self._number + 1}")
        )
        lanes = np.flatnonzero(self._probes != EMPTY)
        if len(lanes):
            ratios = self._owner.verification.compare(checkpoint, lanes, self._probes[lanes], values[lanes])
            self.compared += len(lanes)
            self.worst = max(self.worst, float(ratios.max()))
            if ratios.max() > 1:
                self.alarms.append(f"{int((ratios > 1).sum())} probe(s) differ at the {place}")
        reach = float(np.abs(values).max())
        if not reach <= VALUE_LIMIT * SLACK:
            self.alarms.append(f"a value of {reach:.3g} at the {place} is out of range")

    def _refill(self, checkpoint: int, values: Array) -> None:
        """Each probe lane continues as another probe, so that every segment is verified by itself."""
        known = self._owner.verification.probes
        random = secrets.SystemRandom()
        for lane in np.flatnonzero(self._probes != EMPTY):
            self._probes[lane] = random.randrange(len(known.fingerprint))
            values[lane] = known.expected[checkpoint][self._probes[lane]]


class Inference:
    """One predict call: samples and probes placed in batches.

    Args:
        x: [samples, ...]. probes: a number, or a Probes.

    Raises:
        InputError: bad samples, or samples that would overflow; nothing has been encrypted then.
    """

    def __init__(self, owner: Owner, x: Any, probes: Wish = 8) -> None:
        self._owner = owner
        flat = owner.plan.checked(x)
        wish = self._wish(probes)
        known = owner.verification.probes.fingerprint if wish.count or wish.fill else None
        self._placement: Placement = place(len(flat), owner.plan.batch, wish, len(known) if known else 0)
        samples = known.samples if known else np.zeros((0, flat.shape[1]))
        values = self._placement.assemble(flat, samples)
        owner.verification.ask(len(values))
        self.batches = [
            Batch(owner, part, probe, number)
            for number, (part, probe) in enumerate(zip(values, self._placement.probe, strict=True))
        ]

    @staticmethod
    def _wish(probes: Wish) -> Probes:
        if isinstance(probes, Probes):
            return probes
        if isinstance(probes, bool) or not isinstance(probes, int | np.integer) or probes < 0:
            raise InputError(f"probes must be a number from 0 or a Probes, got {probes!r}")
        return Probes(int(probes), fill=probes > 0)

    def answer(self, timings: dict[str, float], traffic: dict[str, int]) -> Answer:
        """The answer of a call all of whose batches are finished."""
        answers = [batch.answer for batch in self.batches]
        if any(found is None for found in answers):
            raise ProtocolError("the server left a query without an answer")
        logits = self._placement.collect(np.array(answers))
        labels = np.argmax(logits, axis=1).astype(np.int64)
        return Answer(logits, labels, self._report(), timings, traffic)

    def _report(self) -> Report:
        alarms = tuple(alarm for batch in self.batches for alarm in batch.alarms)
        probes = sum(batch.probe_answers for batch in self.batches)
        compared = sum(batch.compared for batch in self.batches)
        ledger = self._owner.verification
        ledger.checked += probes
        ledger.alarmed += sum(batch.probe_answers for batch in self.batches if batch.alarms)
        lanes = self._placement.data.size
        return Report(
            passed=not alarms,
            probes=probes,
            checkpoints=compared - probes,
            worst_ratio=max((batch.worst for batch in self.batches), default=0.0),
            alarms=alarms,
            detection=detection_by_fraction(lanes, probes, forced=self._placement.forced) if probes else {},
            bound=upper_bound_tampered(ledger.checked, ledger.alarmed) if ledger.checked else 1.0,
        )
