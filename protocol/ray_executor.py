"""Evaluations in Ray actors. One that is lost costs the steps since a refresh, done again by another."""

from __future__ import annotations

import contextlib
import secrets
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

from protocol.executor import Evaluation, Executor, Gone
from protocol.expect import Expectations
from protocol.models import ServedModel, check_complete
from protocol.ray_actor import EvaluationActor, ModelPlace, Stepped
from protocol.ray_cluster import RayCluster
from protocol.ray_pool import ActorPool, ActorSlot, LostActorError
from protocol.store import Store
from protocol.stored import StoredModel, disk, stamp_of
from securedl.arguments import count
from securedl.errors import InputError, UnreachableError
from securedl.he.backends import Backend
from securedl.he.record import Record
from securedl.program.execute import way_back

#: Actors that one step of one query may lose.
ATTEMPTS = 3
#: Seconds that an actor gets to say what a query took that nobody waits for any more.
ACTOR_END_S = 2.0
#: Calls that an actor takes beside a step of every session: to end one, to warm up.
SPARE_CALLS = 16
#: Bytes that a parsed program takes, for each of its text: about.
PARSED = 10


@dataclass(frozen=True)
class RemoteModel(ServedModel):
    """A model that actors map: here is its program alone."""

    place: ModelPlace


class RayExecutor(Executor[RemoteModel]):
    """In actors of a Ray cluster, which see the store's folder at the same path.

    Args:
        actors: how many.
        address: HOST:PORT of a cluster's head node; without one, the cluster is this machine's and our own.

    Raises:
        InputError: an argument cannot be used.
    """

    def __init__(self, actors: int = 2, address: str | None = None) -> None:
        count(actors, "actors", least=1)
        self._actors, self._address = actors, address
        self._cluster: RayCluster | None = None
        self._pool: ActorPool | None = None

    def start(self, store: Store, backend: Backend[Any], threads: int, cache_bytes: int | None) -> None:
        """Start the actors, and wait until they can evaluate.

        Raises:
            InputError: Ray is missing, or an actor cannot use the store. ServerError: they do not start.
        """
        cluster = self._cluster = RayCluster(self._address, threads)
        calls = store.limits.max_sessions + SPARE_CALLS
        arguments = (calls, str(store.folder.absolute()), backend, threads, cache_bytes, self._actors)
        try:
            self._pool = ActorPool(cluster, lambda: cluster.actor(EvaluationActor, *arguments), self._actors)
            self._pool.wait()
        except BaseException:
            self.stop()
            raise

    def stop(self) -> None:
        """End the actors, and the cluster if it is our own."""
        if self._pool is not None:
            self._pool.stop()
        if self._cluster is not None:
            self._cluster.stop()
        self._pool = self._cluster = None

    @property
    def pool(self) -> ActorPool:
        """Its actors.

        Raises:
            InputError: it has not been started.
        """
        if self._pool is None:
            raise InputError("this executor has not been started")
        return self._pool

    def load(self, stored: StoredModel, backend: Backend[Any], threads: int, max_bytes: int) -> RemoteModel:
        """A model whose keys and weights are the actors' matter."""
        check_complete(stored)
        program, program_id, folder = stored.program, stored.figures.program_id, stored.folder.absolute()
        place = ModelPlace(str(folder), stored.model_id, program_id, stamp_of(folder))
        with disk():
            cost = PARSED * (folder / "program.json").stat().st_size
        return RemoteModel(program, program_id, Expectations.of(program), cost, place)

    def begin(self, model: RemoteModel, alive: Callable[[], bool]) -> Evaluation:
        """An evaluation of one query, not started yet."""
        return _Remote(self.pool, model, alive)

    def warm(self, model: RemoteModel, alive: Callable[[], bool]) -> None:
        """Load and try a model in all actors at once."""
        pool, name = self.pool, secrets.token_hex(8)
        calls = [(slot, slot.actor.warm.remote(name, model.place)) for slot in pool.each()]

        def look() -> None:
            if not alive():
                raise Gone

        try:
            for slot, call in calls:
                with contextlib.suppress(LostActorError):
                    pool.result(slot, call, look)
                    pool.hold(slot, model.place.key)
        finally:
            for slot, _ in calls:
                slot.actor.end.remote(name)

    def discard(self, client: str, model_id: bytes) -> None:
        """Have all actors forget a model."""
        if self._pool is not None:
            for slot in self._pool.each():
                slot.actor.discard.remote(client, model_id)


class _Remote(Evaluation):
    """One query, at one actor after another until it is answered.

    It keeps what the client sent as far as `way_back` needs it.
    """

    def __init__(self, pool: ActorPool, model: RemoteModel, alive: Callable[[], bool]) -> None:
        self._pool, self._model, self._alive = pool, model, alive
        self._replies, self._kept = 0, dict[int, list[Record]]()
        self._slot: ActorSlot | None = None
        self._name = ""

    def step(self, tiles: Iterable[Record] | None) -> list[Record]:
        """See `Evaluation`."""
        given = None if tiles is None else [tile for tile in tiles if self._wanted()]
        for _ in range(ATTEMPTS):
            self._wanted()
            try:
                found = self._stepped(given)
                break
            except LostActorError:
                assert self._slot is not None
                self._pool.lost(self._slot)
                self._leave()
        else:
            raise UnreachableError(f"{ATTEMPTS} Ray actors were lost over this query: ask again")
        self._keep(given)
        return found

    def _stepped(self, given: list[Record] | None) -> list[Record]:
        """The step at the query's actor, or at another from the last refresh on."""
        past = None
        if self._slot is None:
            self._slot, self._name = self._pool.take(self._model.place.key), secrets.token_hex(8)
            past = self._kept
        slot, ended = self._slot, list[float]()

        def look() -> None:
            if not ended and not self._alive():
                slot.actor.end.remote(self._name)
                ended.append(time.monotonic())
            if ended and time.monotonic() > ended[0] + ACTOR_END_S:
                raise Gone

        call = slot.actor.step.remote(self._name, self._model.place, self._replies, given, past)
        stepped: Stepped = self._pool.result(slot, call, look)
        self.away_s += stepped.cpu_s
        if stepped.tiles is None:
            raise Gone
        return stepped.tiles

    def _wanted(self) -> bool:
        """True.

        Raises:
            Gone: nobody waits for the answer any more.
        """
        if not self._alive():
            raise Gone
        return True

    def _keep(self, given: list[Record] | None) -> None:
        """Keep what came, and of what was kept what may still be needed."""
        if given is not None:
            self._kept[self._replies] = given
        self._replies += 1
        program = self._model.program
        if self._replies > len(program.shown):  # answered
            self._kept = {}
            return
        needed = way_back(program, self._replies).sent
        self._kept = {number: tiles for number, tiles in self._kept.items() if number in needed}

    def _leave(self) -> None:
        if self._slot is not None:
            self._pool.give_back(self._slot)
            self._slot = None

    def close(self) -> None:
        """See `Evaluation`."""
        if self._slot is not None:
            self._slot.actor.end.remote(self._name)
        self._leave()
