"""Queries end to end over real sockets."""

from __future__ import annotations

import threading
import time

import pytest
from protocol_fakes import (
    FakeBackend,
    FakeBatch,
    FakeEvaluator,
    FakeInference,
    FakeOwner,
    predict,
    small_program,
)

from protocol import Client
from protocol import messages_pb2 as pb
from protocol.asking import STAGES, _Asking
from protocol.expect import Expected
from securedl.errors import InputError, ProtocolError, ServerError
from securedl.he.weights import HeldWeights


def test_upload_and_queries(serve) -> None:
    server, owner = serve(), FakeOwner()
    progress: list[tuple[str, int, int]] = []
    with Client(server.address, owner, progress=lambda *p: progress.append(p)) as client:
        assert not client.status().known
        sent = client.upload()
        assert client.status().complete
        answer = predict(client, 3)
        again = client.upload()
    assert answer.passed
    assert len(answer.matches) == 9  # a tap, a refresh, the answer
    assert sent.blobs == len(owner.program.weight_shapes) + 1 + len(owner.program.rotations)
    last = {stage: (done, total) for stage, done, total in progress}
    assert last == {"upload": (sent.bytes, sent.bytes), "predict": (9, 9)}
    assert (again.blobs, again.bytes) == (0, 0)
    assert set(answer.timings) == {*STAGES, "total"}
    assert set(answer.traffic) == {"query", "refresh", "fresh", "tap", "answer"}
    assert all(count > 0 for count in answer.traffic.values())


def test_an_upload_tells_first_of_what_is_made_before_it(serve) -> None:
    class Preparing(FakeOwner):
        def prepare(self, progress=None) -> None:
            assert not self.made
            progress("probes", 1, 2)
            progress("probes", 2, 2)

    told = list[tuple[str, int, int]]()
    with Client(serve().address, Preparing(), progress=lambda *p: told.append(p)) as client:
        sent = client.upload()
    assert told[:3] == [("probes", 1, 2), ("probes", 2, 2), ("upload", 0, 0)]
    assert told[-1] == ("upload", sent.bytes, sent.bytes)


def test_several_queries_share_a_connection_and_a_unix_socket(serve, tmp_path) -> None:
    server, owner = serve(address=f"unix:{tmp_path}/s"), FakeOwner()
    assert (tmp_path / "s").stat().st_mode & 0o077 == 0
    with Client(server.address, owner) as client:
        client.upload()
        assert predict(client, 1).passed
        assert predict(client, 2).passed


def test_plain_weights(serve) -> None:
    owner = FakeOwner(program=small_program(encrypted=False))
    owner.key(None)
    with Client(serve(evaluator=_no_relinearisation).address, owner) as client:
        client.upload()
        assert client.status().complete
    assert "key None" not in owner.made[1:]


def _no_relinearisation(params):
    return FakeEvaluator(params)


def test_concurrent_clients_each_get_their_own_answers(serve) -> None:
    server = serve()
    owners = [FakeOwner(seed) for seed in range(4)]
    passed: list[bool] = []

    def work(owner: FakeOwner) -> None:
        with Client(server.address, owner) as client:
            client.upload()
            passed.append(predict(client, 3).passed)

    threads = [threading.Thread(target=work, args=(owner,)) for owner in owners]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert passed == [True] * 4


def test_a_small_cache_still_answers(serve) -> None:
    server = serve(cache_bytes=1)
    for seed in (0, 1, 0):
        with Client(server.address, FakeOwner(seed)) as client:
            client.upload()
            assert predict(client, 1).passed


def test_a_dishonest_server_changes_the_answer(serve) -> None:
    class Swapped(FakeBackend):
        def weights(self, evaluator, records, folder, room):
            honest = super().weights(evaluator, records, folder, room)
            return HeldWeights(lambda index: honest[0 if index == 1 else index], honest._costs, room)

    server = serve(evaluator=Swapped())
    with Client(server.address, FakeOwner()) as client:
        client.upload()
        answer = predict(client, 1)
    assert answer.matches
    assert not answer.passed


def test_a_query_before_the_upload_says_so(serve) -> None:
    with Client(serve().address, FakeOwner()) as client, pytest.raises(ProtocolError, match="upload"):
        client.predict(1)


