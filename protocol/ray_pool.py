"""The actors of a server: which of them evaluates a query, and another in place of one that was lost."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Hashable
from typing import Any

from protocol.logs import log_event
from protocol.ray_cluster import RayCluster
from securedl.errors import SecureDLError, UnreachableError

#: Seconds that an actor may take to start: the first on a machine compiles kernels, half a minute or more.
ACTOR_START_S = 300.0
#: Seconds between two looks at whoever waits for an actor.
ACTOR_LOOK_S = 0.25


class LostActorError(Exception):
    """An actor died, or cannot be reached."""


class ActorSlot:
    """One actor, or the one that takes its place.

    Attributes:
        busy: evaluations that it holds.
        held: models that were asked of it.
    """

    def __init__(self, number: int, actor: Any, ready: Any) -> None:
        self.number, self.actor, self.busy = number, actor, 0
        self.held: set[Hashable] = set()
        self.ready, self.began, self.is_ready = ready, time.monotonic(), False


class ActorPool:
    """Actors of one kind.

    Args:
        make: starts one.
    """

    def __init__(self, cluster: RayCluster, make: Callable[[], Any], actors: int) -> None:
        self.ray, self._make, self._lock = cluster.ray, make, threading.Lock()
        self._slots = [self._started(number) for number in range(actors)]

    def _started(self, number: int) -> ActorSlot:
        actor = self._make()
        return ActorSlot(number, actor, actor.ready.remote())

    def wait(self) -> None:
        """Until all of them can evaluate.

        Raises:
            UnreachableError: they do not start. SecureDLError: as they say.
        """
        for slot in self._slots:
            try:
                pid = self.result(slot, slot.ready)
            except LostActorError as error:
                raise UnreachableError("a Ray actor died while it started: see the logs of Ray") from error
            slot.is_ready = True
            log_event("actor", number=slot.number, pid=pid, state="ready")

    def take(self, key: Hashable) -> ActorSlot:
        """The actor for a query: of those that hold the fewest, one that has this model, if any."""
        with self._lock:
            for slot in self._slots:
                if not slot.is_ready:
                    slot.is_ready = bool(self.ray.wait([slot.ready], timeout=0)[0])
            best = min(self._slots, key=lambda s: (not s.is_ready, s.busy, key not in s.held, s.number))
            best.busy += 1
            best.held.add(key)
            return best

    def hold(self, slot: ActorSlot, key: Hashable) -> None:
        """An actor has a model."""
        with self._lock:
            slot.held.add(key)

    def give_back(self, slot: ActorSlot) -> None:
        """An evaluation has ended."""
        with self._lock:
            slot.busy -= 1

    def lost(self, slot: ActorSlot) -> None:
        """Put another in its place, unless that has been done."""
        with self._lock:
            if self._slots[slot.number] is not slot:
                return
            log_event("actor", logging.WARNING, number=slot.number, state="lost")
            self._kill(slot)
            self._slots[slot.number] = self._started(slot.number)

    def each(self) -> list[ActorSlot]:
        """All of them."""
        with self._lock:
            return list(self._slots)

    def result(self, slot: ActorSlot, reference: Any, look: Callable[[], object] = lambda: None) -> Any:
        """What a call gave.

        Args:
            look: called every ACTOR_LOOK_S while it lasts; what it raises ends the wait.

        Raises:
            LostActorError: the actor died. SecureDLError and others: as the call raised it.
        """
        errors = self.ray.exceptions
        try:
            while not self.ray.wait([reference], timeout=ACTOR_LOOK_S)[0]:
                self._check_start(slot)
                look()
            return self.ray.get(reference)
        except errors.RayTaskError as error:
            if isinstance(error.cause, SecureDLError):
                raise error.cause from None
            raise
        except errors.RayError as error:
            raise LostActorError from error

    def _check_start(self, slot: ActorSlot) -> None:
        """UnreachableError where an actor has not started for too long."""
        if slot.is_ready or time.monotonic() - slot.began < ACTOR_START_S:
            return
        if self.ray.wait([slot.ready], timeout=0)[0]:
            slot.is_ready = True
            return
        raise UnreachableError(
            f"a Ray actor has not started in {ACTOR_START_S:.0f} s: see whether the cluster has free cores"
        )

    def _kill(self, slot: ActorSlot) -> None:
        self.ray.kill(slot.actor)

    def stop(self) -> None:
        """End all actors."""
        for slot in self.each():
            self._kill(slot)
