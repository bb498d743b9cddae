"""What the client must know of a plan, and what it costs: no weight and no key."""

from __future__ import annotations

from dataclasses import dataclass

from securedl.arguments import number
from securedl.plan.layouts import Packing


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
    """Milliseconds and bytes of one ciphertext batch."""

    server_ms: float = 0.0
    client_ms: float = 0.0
    link_ms: float = 0.0
    bytes: int = 0

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
        )


@dataclass(frozen=True)
class Checkpoint:
    """What crosses the link at one point, as the client must know it.

    Attributes:
        layer: index of the layer. before: "affine" (its inputs) or "activation" (its pre-activations).
        packing: layout of the value.
    """

    layer: int
    before: str
    packing: Packing


@dataclass(frozen=True)
class Signature:
    """What the client must know to use the program.

    Attributes:
        checkpoints: the query, each refresh, and the answer, in order.
        input_limit: the box, in multiples of the calibration data's largest magnitudes, in which no
            query overflows; queries beyond it are checked one by one.
        cost: the estimate for one ciphertext batch.
    """

    checkpoints: tuple[Checkpoint, ...]
    input_limit: float
    cost: Cost
