"""Arguments of a wrong kind, in a wrong order or too late: one sentence each, before any long work."""

from __future__ import annotations

import importlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

import protocol
import securedl
from securedl.arguments import kind
from securedl.errors import InputError, KeyFileError

pytestmark = pytest.mark.he

X = np.random.default_rng(0).uniform(-1, 1, (64, 6))
NOWHERE = "unix:/tmp/sdl-nobody-listens-here"
NAN, INF = float("nan"), float("inf")


@dataclass
class Things:
    """What a user holds, one of each kind."""

    model: nn.Module
    poly: nn.Module
    plan: securedl.Plan
    owner: securedl.Owner
    plan_file: Path
    owner_file: Path


@pytest.fixture(scope="module")
def things(tmp_path_factory) -> Things:
    """6-8-3, and what becomes of it."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 3))
    poly = securedl.approximate(model, X)
    plan = securedl.compile(poly, X, batch=16)
    owner = securedl.Owner(plan)
    folder = tmp_path_factory.mktemp("saved")
    plan.save(folder / "plan")
    owner.save(folder / "owner", "correct horse")
    return Things(model, poly, plan, owner, folder / "plan", folder / "owner")


def refused(call, words: str, error: type[Exception] = InputError) -> str:
    """The sentence that `call` is refused with."""
    with pytest.raises(error, match=words) as caught:
        call()
    sentence = str(caught.value)
    assert "\n" not in sentence
    assert len(sentence) < 250
    return sentence


class TestClient:
    def test_swapped_arguments(self, things):
        refused(
            lambda: protocol.Client(things.owner, NOWHERE),
            r"Client\(address, owner\): the address comes first .* got an Owner and then a str",
        )
        refused(
            lambda: protocol.Client(things.owner), "the address comes first .* got an Owner and then None"
        )

    def test_no_owner(self):
        refused(
            lambda: protocol.Client(NOWHERE),
            r"needs an owner: Client\(address, owner\); securedl.Owner\(plan\) makes one",
        )

    @pytest.mark.parametrize("name", ["plan", "poly", "plan_file"])
    def test_something_else_than_an_owner(self, things, name):
        given = getattr(things, name)
        kind = type(given).__name__
        refused(lambda: protocol.Client(NOWHERE, given), rf"needs an owner, got an? {kind}; securedl\.Owner")

    def test_the_class_itself(self):
        refused(lambda: protocol.Client(NOWHERE, securedl.Owner), "got the class Owner")

    @pytest.mark.parametrize("address", [7443, None, ("127.0.0.1", 7443), b"127.0.0.1:7443"])
    def test_an_address_that_is_no_text(self, things, address):
        refused(lambda: protocol.Client(address, things.owner), "the address comes first and is text")

    @pytest.mark.parametrize(
        ("options", "words"),
        [
            ({"timeout_s": "5"}, "timeout_s must be a number greater than 0, got '5'"),
            ({"timeout_s": 0}, "timeout_s must be a number greater than 0, got 0"),
            ({"timeout_s": -5}, "timeout_s must be a number greater than 0, got -5"),
            ({"timeout_s": NAN}, "timeout_s must be a number greater than 0, got nan"),
            ({"timeout_s": None}, "timeout_s must be a number greater than 0, got None"),
            ({"progress": 1}, "progress is None .* an int is none of them"),
            ({"token": 12345}, "a token is text, got an int"),
            ({"token": b"hidden"}, "a token is text, got bytes"),
        ],
    )
    def test_options(self, things, options, words):
        assert "hidden" not in refused(lambda: protocol.Client(NOWHERE, things.owner, **options), words)

    def test_no_limit_is_a_limit(self, things):
        protocol.Client(NOWHERE, things.owner, timeout_s=INF).close()

    @pytest.mark.parametrize("call", ["describe", "status", "upload", "remove", "predict", "__enter__"])
    def test_a_closed_client(self, things, call):
        owner = securedl.Owner(things.plan)
        client = protocol.Client(NOWHERE, owner)
        client.close()
        client.close()  # twice does no harm
        arguments = (X,) if call == "predict" else ()
        refused(
            lambda: getattr(client, call)(*arguments),
            rf"this client is closed: open another, protocol.Client\('{NOWHERE}', owner\)",
        )
        assert "probes" not in vars(owner.verification)  # which take long
        assert owner.verification.ledger.batches == 0

    def test_a_client_after_its_block(self, things, tmp_path):
        with protocol.Server(tmp_path, "127.0.0.1:0", evaluator="seal") as server:
            with protocol.Client(server.address, things.owner) as client:
                assert not client.status().known
            refused(client.status, "this client is closed: open another")
            refused(lambda: client.predict(X), "this client is closed: open another")

    @pytest.mark.parametrize("probes", ["8", 8.0, NAN, None, True, -1])
    def test_probes(self, things, probes):
        with_client = protocol.Client(NOWHERE, things.owner)
        refused(lambda: with_client.predict(X, probes=probes), "probes must be a number from 0 or a Probes")
        with_client.close()

    def test_a_server_of_wrong_things(self, tmp_path):
        refused(
            lambda: protocol.Server(tmp_path, 7443), "an address is text, HOST:PORT or unix:PATH; got an int"
        )
        for threads in (0, "2", NAN, True):
            refused(
                lambda t=threads: protocol.Server(tmp_path, threads=t),
                "threads must be a whole number of at least 1",
            )


class TestOwner:
    def test_a_network(self, things):
        for network in (things.poly, things.model):
            refused(
                lambda n=network: securedl.Owner(n),
                r"got the network itself .*: compile it first: Owner\(securedl.compile\(model, x_train\)\)",
            )

    @pytest.mark.parametrize("path", ["owner", Path("owner")])
    def test_a_path(self, path):
        refused(
            lambda: securedl.Owner(path),
            r"a saved owner: Owner.load\(path, passphrase=...\); .* Owner\(securedl.load_plan\(path\)\)",
        )

    def test_other_things(self, things):
        refused(
            lambda: securedl.Owner(things.owner), "takes a plan, got an Owner: make one by securedl.compile"
        )
        refused(lambda: securedl.Owner(None), "takes a plan, got None")
        refused(lambda: securedl.Owner(securedl.Plan), "takes a plan, got the class Plan")

    def test_files_of_the_other_kind(self, things):
        refused(
            lambda: securedl.Owner.load(things.plan_file, "correct horse"),
            r"is not a saved owner; it may be a saved plan: securedl.load_plan\(path\)",
            KeyFileError,
        )
        refused(
            lambda: securedl.load_plan(things.owner_file),
            r"holds an owner, not a plan: securedl.Owner.load\(path, passphrase=...\)",
        )

    def test_things_instead_of_paths(self, things, tmp_path):
        for given in (things.plan, 5, None):
            refused(lambda g=given: securedl.load_plan(g), "load_plan takes the path of a file, got ")
            refused(lambda g=given: securedl.Owner.load(g, "p"), "Owner.load takes the path of a file, got ")
            refused(lambda g=given: things.owner.save(g, "p"), "Owner.save takes the path of a file, got ")

    @pytest.mark.parametrize("secret", [b"hidden", ["hidden"], 1234567, None])
    def test_a_passphrase_that_is_no_text(self, things, tmp_path, secret):
        for call in (
            lambda: things.owner.save(tmp_path / "owner", secret),
            lambda: securedl.Owner.load(things.owner_file, secret),
        ):
            sentence = refused(call, f"the passphrase must be text, got {kind(secret)}$")
            assert not {"hidden", "1234567"} & set(sentence.split())
        assert not list(tmp_path.iterdir())

    def test_half_a_character_in_a_passphrase(self, things, tmp_path):
        sentence = refused(lambda: things.owner.save(tmp_path / "owner", "hidden\udc80"), "lone surrogate")
        assert "hidden" not in sentence


class TestLinkAndProbes:
    @pytest.mark.parametrize("link", ["lan", (20, 100), 20, {"rtt_ms": 20}, securedl.Link])
    def test_a_link_that_is_none(self, things, link, monkeypatch):
        module = importlib.import_module("securedl.network.from_torch")
        monkeypatch.setattr(module, "import_torch", lambda *_: pytest.fail("long work began"))
        refused(
            lambda: securedl.compile(things.poly, X, link=link),
            r"link: pass securedl.Link\(rtt_ms=..., mbit_s=...\), got ",
        )

    @pytest.mark.parametrize("wrong", [-1, NAN, INF, "20", None, True, 1j])
    def test_figures_of_a_link(self, wrong):
        refused(
            lambda: securedl.Link(wrong, 100), "rtt_ms of a Link must be a finite number of at least 0, got "
        )
        refused(
            lambda: securedl.Link(20, wrong), "mbit_s of a Link must be a finite number greater than 0, got "
        )

    def test_no_bandwidth(self):
        refused(
            lambda: securedl.Link(20, 0), "mbit_s of a Link must be a finite number greater than 0, got 0"
        )

    def test_figures_that_are_right(self):
        assert securedl.Link(0, np.float32(0.5)).ms(1000) == 16
        assert securedl.Link(np.int64(3)).rtt_ms == 3

    @pytest.mark.parametrize("wrong", ["8", 2.5, NAN, True, None, -1])
    def test_the_number_of_probes(self, wrong):
        refused(
            lambda: securedl.Probes(wrong), "the number of probes must be a whole number of at least 0, got "
        )

    def test_fill(self):
        refused(lambda: securedl.Probes(4, fill="no"), "fill of Probes must be True or False, got 'no'")
