"""The server's log: events with figures, in lines of text or of JSON that nothing from the network forges."""

from __future__ import annotations

import json
import logging
import sys
from datetime import datetime, timezone
from typing import Any

_log = logging.getLogger("protocol.server")
#: What `--log-format` takes.
LOG_FORMATS = ("text", "json")


def log_event(event: str, level: int = logging.INFO, **figures: Any) -> None:
    """One line: what happened, and its figures, none of which is secret."""
    text = " ".join([event, *(f"{name}={_plain(value)}" for name, value in figures.items())])
    _log.log(level, "%s", text, extra={"event": event, "figures": figures})


def set_up_logging(form: str, level: int) -> None:
    """Log of this process to standard error.

    Args:
        form: one of LOG_FORMATS.
    """
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonFormatter() if form == "json" else TextFormatter())
    logging.basicConfig(level=level, handlers=[handler], force=True)


class TextFormatter(logging.Formatter):
    """Time, level and event on one line; only a traceback of ours takes more."""

    def __init__(self) -> None:
        super().__init__("%(asctime)s %(levelname)s %(message)s")

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802  (logging's name)
        """One line."""
        return _printable(super().formatMessage(record))

    def formatException(self, ei: Any) -> str:  # noqa: N802  (logging's name)
        """Lines that cannot be taken for others."""
        lines = super().formatException(ei).splitlines()
        return "\n".join("  | " + _printable(line) for line in lines)


class JsonFormatter(logging.Formatter):
    """One JSON object a line: time (ISO 8601, UTC), level, event, and the figures; or message, of others'."""

    def format(self, record: logging.LogRecord) -> str:
        """One line."""
        fields: dict[str, Any] = {
            "time": datetime.fromtimestamp(record.created, timezone.utc).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
        }
        figures = record.__dict__.get("figures")
        if isinstance(figures, dict):
            fields |= {"event": record.__dict__["event"], **figures}
        else:
            fields |= {"event": "message", "logger": record.name, "message": record.getMessage()}
        if record.exc_info:
            fields["traceback"] = self.formatException(record.exc_info)
        return json.dumps(fields, default=str)  # ASCII: control characters are escaped


def _plain(value: Any) -> str:
    """As it is where it is a word, or else in quotes, so that it can be neither two figures nor two lines."""
    text = str(value)
    word = text.isascii() and text.isprintable() and text and not set(text) & set(' "=\\')
    return text if word else json.dumps(text)


def _printable(text: str) -> str:
    return "".join(c if c.isprintable() else f"\\u{ord(c):04x}" for c in text)
