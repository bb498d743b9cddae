"""What may cross the link in a query, from the program alone: shapes of records and their lengths."""

from __future__ import annotations

from dataclasses import dataclass

from protocol import messages_pb2 as pb
from protocol.waits import Dialogue, waited
from protocol.wire import Receiver
from securedl.he.params import Parameters
from securedl.he.record import Shape, packed_length
from securedl.program.program import Program
from securedl.program.steps import Port


@dataclass(frozen=True)
class Expected:
    """Tiles of one message.

    Attributes:
        kind: QUERY, REFRESH, FRESH, TAP or ANSWER.
        shape: of each tile.
        length: bytes of each tile.
    """

    kind: int
    tiles: int
    shape: Shape
    length: int

    def receive(self, receiver: Receiver, query: int, stage: int = 0) -> list[bytes]:
        """These tiles, in order; their content is not looked at.

        Raises:
            ProtocolError: anything else came.
        """
        return waited(self.arriving(receiver, query, stage))

    def arriving(self, receiver: Receiver, query: int, stage: int = 0) -> Dialogue[list[bytes]]:
        """As `receive`."""
        tiles = list[bytes]()
        for tile in range(self.tiles):
            tiles.append((yield from receiver.arriving(self.kind, tile, self.length, query, stage)))
        return tiles

    @property
    def bytes(self) -> int:
        """Payload of the whole message."""
        return self.tiles * self.length


@dataclass(frozen=True)
class Expectations:
    """Every message of a query; the client encrypts with a seed, the server cannot.

    Attributes:
        shown: before the answer, what the server sends and what it expects back: None at a tap.
    """

    params: Parameters
    query: Expected
    shown: tuple[tuple[Expected, Expected | None], ...]
    answer: Expected

    @staticmethod
    def of(program: Program) -> Expectations:
        """Those of a program."""
        params = program.params
        return Expectations(
            params,
            _expected(params, pb.QUERY, program.query, program.query.fresh),
            tuple(
                (
                    _expected(params, pb.TAP if up is None else pb.REFRESH, down, down.sent),
                    None if up is None else _expected(params, pb.FRESH, up, up.fresh),
                )
                for down, up in program.shown
            ),
            _expected(params, pb.ANSWER, program.answer, program.answer.sent),
        )

    @property
    def refreshes(self) -> list[tuple[Expected, Expected]]:
        """What is shown and expected back at the refreshes."""
        return [(down, up) for down, up in self.shown if up is not None]

    def traffic(self, queries: int) -> dict[str, int]:
        """Payload bytes of that many queries, by message kind; receivers allow no other number."""
        return {
            "query": queries * self.query.bytes,
            "refresh": queries * sum(down.bytes for down, _ in self.refreshes),
            "fresh": queries * sum(up.bytes for _, up in self.refreshes),
            "tap": queries * sum(down.bytes for down, up in self.shown if up is None),
            "answer": queries * self.answer.bytes,
        }


def _expected(params: Parameters, kind: int, port: Port, shape: Shape) -> Expected:
    return Expected(kind, port.tiles, shape, packed_length(params, shape))
