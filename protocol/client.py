"""The client: uploads an owner's model and asks it questions. Checks every byte that comes back."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from protocol import address as addresses
from protocol.blocking import BlockingConnection
from protocol.dialogues import CONNECT_S, TIMEOUT_S, Dialogues, ModelStatus, ask_all_prices
from protocol.link import Tls
from protocol.parts import Parts
from protocol.uploading import Upload
from protocol.waits import waited

if TYPE_CHECKING:  # a server's process may import this module, and must not load what a client needs
    from securedl.client.inference import Answer, Wish
    from securedl.client.priced import CoefficientPrices


def prices(
    address: str = addresses.DEFAULT, token: str | None = None, tls: Tls = None, fresh: bool = False
) -> CoefficientPrices:
    """What operations take on that server and this client, for `securedl.compile(..., prices=...)`.

    The server measures its part when somebody first asks; that takes a second or two, and longer while it has
    queries to answer. This client's part takes as long. Both are kept in the user's cache folder: a server's
    under its address and what it says of its machine, threads and release.

    Args:
        address, token, tls: as for `Client`.
        fresh: take nothing from the cache folder.

    Raises:
        ServerError: nobody answers, or the server is not done with its measurement in time.
        ProtocolError: it offers no prices, or such as no server can have.
    """
    link = BlockingConnection(address, token, tls, TIMEOUT_S, CONNECT_S)
    try:
        return waited(ask_all_prices(link, fresh))
    finally:
        link.close()


class Client(Dialogues[BlockingConnection]):
    """One owner's client of one server; a context manager.

    Args:
        address: HOST:PORT or unix:PATH.
        owner: keys, plan and weights; nothing secret of it leaves this process.
        token: sent over TLS, loopback and Unix sockets only.
        tls: see `protocol.link.Tls`.
        timeout_s: longest silence of the server before ServerError.
        retry_s: where the server goes away during a call, batches without an answer are asked again, for
            so long since the last answer; what is answered is kept. 0: not at all.
        progress: of uploads and queries; see `securedl.progress`. Stages are "probes", where these are not
            made yet, "upload" (in bytes) and "predict".

    Raises:
        InputError: an argument cannot be used.
    """

    def _linked(self, address: str, token: str | None, tls: Tls, timeout_s: float) -> BlockingConnection:
        return BlockingConnection(address, token, tls, timeout_s, CONNECT_S)

    def __enter__(self) -> Client:
        try:
            self.describe()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the connection for good; whatever is asked afterwards raises InputError."""
        self._link.close()

    def describe(self) -> dict[str, int | str]:
        """The server's version, evaluator and limits.

        Raises:
            ServerError: nobody answers. ProtocolError: another version. AuthenticationError: wrong token.
        """
        return waited(self._describe())

    def prices(self, fresh: bool = False) -> CoefficientPrices:
        """As `protocol.prices`, of this client's server; kept as long as the client is."""
        return waited(self._ask_prices(fresh))

    def status(self) -> ModelStatus:
        """What the server has of this owner's model, all its channels together.

        Raises:
            ServerError, ProtocolError: as `describe`.
        """
        return waited(self._status())

    def remove(self) -> bool:
        """Delete this owner's model on the server; whether it was there, or a part of it."""
        return waited(self._remove())

    def upload(self) -> Upload:
        """Send the program, the keys and the encrypted weights: what the server lacks of them. Before that
        the owner makes its probes, so that the first query need not.

        Raises:
            ServerError: the server went away; what arrived is kept, so call it again.
            QuotaError: the server has no room for this model.
            ProtocolError: the server broke the protocol, or refuses.
        """
        return waited(self._upload())

    def predict(
        self,
        x: Any,
        probes: Wish = 8,
        outliers: str = "raise",
        verify: str = "every",
        after_alarm: str = "refuse",
    ) -> Answer:
        """Ask the encrypted model, and verify.

        Args:
            x: [samples, ...], as for the plain model.
            probes: sensitive samples to mix in, or a `securedl.Probes`.
            outliers: what is done about samples that would overflow under encryption, each by itself:
                "raise" refuses all, "skip" answers the others and gives these logits NaN and label -1, "clip"
                moves them into the range that the plan allows. The report lists them; the server sees no
                difference.
            verify: "every" compares every value that comes back with the network's own, within what honest
                errors may be; "probes" compares only those; with "none" there are none. The server sees no
                difference but the probes.
            after_alarm: "refuse" stops at the first alarm of an owner's life: what a server sees of a
                reaction is what it learns. "continue" asks nevertheless.

        Returns:
            securedl.Answer. A failed verification shows in its report only.

        Raises:
            AlarmError: an earlier call of this owner ended with an alarm.
            InputError: bad samples, or with "raise" samples out of range; or a closed client.
            ServerError: the server went away, and did not come back in `retry_s`; repeat the query.
            ProtocolError: the server broke the protocol, or has another model.
        """
        parts = self.predict_batches(x, probes, outliers, verify, after_alarm)
        for _ in parts:
            pass
        return parts.answer

    def predict_batches(
        self,
        x: Any,
        probes: Wish = 8,
        outliers: str = "raise",
        verify: str = "every",
        after_alarm: str = "refuse",
    ) -> Parts:
        """As `predict`, but answers come as they are verified, one ciphertext batch after another.

        Returns:
            An iterator of `securedl.client.inference.AnswerPart`; when it has ended, its `answer` is what
            `predict` returns. Nothing is sent before the first is asked for.

        Example:
            >>> parts = client.predict_batches(x)  # doctest: +SKIP
            >>> for part in parts: print(part.samples, part.labels, part.passed)  # doctest: +SKIP
            >>> parts.answer.report.passed  # doctest: +SKIP
            True
        """
        return Parts(self._call(x, probes, outliers, verify, after_alarm))