def test_another_plan_under_the_same_model_is_refused(serve) -> None:
    server = serve()
    with Client(server.address, FakeOwner()) as client:
        client.upload()
    other = FakeOwner(program=small_program(diagonals=5))
    with Client(server.address, other) as client:
        with pytest.raises(ProtocolError, match="another plan"):
            client.predict(1)
        with pytest.raises(ProtocolError, match="another plan"):
            client.upload()


def test_nobody_listens(tmp_path) -> None:
    with (
        pytest.raises(ServerError, match=r"127\.0\.0\.1:9 .*securedl serve"),
        Client("127.0.0.1:9", FakeOwner()),
    ):
        pass
    with pytest.raises(ServerError, match="nowhere"), Client(f"unix:{tmp_path}/nowhere", FakeOwner()):
        pass


@pytest.mark.parametrize(
    "address", ["", "host", "host:", ":1", "host:99999", "::1:80", "unix:", "http://a:1"]
)
def test_bad_addresses(address: str) -> None:
    with pytest.raises(InputError, match=r"HOST:PORT|path"):
        Client(address, FakeOwner())


def test_an_address_in_use(serve) -> None:
    server = serve()
    with pytest.raises(InputError, match="in use"):
        serve(address=server.address)


def test_a_server_killed_during_a_query(spawn, tmp_path) -> None:
    server, owner = spawn(tmp_path / "store", f"unix:{tmp_path}/s", "0.3"), FakeOwner()
    with Client(server.address, owner, retry_s=0) as client:
        client.upload()
        threading.Timer(0.5, server.kill).start()
        with pytest.raises(ServerError, match="can be repeated"):
            client.predict(1)
        spawn(tmp_path / "store", f"unix:{tmp_path}/s")
        time.sleep(0.1)
    with Client(server.address, owner) as client:
        assert client.status().complete
        assert predict(client, 1).passed


def test_a_silent_server(serve) -> None:
    evaluators: list[FakeEvaluator] = []

    def opened(params) -> FakeEvaluator:
        evaluators.append(FakeEvaluator(params))
        return evaluators[-1]

    server, owner = serve(evaluator=opened), FakeOwner()
    with Client(server.address, owner, timeout_s=0.3) as client:
        client.upload()
        (evaluator,) = evaluators
        evaluator.delay_s = 2
        began = time.monotonic()
        with pytest.raises(ServerError, match=r"silent for 0.3 s"):
            client.predict(1)
        assert time.monotonic() - began < 1.5


def test_a_failing_evaluator_is_one_sentence(serve, caplog) -> None:
    class Failing(FakeEvaluator):
        def dot(self, xs, ws):
            raise RuntimeError("transparent ciphertext")

    with Client(serve(evaluator=Failing).address, FakeOwner()) as client:
        client.upload()
        with pytest.raises(ServerError, match="log says why"):
            client.predict(1)
    assert "transparent ciphertext" in caplog.text


def test_a_server_that_goes_away_escapes_no_check(serve, monkeypatch) -> None:
    settled: list[bool] = []
    send = _Asking.send

    def gone(asking: _Asking, expected: Expected, *rest) -> None:
        if expected.kind == pb.FRESH:
            raise ServerError("gone")
        send(asking, expected, *rest)

    monkeypatch.setattr(_Asking, "send", gone)
    monkeypatch.setattr(FakeBatch, "settle", lambda _: settled.append(True))
    with Client(serve().address, FakeOwner()) as client:
        client.upload()
        with pytest.raises(ServerError, match="gone"):
            predict(client, 1)
    assert settled == [True] * 2  # after the tap, and at the end


def test_an_error_of_the_client_ends_the_stream(serve, monkeypatch) -> None:
    class Refusing(FakeBatch):
        def refresh(self, index: int, tiles: list[bytes]) -> list[bytes]:
            raise ProtocolError("no")

    def ask(owner: FakeOwner, x: int, probes: int, *options: str) -> FakeInference:
        inference = FakeInference(owner, x, probes)
        inference.batches[0] = Refusing(owner, 0)
        return inference

    monkeypatch.setattr(FakeOwner, "ask", ask)
    with Client(serve().address, FakeOwner()) as client:
        client.upload()
        with pytest.raises(ProtocolError, match=r"^no$"):
            client.predict(1)
