"""What an object shows of itself: a title with rows under it, as text that fits a screen and as HTML.

Whoever fills a card gives it sizes and verdicts only: no key, no weight, no sample.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from html import escape

#: Columns and lines of a text.
SCREEN_WIDTH, SCREEN_LINES = 80, 12


@dataclass(frozen=True)
class Card:
    """A title and rows (name, value); a row without a name goes on with the one above."""

    title: str
    rows: tuple[tuple[str, str], ...]

    def text(self) -> str:
        """At most SCREEN_LINES lines of at most SCREEN_WIDTH printable characters."""
        wide = max((len(name) for name, _ in self.rows), default=0)
        lines = [self.title, *(f"  {name:{wide}}  {value}" for name, value in self.rows)]
        if len(lines) > SCREEN_LINES:
            lines = [*lines[: SCREEN_LINES - 1], f"  ... {len(lines) - SCREEN_LINES + 1} more"]
        return "\n".join(shortened(printable(line), SCREEN_WIDTH).rstrip() for line in lines)

    def html(self) -> str:
        """A table for notebooks; every text is escaped."""
        cell = '<td style="text-align:left">'
        rows = "".join(
            f"<tr>{cell}{escape(printable(name))}</td>{cell}{escape(printable(value))}</td></tr>"
            for name, value in self.rows
        )
        return f"<b>{escape(printable(self.title))}</b><table>{rows}</table>"


def printable(text: str) -> str:
    """The text with `?` for what would move a cursor or break a line."""
    return "".join(c if c.isprintable() else "?" for c in text)


def shortened(text: str, width: int) -> str:
    """The text, or as much of it as fits `width` characters, with an ellipsis."""
    return text if len(text) <= width else text[: width - 3] + "..."


def middle_left_out(items: Iterable[str], head: int = 3, tail: int = 1) -> list[str]:
    """The first and last items, with a count of those between when there is more than one."""
    found = list(items)
    hidden = len(found) - head - tail
    return found if hidden < 2 else [*found[:head], f"... {hidden} more ...", *found[-tail:]]
