"""What people get wrong: one clear sentence each, and never a traceback."""

from __future__ import annotations

import numpy as np
import pytest
from torch import nn

import protocol
import securedl
from securedl.errors import (
    AuthenticationError,
    CompileError,
    InputError,
    ProtocolError,
    QuotaError,
    ServerError,
    UnsupportedLayerError,
)

pytestmark = pytest.mark.he


@pytest.fixture(scope="module")
def net(network):
    """A small network."""
    return network((6, 8, 3))


@pytest.fixture(scope="module")
def owner(net):
    """Its owner."""
    return net.owner(ring=8192)


@pytest.fixture(scope="module")
def process(folder, serving):
    """A server process."""
    with serving(folder) as process:
        yield process


@pytest.fixture(scope="module")
def client(process, owner):
    """A client whose model is uploaded."""
    with protocol.Client(process.address, owner) as client:
        client.upload()
        yield client


def spoil(x: np.ndarray, value: float) -> np.ndarray:
    """The samples with one value in sample 2 replaced."""
    x = x.copy()
    x[2, 1] = value
    return x


class TestQueries:
    @pytest.mark.parametrize(
        ("change", "words"),
        [
            (lambda x: x[:, :5], r"x must have shape \[samples, 6\], got \[5, 5\]"),
            (lambda x: x[0], r"x must have shape \[samples, 6\], got \[6\]"),
            (lambda x: x[:0], "at least one sample"),
            (lambda x: x[:, :, None], r"x must have shape \[samples, 6\]"),
            (lambda x: spoil(x, np.nan), "NaN or infinite values, first in sample 2"),
            (lambda x: spoil(x, np.inf), "NaN or infinite values, first in sample 2"),
            (lambda x: x * 1e5, "5 sample.s. would overflow under encryption"),
            (lambda x: spoil(x, 1e6), r"1 sample.s. would overflow .* x\[2\] feature 1 is 1e\+06"),
            (lambda x: "text", "x holds text: give numbers"),
        ],
    )
    def test_bad_samples(self, client, net, change, words: str) -> None:
        with pytest.raises(InputError, match=words) as caught:
            client.predict(change(net.x[:5]))
        assert "\n" not in str(caught.value)

    def test_the_client_still_works(self, client, net) -> None:
        with pytest.raises(InputError):
            client.predict(net.x[:5] * 1e5)
        assert net.close(net.x[:5], client.predict(net.x[:5]).logits)

    def test_an_owner_whose_model_is_not_there(self, process, client, owner, net) -> None:
        """The same plan with another key on the same store."""
        other = securedl.Owner(owner.plan)
        assert other.model_id != owner.model_id
        with protocol.Client(process.address, other) as stranger:
            assert not stranger.status().known
            with pytest.raises(ProtocolError, match=r"no such model of this client: call upload\(\) first"):
                stranger.predict(net.x[:5])
        assert client.predict(net.x[:5]).report.passed


