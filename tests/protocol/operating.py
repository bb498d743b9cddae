"""Server processes as an operator runs them, and what they log."""

from __future__ import annotations

import contextlib
import json
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from prometheus_client.parser import text_string_to_metric_families

from securedl.demo.processes import ServerProcess

HERE = Path(__file__).parent
ALICE, BOB = "token-of-alice", "token-of-bob"


class Operated(ServerProcess):
    """One deployment."""

    def events(self, event: str = "") -> list[dict[str, Any]]:
        """Lines of its log, of this event or all; each must be JSON."""
        lines = [json.loads(line) for line in self.logged().splitlines()]
        return [line for line in lines if event in ("", line["event"])]

    def metrics(self) -> dict[tuple[str, ...], float]:
        """Samples: a name and then the values of its labels, in the order of their names."""
        address = self.events("metrics")[0]["address"]
        with urllib.request.urlopen(f"http://{address}/metrics", timeout=10) as answer:
            text = answer.read().decode()
        return {
            (sample.name, *(value for _, value in sorted(sample.labels.items()))): sample.value
            for family in text_string_to_metric_families(text)
            for sample in family.samples
        }


@contextlib.contextmanager
def operated(folder: Path, *options: str, name: str = "server") -> Iterator[Operated]:
    """`securedl serve` with the fake evaluator on folder/store."""
    command = [sys.executable, str(HERE / "operate_fake.py"), "--store", str(folder / "store"), *options]
    server = Operated(command, folder / f"{name}.log", HERE.parents[1])
    try:
        yield server
    finally:
        server.stop()


def tokens(folder: Path, *lines: str) -> Path:
    """A token file."""
    path = folder / "tokens"
    path.touch(mode=0o600)
    path.write_text("".join(f"{line}\n" for line in lines))
    return path


def eventually(check: Callable[[], Any], seconds: float = 30.0) -> Any:
    """What `check` gives when it gives something."""
    until = time.monotonic() + seconds
    while not (found := check()):
        assert time.monotonic() < until
        time.sleep(0.02)
    return found
