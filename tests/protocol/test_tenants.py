"""Two tenants of one deployment: their quotas under fifty racing clients, and what they see of each other."""

from __future__ import annotations

import contextlib
import secrets
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
from operating import ALICE, BOB, operated, tokens
from protocol_fakes import FakeEvaluator, FakeOwner, predict

from protocol import Client, Limits, Store
from protocol import messages_pb2 as pb
from protocol.blobs import BlobTable
from protocol.figures import Figures
from protocol.service import method_path
from protocol.usage import Usage
from protocol.wire import NONCE_BYTES, PROTOCOL_VERSION
from securedl.errors import QuotaError, SecureDLError

RACERS = 25
TENANTS = {"alice": ALICE, "bob": BOB}
OWNER = FakeOwner()
DISK = Figures.of(BlobTable(OWNER.program)).disk


def patiently(call: Callable[[], Any]) -> Any:
    """Again while seats are taken, which are no quota of what a tenant may keep or compute."""
    until = time.monotonic() + 60
    while True:
        try:
            return call()
        except QuotaError as error:
            if not any(words in str(error) for words in ("open and may have", "of this server are taken")):
                raise
            assert time.monotonic() < until
            time.sleep(0.03)


@contextlib.contextmanager
def opened(address: str, tenant: str, owner: FakeOwner) -> Iterator[Client]:
    client = Client(address, owner, token=TENANTS[tenant])
    with contextlib.closing(client):
        patiently(client.describe)
        yield client


def race(act: Callable[[str, int], Any]) -> dict[str, list[Any]]:
    """What fifty threads get that begin at once, half of them of either tenant; refusals among it."""
    start = threading.Barrier(2 * RACERS)

    def one(tenant: str, number: int) -> Any:
        start.wait()
        try:
            return act(tenant, number)
        except SecureDLError as error:
            return error

    with ThreadPoolExecutor(2 * RACERS) as pool:
        begun = {name: [pool.submit(one, name, number) for number in range(RACERS)] for name in TENANTS}
        return {name: [future.result() for future in futures] for name, futures in begun.items()}


@pytest.mark.parametrize(
    "limit", [("--max-models", 3), ("--max-bytes", int(3.5 * DISK))], ids=lambda one: one[0]
)
def test_what_tenants_may_keep(tmp_path: Path, limit: tuple[str, int]) -> None:
    """Three models of each, by number or by their bytes, in two worker processes."""
    path = tokens(tmp_path, f"{ALICE} alice", f"{BOB} bob")
    options = ("--token-file", str(path), "--metrics", "127.0.0.1:0", "--workers", "2", *map(str, limit))
    with operated(tmp_path, *options) as server:

        def upload(tenant: str, number: int) -> FakeOwner:
            owner = FakeOwner(number + RACERS * (tenant == "bob"))
            with opened(server.address, tenant, owner) as client:
                patiently(client.upload)
            return owner

        found, metrics = race(upload), server.metrics()
        for tenant, results in found.items():
            kept = [one for one in results if isinstance(one, FakeOwner)]
            assert len(kept) == 3, results
            assert {type(one) for one in results} == {FakeOwner, QuotaError}
            assert metrics["securedl_store_models", tenant] == 3
            assert metrics["securedl_store_bytes", tenant] <= 3.5 * DISK
            for owner in kept:
                with opened(server.address, tenant, owner) as client:
                    assert predict(client, 1).passed


class Counted(FakeEvaluator):
    """Computes for a while; how many of them do so at once, at most."""

    lock, now, most = threading.Lock(), 0, 0

    def dot(self, xs: Any, ws: Any) -> Any:
        with Counted.lock:
            Counted.now += 1
            Counted.most = max(Counted.most, Counted.now)
        until = time.thread_time() + 0.005
        while time.thread_time() < until:
            pass
        with Counted.lock:
            Counted.now -= 1
        return super().dot(xs, ws)


def test_what_tenants_may_compute(serve: Any, tmp_path: Path) -> None:
    """Never more sessions at once than there are, and as many seconds for each as it has."""
    each, seconds = 3, 0.4
    limits = Limits(max_sessions=5, max_client_sessions=each, max_client_s=seconds)
    server = serve(Store(tmp_path / "s", limits), evaluator=Counted, token=[ALICE, BOB])
    for tenant in TENANTS:
        with opened(server.address, tenant, OWNER) as client:
            client.upload()
    answered = dict.fromkeys(TENANTS, 0)

    def ask(tenant: str, _: int) -> None:
        with opened(server.address, tenant, OWNER) as client:
            for _ in range(1000):
                assert patiently(lambda: predict(client, 1)).passed
                answered[tenant] += 1

    Counted.most = 0
    found = race(ask)
    assert 2 <= Counted.most <= 5
    for tenant, results in found.items():
        assert answered[tenant] > 2
        assert {type(one) for one in results} == {QuotaError}
        assert all("of its 0.4 s of computing today" in str(one) for one in results), set(map(str, results))
    usage = Usage(tmp_path / "s")
    spent = [use.seconds for use in usage.models().values()]
    usage.close()
    # what is being computed when the last second is used is answered: a query of each session
    assert len(spent) == 2
    assert all(seconds <= one < seconds + each * 0.3 for one in spent), spent


