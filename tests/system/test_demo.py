"""`securedl demo` from the shell: the story ends well, and its figures are all there."""

from __future__ import annotations

import json

import pytest

pytestmark = pytest.mark.he

KEYS = {
    "data", "scheme", "security_bits", "samples", "accuracy", "label_agreement", "max_logit_error", "ms",
    "bytes", "refreshes", "verification",
}  # fmt: skip


@pytest.mark.parametrize(
    ("data", "evaluator", "samples"),
    [
        pytest.param("wine", "seal", 36, marks=pytest.mark.slow),  # `make demo` and its like below do it, too
        pytest.param("breast_cancer", "vector", 114, marks=pytest.mark.slow),
        pytest.param("digits", "vector", 360, marks=pytest.mark.slow),
    ],
)
def test_the_demonstration(cli, tmp_path, data: str, evaluator: str, samples: int) -> None:
    path = tmp_path / "figures.json"
    done = cli("demo", "--data", data, "--evaluator", evaluator, "--json", path, timeout=280)
    assert done.returncode == 0, done.stderr
    assert not done.stderr
    assert "verification: passed" in done.stdout
    assert "NOT detected" not in done.stdout
    figures = json.loads(path.read_text())
    assert figures.keys() >= KEYS
    assert (figures["data"], figures["scheme"], figures["security_bits"]) == (data, "ckks", 128)
    assert figures["samples"] == samples
    assert figures["accuracy"].keys() == {"original", "polynomial", "encrypted"}
    assert all(0.9 <= share <= 1 for share in figures["accuracy"].values())
    assert figures["label_agreement_outside_error"] == 1
    assert figures["max_logit_error"] < 2**-10 * figures["logit_range"]
    assert figures["refreshes"] >= 0
    assert figures["bytes"].keys() == {"upload", "query", "refresh", "fresh", "tap", "answer"}
    assert all(figures["bytes"][kind] > 0 for kind in ("upload", "query", "answer"))
    assert all(spent >= 0 for spent in figures["ms"].values())
    assert figures["pids"]["client"] != figures["pids"]["server"]
    honest, dishonest = figures["verification"]["honest"], figures["verification"]["dishonest"]
    assert honest["passed"] is True
    assert honest["probes"] >= 8
    assert [act["attack"] for act in dishonest] == ["noise", "drop", "swap"]
    assert all(act["detected"] is True for act in dishonest)


@pytest.mark.slow
def test_with_whole_numbers(cli, tmp_path) -> None:
    """Logits differ from the polynomial network's by what quantising does, and labels hardly."""
    path = tmp_path / "figures.json"
    done = cli("demo", "--data", "wine", "--scheme", "bgv", "--json", path, timeout=280)
    assert done.returncode == 0, done.stderr
    assert "compared exactly: no wrong value passes" in done.stdout
    assert "NOT detected" not in done.stdout
    figures = json.loads(path.read_text())
    assert (figures["data"], figures["scheme"], figures["security_bits"]) == ("wine", "bgv", 128)
    assert figures["accuracy"]["encrypted"] >= 0.9
    assert figures["label_agreement"] >= 0.97
    honest, dishonest = figures["verification"]["honest"], figures["verification"]["dishonest"]
    assert honest["passed"] is True
    assert all(act["detected"] is True for act in dishonest)


def test_a_folder_that_is_not_there(cli, assert_refused, tmp_path) -> None:
    done = cli("demo", "--data", "wine", "--json", tmp_path / "none" / "figures.json")
    assert_refused(done, "there is no folder")


def test_an_unknown_table(cli) -> None:
    done = cli("demo", "--data", "iris")
    assert done.returncode == 2
    assert "Traceback" not in done.stderr
