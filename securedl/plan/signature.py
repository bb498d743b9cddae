"""What the client must know of a plan, and what it costs: no weight and no key."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from securedl.arguments import number
from securedl.errors import CompileError, InputError
from securedl.he.modular import centred_residues, integers
from securedl.he.record import Shape
from securedl.network.graph import Array, samples_of
from securedl.network.outputs import Output
from securedl.plan.layouts import in_rows, out_of_rows
from securedl.plan.network import Checkpoint, Conversation, refreshed
from securedl.plan.quantised import Requantised
from securedl.plan.rounds import Rounds
from securedl.program.program import Program
from securedl.program.steps import Port


@dataclass(frozen=True)
class Link:
    """The connection between client and server.

    Attributes:
        rtt_ms: round trip, 0 or more. mbit_s: bandwidth, both ways.

    Raises:
        InputError: no such numbers.
    """

    rtt_ms: float = 20.0
    mbit_s: float = 100.0

    def __post_init__(self) -> None:
        number(self.rtt_ms, "rtt_ms of a Link", least=0)
        number(self.mbit_s, "mbit_s of a Link", above=0)

    def ms(self, size: int) -> float:
        """Time for `size` bytes, without the round trip."""
        return size * 8e-3 / self.mbit_s


@dataclass(frozen=True)
class Cost:
    """Milliseconds and bytes of one ciphertext batch.

    Attributes:
        ahead_ms: what the client can do before, in idle time: a part of `client_ms`.
    """

    server_ms: float = 0.0
    client_ms: float = 0.0
    link_ms: float = 0.0
    bytes: int = 0
    ahead_ms: float = 0.0

    @property
    def total_ms(self) -> float:
        """End to end, nothing overlapped."""
        return self.server_ms + self.client_ms + self.link_ms

    def __add__(self, other: Cost) -> Cost:
        return Cost(
            self.server_ms + other.server_ms,
            self.client_ms + other.client_ms,
            self.link_ms + other.link_ms,
            self.bytes + other.bytes,
            self.ahead_ms + other.ahead_ms,
        )


@dataclass(frozen=True, eq=False, repr=False)
class Signature:
    """All that a client needs to encrypt, refresh and decrypt: no weight and no graph.

    Attributes:
        channels: the program for each plain modulus; several only of whole numbers without a refresh, whose
            answers are then joined. All have the same steps, batch and ring.
        checkpoints: the query, each refresh and tap, and the answer, in order.
        input_shape: of one sample.
        input_scale, input_offset: [features]; the query is (x - input_offset) / input_scale.
        output_scale, output_offset: [outputs]; an answer is the decrypted value · scale + offset.
        input_limit: the box around `input_offset`, in multiples of `input_scale`, where no query overflows.
        cost: the estimate for one ciphertext batch.
        columns: names of the input's features where the calibration data were a table; else none.
        output: what one sample's answer is.
        rounds: what the client does between the layers where these are computed one by one; else None, and a
            refresh changes no value.
        requantised: what it does where values are whole numbers; else None.
        error: of an answer in parts of the range of its output: five standard deviations of those simulated,
            or the largest; not proved.
    """

    channels: tuple[Program, ...]
    checkpoints: tuple[Checkpoint, ...]
    input_shape: tuple[int, ...]
    input_scale: Array
    input_offset: Array
    output_scale: Array
    output_offset: Array
    input_limit: float
    cost: Cost
    columns: tuple[str, ...]
    output: Output
    rounds: Rounds | None = None
    requantised: Requantised | None = None
    error: float = 0.0

    @property
    def program(self) -> Program:
        """That of the one channel.

        Raises:
            InputError: there are several.
        """
        if len(self.channels) > 1:
            raise InputError(
                f"this plan has {len(self.channels)} programs: take the program of one of plan.channels"
            )
        return self.channels[0]

    @property
    def batch(self) -> int:
        """Samples in one query."""
        return self.channels[0].batch

    def channel(self, number: int) -> Signature:
        """That of one channel, whose answers are residues."""
        size = len(self.output_scale)
        return replace(
            self, channels=(self.channels[number],), output_scale=np.ones(size), output_offset=np.zeros(size),
            output=Output((size,), "regression"),
        )  # fmt: skip

    def joined(self, residues: Sequence[Array]) -> Array:
        """Answers [samples, outputs] in the network's own units, from those of each channel; NaN where one of
        them is.
        """
        known = ~np.isnan(np.array(residues)).any(axis=(0, 2))
        found = np.full(residues[0].shape, np.nan)
        primes = [program.params.plain_modulus for program in self.channels]
        whole = integers([one[known] for one in residues], primes)
        found[known] = self.outputs(whole.astype(np.float64))
        return found

    @property
    def sent(self) -> list[Port]:
        """Ports of what the server sends: at each refresh and tap, and the answer."""
        return [*(sent for sent, _ in self.program.shown), self.program.answer]

    @property
    def back(self) -> list[Port | None]:
        """Ports of what the client sends: the query, and at each refresh; None at a tap."""
        return [self.program.query, *(back for _, back in self.program.shown)]

    def converse(self, flat: Array) -> Conversation:
        """What the client does with samples [batch, features], in the network's own units."""
        if self.requantised is not None:
            return self._requantise(self.requantised, flat)
        if self.rounds is not None:
            return self.rounds.converse(flat)
        return self._pass_on(flat)

    def _requantise(self, client: Requantised, flat: Array) -> Conversation:
        """Whole numbers, and the answers in the network's own units."""
        answers = yield from client.converse(self.query(flat))
        return self.outputs(answers)

    def _pass_on(self, flat: Array) -> Conversation:
        """Every refresh sends what it is sent."""
        values = yield self.query(flat)
        for _ in refreshed(self.checkpoints):
            values = yield values
        return self.outputs(values)

    def slots(self, point: int, values: Array) -> list[tuple[Array, Shape]]:
        """Normalised values [batch, features] as the client encrypts them at a point: slots or coefficients,
        and shape, of each tile.

        Raises:
            CompileError: nothing is sent at a tap, nor at the answer.
        """
        layout = self.checkpoints[point].back
        port = None if layout is None else self.back[point]
        if layout is None or port is None:
            raise CompileError(f"the client sends nothing at checkpoint {point}")
        packed = layout.pack(values)
        if not port.coefficients:
            packed = in_rows(packed, self.program.rows, self.program.batch)
        return [(row, port.fresh) for row in packed]

    def values(self, point: int, slots: Array) -> Array:
        """Normalised values [batch, features] from what was decrypted, [tiles, n], after the query."""
        layout = self.checkpoints[point].sent
        assert layout is not None  # only the query has none
        if not self.sent[point - 1].coefficients:
            slots = out_of_rows(slots, self.program.rows, self.program.batch)
        found = layout.unpack(slots).reshape(self.program.batch, -1)
        t = self.program.params.plain_modulus  # some layouts add parts up
        return centred_residues(found.astype(np.int64), t).astype(np.float64) if t else found

    def flat(self, x: Any, what: str = "x") -> Array:
        """Samples [samples, features] as float64.

        Raises:
            InputError: wrong shape, NaN or infinite, or a table with other columns than `columns`.
        """
        return samples_of(x, self.input_shape, what, self.columns).reshape(-1, len(self.input_scale))

    def query(self, flat: Array) -> Array:
        """Samples [samples, features] as they are encrypted: normalised values."""
        return (flat - self.input_offset) / self.input_scale

    @property
    def box(self) -> tuple[Array, Array]:
        """The least and the largest value of each feature: in the box, or on the calibration data where it
        is smaller.
        """
        reach = self.input_scale * max(self.input_limit, 1.0)
        return self.input_offset - reach, self.input_offset + reach

    def outside(self, flat: Array) -> NDArray[np.int64]:
        """Which of the samples [samples, features] leave the box, ascending: all that can be known of
        overflow without the weights.
        """
        return np.flatnonzero(np.abs(self.query(flat)).max(axis=1) > self.input_limit)

    def clipped(self, flat: Array) -> Array:
        """The nearest samples in the box, or in that of the calibration data where it is none."""
        return np.clip(flat, *self.box)

    def outputs(self, values: Array) -> Array:
        """Answers [samples, outputs] in the network's own units."""
        return values * self.output_scale + self.output_offset
