"""A server as a process: until it is told to stop; it reads tokens and certificate again when told to."""

from __future__ import annotations

import logging
import os
import queue
import signal
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

from protocol import address as addresses
from protocol.logs import log_event
from protocol.server import Server
from protocol.store import Store
from protocol.tokens import read_tokens
from securedl.errors import InputError

#: What queries that are being computed get to be answered when the server is told to stop.
GRACE_S = 30.0
STOPS = (signal.SIGINT, signal.SIGTERM)


def serve(
    store: Store | str | os.PathLike[str],
    address: str = addresses.DEFAULT,
    ready: Callable[[str], object] | None = None,
    grace_s: float = GRACE_S,
    token_file: Path | None = None,
    started: Callable[[Server], object] | None = None,
    **options: Any,
) -> None:
    """Serve until SIGINT or SIGTERM; call it from the main thread. The second one stops at once.

    Args:
        ready: called with the real address once the server listens.
        grace_s: seconds that queries that are being computed get to be answered.
        token_file: in place of `token`. SIGHUP has it read again, and the files of `tls`; what cannot be used
            changes nothing.
        started: called with the server before `ready` is.
        options: as for `Server`.
    """
    came: queue.SimpleQueue[int] = queue.SimpleQueue()
    for number in (*STOPS, signal.SIGHUP):
        signal.signal(number, lambda number, _: came.put(number))
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGHUP})  # a supervisor blocks it until here
    if token_file is not None:
        options["token"] = read_tokens(token_file)
    server = Server(store, address, **options).start()
    if started is not None:
        started(server)
    if ready is not None:
        ready(server.address)
    while came.get() not in STOPS:
        _reload(server, token_file)
    log_event("draining", grace_s=grace_s)
    ended = server.drain(grace_s)
    threading.Thread(target=_hurry, args=(server, came), name="protocol-hurry", daemon=True).start()
    ended.wait()
    server.stop()
    log_event("stopped")


def _reload(server: Server, token_file: Path | None) -> None:
    """Each by itself: a new certificate comes in also where the token file cannot be used."""
    certificate = server.certificate
    if token_file is None and certificate is None:
        log_event("tokens", logging.WARNING, problem="there is no token file or certificate to read again")
    if token_file is not None:
        try:
            server.reload(read_tokens(token_file))
        except InputError as error:
            log_event("tokens", logging.ERROR, problem=str(error), kept="the tokens that were known")
    if certificate is not None:
        try:
            certificate.reload()
        except InputError as error:
            log_event("certificate", logging.ERROR, problem=str(error), kept="the certificate that was there")


def _hurry(server: Server, came: queue.SimpleQueue[int]) -> None:
    """Stop at once when another signal to stop comes."""
    while came.get() not in STOPS:
        pass
    log_event("stopping", logging.WARNING, reason="told twice: what runs is cut off")
    server.drain(0.0)