# --- what they see of each other -----------------------------------------------------------------------


@contextlib.contextmanager
def calls(address: str, token: str) -> Iterator[dict[str, Callable[[bytes], tuple[Any, str, list[bytes]]]]]:
    """The calls that name a model: code, details and messages that come of them."""
    channel = grpc.insecure_channel(address)
    metadata = [("authorization", f"Bearer {token}")]

    def asked(path: str, messages: list[bytes]) -> tuple[Any, str, list[bytes]]:
        call = channel.stream_stream(path)(iter(messages), metadata=metadata, timeout=20)
        came = []
        with contextlib.suppress(grpc.RpcError):
            came.extend(call)
        return call.code(), call.details(), came

    def short(method: str) -> Callable[[bytes], Any]:
        request = lambda model: pb.ModelRequest(version=PROTOCOL_VERSION, model_id=model)  # noqa: E731
        return lambda model: asked(method_path(method), [request(model).SerializeToString()])

    def predicting(model: bytes) -> Any:
        hello = pb.Hello(
            version=PROTOCOL_VERSION, model_id=model, program_id=OWNER.program.id,
            nonce=secrets.token_bytes(NONCE_BYTES),
        )  # fmt: skip
        return asked(method_path("Predict"), [hello.SerializeToString()])

    def healthy(model: bytes) -> Any:
        name = f"model/{model.hex()}".encode()
        return asked("/grpc.health.v1.Health/Check", [b"\x0a" + bytes([len(name)]) + name])

    with channel:
        yield {
            "Status": short("Status"), "Remove": short("Remove"), "Predict": predicting, "Check": healthy,
        }  # fmt: skip


@pytest.fixture
def alices(serve: Any) -> Any:
    """A server with a model of Alice's, on which Bob is a client, too."""
    server = serve(token=[ALICE, BOB])
    with Client(server.address, OWNER, token=ALICE) as client:
        client.upload()
        yield server
        assert client.status().complete
        assert predict(client, 1).passed


def test_another_s_model_is_no_model(alices: Any, caplog: pytest.LogCaptureFixture) -> None:
    """Every call on it gives what one on a model gives that nobody has; its owner's calls do not."""
    there, nowhere = OWNER.model_id, bytes(range(16))
    with calls(alices.address, BOB) as bobs:
        for name, call in bobs.items():
            mine, none = call(there), call(nowhere)
            told = [str(one).replace(model.hex(), "it") for one, model in ((mine, there), (none, nowhere))]
            assert told[0] == told[1], name
    with Client(alices.address, OWNER, token=BOB) as client:
        assert not client.status().known
        assert client.upload().bytes > 5e5  # nothing of another's is taken for his
        assert client.remove()
    with calls(alices.address, ALICE) as hers:
        assert [hers[name](there)[0] for name in ("Status", "Check")] == [grpc.StatusCode.OK] * 2
        assert hers["Status"](there)[2] != hers["Status"](nowhere)[2]


@pytest.mark.slow
@pytest.mark.parametrize("name", ["Status", "Remove", "Predict", "Check"])
def test_time_does_not_tell_another_s_model(alices: Any, name: str) -> None:
    """A call on it takes as long as one on a model that nobody has: a chance of 0.5 to tell them apart."""
    there, count, spent = OWNER.model_id, 1500, ([], [])  # type: ignore[var-annotated]
    rng = np.random.default_rng(1)
    with calls(alices.address, BOB) as bobs:
        for number in range(2 * count + 100):
            kind = int(rng.integers(2))
            model = rng.bytes(16) if kind else there
            began = time.perf_counter()
            bobs[name](model)
            if number >= 100:
                spent[kind].append(time.perf_counter() - began)
    ranks = np.argsort(np.argsort(np.concatenate(spent)))
    first = len(spent[0])
    auc = (ranks[:first].sum() - first * (first - 1) / 2) / (first * len(spent[1]))
    print(f"{name}: AUC {auc:.3f}")
    assert abs(auc - 0.5) < 0.05  # 4.6 deviations of what chance gives
