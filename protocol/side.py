"""What the client needs of an owner or a kit, and what follows from its program, computed once."""

from __future__ import annotations

from collections.abc import Generator, Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

from protocol.blobs import BlobTable
from protocol.expect import Expectations
from securedl.program.program import Program
from securedl.progress import Progress

if TYPE_CHECKING:  # a server's process may import this module, and must not load what a client needs
    from securedl.client.inference import Inference, Wish
    from securedl.client.joined import JoinedInference


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

    def prepare(self, progress: Progress = None) -> None:
        """Make what verifies answers, unless it is there already: the stage "probes"."""

    def ask(
        self,
        x: Any,
        probes: Wish = 8,
        outliers: str = "raise",
        verify: str = "every",
        after_alarm: str = "refuse",
        server: str = "",
        progress: Progress = False,
    ) -> Inference | JoinedInference:
        """The owner's side of one predict call to the server of this address."""


@dataclass(frozen=True)
class KnownChannel:
    """A channel, and what follows from its program, computed once."""

    channel: SecretChannel
    json: bytes
    program_id: bytes
    table: BlobTable
    expectations: Expectations

    @staticmethod
    def of(channel: SecretChannel) -> KnownChannel:
        """Of a channel."""
        program = channel.program
        return KnownChannel(
            channel, program.to_json(), program.id, BlobTable(program), Expectations.of(program)
        )
