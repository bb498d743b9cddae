"""Downloads: official files, by pooch, with retries, time limits, size limits and checksums."""

from __future__ import annotations

import contextlib
import logging
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from securedl.datasets.source import File
from securedl.errors import ServerError
from securedl.progress import Steps

NO_NAME = "its name cannot be resolved (no network?)"
#: Answers that a second try may better: overload and passing faults of the server.
PASSING = {408, 425, 429, 500, 502, 503, 504}


@dataclass(frozen=True)
class Patience:
    """How long to try. Times in seconds.

    `timeout` bounds each wait for the server, `total` one file from one address; `tries` at each address,
    `pause` after the first failure and twice as long after each further one.
    """

    timeout: float = 30.0
    total: float = 3600.0
    tries: int = 3
    pause: float = 1.0


class _RefusedError(Exception):
    """An answer that no second try would better."""


@dataclass
class _Download:
    """pooch's downloader interface: bytes of an address into a file, counted and timed."""

    file: File
    patience: Patience
    told: Steps

    def __call__(self, url: str, output: Any, pooch: Any, check_only: bool = False) -> None:
        import requests

        end = time.monotonic() + self.patience.total
        with (
            open(output, "wb") as out,
            requests.get(url, stream=True, timeout=self.patience.timeout) as answer,
        ):
            if answer.status_code != 200:
                words = f"the server answered {answer.status_code} {answer.reason}"
                raise OSError(words) if answer.status_code in PASSING else _RefusedError(words)
            length = answer.headers.get("Content-Length", "")
            size, done = int(length) if length.isdecimal() and len(length) < 16 else 0, 0
            self.told(0, size)
            for chunk in _chunks(answer):
                done += len(chunk)
                if done > self.file.limit:
                    raise _RefusedError(f"the answer is longer than {self.file.limit} bytes")
                if time.monotonic() > end:
                    raise OSError(f"not complete after {self.patience.total:g} s")
                out.write(chunk)
                self.told(done, size)


def _chunks(answer: Any) -> Iterator[bytes]:
    """Bytes as they come: to wait for a chunk to fill up is to wait without end for a server that drips."""
    import urllib3

    if not hasattr(answer.raw, "read1"):  # before urllib3 2.1
        yield from answer.iter_content(1 << 12)
        return
    try:
        while chunk := answer.raw.read1(1 << 16, decode_content=True):
            yield chunk
    except urllib3.exceptions.HTTPError as error:  # no OSError, unlike those of requests
        raise OSError(f"{type(error).__name__}: {error}") from error


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """pooch announces every download and every checksum; we have our own words."""
    import pooch

    log = pooch.get_logger()
    before = log.level
    log.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        log.setLevel(before)


def _why(error: Exception) -> str:
    """The last cause, without the names of objects that libraries put around it."""
    name = type(error).__name__
    if "Timeout" in name or "timed out" in str(error):
        return "no answer in time"
    if "resolve" in str(error) or "NameResolution" in str(error):
        return NO_NAME
    if "refused" in str(error):
        return "the connection was refused"
    if any(word in f"{name} {error}" for word in ("IncompleteRead", "ProtocolError", "ChunkedEncodingError")):
        return "the answer broke off"
    if "hash" in str(error) and isinstance(error, ValueError):
        return "the checksum of what came is not the published one"
    return str(error).splitlines()[0][:160] if str(error) else name


def _attempts(file: File, url: str, folder: Path, told: Steps, patience: Patience) -> tuple[Path | None, str]:
    """The file from one address, or what went wrong."""
    import pooch

    why = ""
    for attempt in range(patience.tries):
        if attempt:
            time.sleep(patience.pause * 2 ** (attempt - 1))
        try:
            with _quiet():
                found = pooch.retrieve(
                    url,
                    known_hash=file.checksum,
                    fname=file.name,
                    path=folder,
                    downloader=_Download(file, patience, told),
                )
            return Path(found), ""
        except _RefusedError as error:
            return None, str(error)
        except (OSError, ValueError) as error:  # requests' errors are OSErrors, or ValueErrors for addresses
            why = _why(error)
            if why == NO_NAME:
                return None, why  # offline: more tries would only keep the user waiting
    return None, f"{why} ({patience.tries} tries)"


def download(file: File, folder: Path, told: Steps, patience: Patience) -> Path:
    """The official file in `folder`, from the first address that gives the right one.

    Raises:
        ServerError: none did; the message says what each answered.
    """
    tried = []
    for url in file.urls:
        path, why = _attempts(file, url, folder, told, patience)
        if path is not None:
            return path
        tried.append(f"{url}: {why}")
    raise ServerError("; ".join(tried))
