"""How long a call asks a server again that went away, and how often."""

from __future__ import annotations

import logging
import time

from protocol.waits import Dialogue, Pause

#: How long a call asks again without a new answer, and pauses before: the first one, and the longest.
RETRY_S = 30.0
FIRST_PAUSE_S, LONGEST_PAUSE_S = 0.1, 2.0
_log = logging.getLogger("protocol.client")


class Retrying:
    """How long a call goes on asking a server that went away.

    Args:
        seconds: since the last new answer.
    """

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self.renew()

    def renew(self) -> None:
        """An answer came."""
        self._until, self._pause = time.monotonic() + self._seconds, FIRST_PAUSE_S

    def again(self, error: Exception) -> Dialogue[bool]:
        """Whether to ask again, after a pause that grows."""
        if time.monotonic() + self._pause > self._until:
            return False
        _log.warning("%s; asking again in %.1f s", error, self._pause)
        yield Pause(self._pause)
        self._pause = min(2 * self._pause, LONGEST_PAUSE_S)
        return True
