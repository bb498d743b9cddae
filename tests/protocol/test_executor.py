"""Executors: another one may stand in, which sees records alone, and evaluations are always closed."""

from __future__ import annotations

import pytest
from protocol_fakes import FakeEvaluator, FakeOwner, predict

from protocol import Client
from protocol.executor import Evaluation, Gone, Here
from securedl.errors import ServerError
from securedl.he.record import Record


class Watching(Here):
    """`Here`, with a note of what crosses."""

    def __init__(self) -> None:
        self.crossed: list[tuple[list[Record], list[Record]]] = []
        self.open = self.begun = 0

    def begin(self, model, alive) -> Evaluation:
        self.begun += 1
        self.open += 1
        return _Watched(self, Here().begin(model, alive))


class _Watched(Evaluation):
    def __init__(self, watch: Watching, inner: Evaluation) -> None:
        self._watch, self._inner = watch, inner

    def step(self, tiles) -> list[Record]:
        given = [] if tiles is None else list(tiles)
        found = self._inner.step(None if tiles is None else given)
        self._watch.crossed.append((given, found))
        return found

    def close(self) -> None:
        self._watch.open -= 1
        self._inner.close()


def test_an_executor_of_ones_own(serve) -> None:
    watch = Watching()
    with Client(serve(executor=watch).address, FakeOwner()) as client:
        client.upload()
        assert predict(client, 2).passed
    assert (watch.begun, watch.open) == (3, 0)  # once after the upload, to try the model
    sizes = [(len(given), len(found)) for given, found in watch.crossed]
    assert sizes == [(2, 1), (0, 1), (1, 1)] * 3  # the query's tiles, a tap, a refresh, the answer
    assert all(isinstance(record, Record) for pair in watch.crossed for tiles in pair for record in tiles)


def test_a_failed_evaluation_is_closed(serve) -> None:
    class Failing(FakeEvaluator):
        def rescale(self, a):
            raise RuntimeError("no")

    watch = Watching()
    with Client(serve(evaluator=Failing, executor=watch).address, FakeOwner()) as client:
        client.upload()
        with pytest.raises(ServerError, match="log says why"):
            client.predict(1)
    assert (watch.begun, watch.open) == (2, 0)


def test_nobody_waits_any_more(serve) -> None:
    """The evaluation ends at its next step."""
    server, owner = serve(), FakeOwner()
    with Client(server.address, owner) as client:
        client.upload()
    model = server._loader._load(("local", owner.model_id))
    evaluation = Here().begin(model, lambda: False)
    from protocol_fakes import FakeBatch

    batch = FakeBatch(owner, 0)
    query = batch._load(batch._fresh(owner.program.query), owner.program.query, True)
    with pytest.raises(Gone):
        evaluation.step(query)
    evaluation.close()


@pytest.mark.parametrize("number", [28, 5])
def test_a_disk_that_refuses_a_weight_is_one_sentence(serve, number: int) -> None:
    server, owner = serve(), FakeOwner()
    with Client(server.address, owner) as client:
        client.upload()
        assert predict(client, 1).passed
        (model,) = server._loader.cache._models.values()
        model.weights._handles.clear()

        def refuse(index: int):
            raise OSError(number, "refused")

        model.weights._load = refuse
        words = "disk of the server's store is full" if number == 28 else "the server's store failed"
        with pytest.raises(ServerError, match=words):
            client.predict(1)