class TestCompiling:
    def test_unsupported_layers_are_all_listed(self, net) -> None:
        class Inner(nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.first, self.gate = nn.Linear(6, 8), nn.PReLU()

            def forward(self, x):
                return self.gate(self.first(x))

        model = nn.Sequential(Inner(), nn.LayerNorm(8), nn.ReLU(), nn.Linear(8, 3), nn.Softmax(dim=1))
        with pytest.raises(UnsupportedLayerError) as caught:
            securedl.compile(model.double(), net.x)
        heading, *listed = str(caught.value).splitlines()
        assert heading == "3 operation(s) of Sequential cannot be encrypted:"
        assert [line.split(":")[0].strip() for line in listed] == ["0.gate", "1", "2"]
        assert "call securedl.approximate first" in listed[2]

    @pytest.mark.parametrize(
        ("options", "error", "words"),
        [
            ({"ring": 4096, "refreshes": 0}, CompileError, "refresh"),
            ({"ring": 5000}, InputError, "ring must be one of"),
            ({"scheme": "bfv"}, InputError, "scheme must be one of 'ckks', 'bgv'"),
            ({"scheme": "bgv", "accuracy": 1.5}, InputError, "accuracy is a part from 0 to 1"),
            ({"accuracy": 0.9}, InputError, "use them with scheme='bgv'"),
            ({"scheme": "bgv", "refreshes": 1}, InputError, "one before each polynomial"),
            ({"scheme": "bgv", "bits": (8, 8)}, InputError, "bits are three whole numbers"),
            ({"batch": 0}, InputError, "batch must be"),
            ({"batch": 1 << 20}, CompileError, "does not fit"),
            ({"weights": "open"}, InputError, "weights must be"),
            ({"refreshes": -1}, InputError, "refreshes must be"),
            ({"refreshes": 99}, CompileError, "refresh"),
        ],
    )
    def test_no_plan(self, net, options, error, words: str) -> None:
        with pytest.raises(error, match=words) as caught:
            securedl.compile(net.model, net.x, **options)
        assert "\n" not in str(caught.value)

    @pytest.mark.parametrize(
        ("change", "error", "words"),
        [
            (lambda x: spoil(x, np.nan), InputError, "x_train has NaN"),
            (lambda x: x[:0], InputError, "x_train .* at least one sample"),
            (lambda x: x[:, :4], UnsupportedLayerError, r"takes samples of shape \[6\], got \[4\]"),
        ],
    )
    def test_bad_calibration_data(self, net, change, error, words: str) -> None:
        with pytest.raises(error, match=words):
            securedl.compile(net.model, change(net.x))


class TestServers:
    @pytest.mark.parametrize("address", ["unix:/tmp/sdl-nobody-listens-here", "127.0.0.1:1"])
    def test_nothing_listens(self, owner, address: str) -> None:
        with (
            pytest.raises(ServerError, match="check that `securedl serve` runs there") as caught,
            protocol.Client(address, owner),
        ):
            pass
        assert address in str(caught.value)
        assert "\n" not in str(caught.value)

    @pytest.mark.parametrize("address", ["nonsense", "127.0.0.1:99999", "unix:", "unix:/" + "x" * 120])
    def test_no_address(self, owner, address: str) -> None:
        with pytest.raises(InputError) as caught:
            protocol.Client(address, owner)
        assert "\n" not in str(caught.value)

    def test_a_dead_server(self, folder, serving, owner, net) -> None:
        with (
            serving(folder, name="dead") as process,
            protocol.Client(process.address, owner, retry_s=0) as client,
        ):
            process.kill()
            for call in (client.status, client.upload, lambda: client.predict(net.x[:5])):
                with pytest.raises(ServerError) as caught:
                    call()
                assert process.address in str(caught.value)
                assert "\n" not in str(caught.value)

    @pytest.mark.parametrize(
        ("token", "words"), [("wrong", "not one of this server's tokens"), (None, "needs a token")]
    )
    def test_a_wrong_token(self, folder, serving, owner, tmp_path, token, words: str) -> None:
        file = tmp_path / "tokens"
        file.write_text("right\nother\n")
        file.chmod(0o640)
        with serving(folder, "--token-file", str(file), name="token") as process:
            with (
                pytest.raises(AuthenticationError, match=words) as caught,
                protocol.Client(process.address, owner, token=token),
            ):
                pass
            assert "\n" not in str(caught.value)
            with protocol.Client(process.address, owner, token="right") as client:
                assert not client.status().known


class TestCommandLine:
    @pytest.fixture
    def junk(self, tmp_path):
        """A file of nonsense."""
        path = tmp_path / "junk"
        path.write_bytes(b"\x00\xffnonsense" * 40)
        path.chmod(0o600)
        return path

    @pytest.mark.parametrize(
        ("options", "words"),
        [
            (["--listen", "0.0.0.0:7443"], "anything but loopback needs a token and TLS"),
            (["--listen", "nonsense"], "is no address"),
            (["--listen", "unix:/nowhere/at/all"], "cannot listen on"),
            (["--token-file", "MISSING"], "cannot read the token file"),
            (["--token-file", "JUNK"], "cannot read the token file"),
            (["--token-file", "EMPTY"], "holds no token"),
            (["--token-file", "OPEN"], "others may read or change the token file"),
            (["--token-file", "SHARED"], "others may read or change the token file"),
            (["--tls-cert", "JUNK"], "TLS needs both --tls-cert and --tls-key"),
            (["--tls-key", "JUNK"], "TLS needs both --tls-cert and --tls-key"),
            (["--tls-cert", "MISSING", "--tls-key", "JUNK"], "cannot be read"),
            (["--tls-cert", "JUNK", "--tls-key", "JUNK"], "TLS"),
            (["--store", "JUNK"], "cannot be used: File exists; name a folder you may write to"),
            (["--store", "/proc/none"], "name a folder you may write to"),
        ],
    )
    def test_serve(self, cli, assert_refused, tmp_path, junk, options, words: str) -> None:
        for name, mode in (("empty", 0o600), ("open", 0o604), ("shared", 0o660)):
            (tmp_path / name).write_text("\n")
            (tmp_path / name).chmod(mode)
        names = {name.upper(): tmp_path / name for name in ("missing", "empty", "open", "shared")}
        names["JUNK"] = junk
        given = [names.get(option, option) for option in options]
        standing = [
            "--listen",
            "127.0.0.1:0",
            "--store",
            tmp_path / "store",
            "--quiet",
            "--evaluator",
            "seal",
        ]
        assert_refused(cli("serve", *standing, *given), words)
        assert not (tmp_path / "store").exists()

    def test_an_address_in_use(self, cli, assert_refused, tmp_path) -> None:
        with protocol.Server(tmp_path / "store", "127.0.0.1:0", evaluator="seal") as server:
            done = cli("serve", "--listen", server.address, "--store", tmp_path / "b", "--evaluator", "seal")
        assert_refused(done, "cannot listen on")
        assert not (tmp_path / "b").exists()

    def test_limits(self, tmp_path, serving, owner) -> None:
        """Each option reaches the server, and is told to the client where it stands in its way."""
        given = ["--max-models", "3", "--max-gb", "0.5", "--max-sessions", "5", "--max-client-sessions", "1"]
        with (
            serving(tmp_path, *given, name="limits") as process,
            protocol.Client(process.address, owner) as client,
        ):
            told = client.describe()
        assert [told[f"max_{what}"] for what in ("models", "bytes", "sessions")] == [3, 1 << 29, 5]
        for option, words in (
            ("--max-key-gb", "keys of this model take"),
            ("--max-query-gb", "of the server's memory, and 1,073 are allowed"),
            ("--max-query-s", "more than the 1e-06 s of computing"),
        ):
            with (
                serving(tmp_path, option, "0.000001", name=option) as process,
                protocol.Client(process.address, owner) as client,
                pytest.raises(QuotaError, match=words),
            ):
                client.upload()

    def test_plan_of_junk(self, cli, assert_refused, tmp_path, junk) -> None:
        done = cli("plan", junk)
        assert_refused(done, "is not a plan that this version can read")
        assert "pickle" not in done.stderr  # no advice to load it unsafely
        assert_refused(cli("plan", tmp_path / "missing"), "cannot read the plan")

    def test_plan(self, cli, owner, tmp_path) -> None:
        owner.plan.save(tmp_path / "plan")
        done = cli("plan", tmp_path / "plan")
        assert (done.returncode, done.stdout) == (0, owner.plan.summary() + "\n")

    def test_an_unknown_attack(self, cli, assert_refused) -> None:
        assert_refused(cli("dishonest", "--attack", "nothing"), "use one of noise, drop, swap")
