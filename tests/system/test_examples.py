"""The examples run to their end, and what they print is as it should be."""

from __future__ import annotations

import os
import re
import runpy
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
import torch

pytestmark = pytest.mark.he

ROOT = Path(__file__).parents[2]
EXAMPLES = sorted((ROOT / "examples").glob("*.py"))
#: The same steps as others, on other data.
SLOWER = {"regression", "scikit_learn"}
#: Share of test samples that the networks of an example should label right, all of them.
LEAST_ACCURACY = {"mnist_cnn": 0.75, "onnx_file": 0.8, "own_csv": 0.9, "scikit_learn": 0.9}
#: What polynomials of degree 2 may cost after the little training of `--short`.
COST = 0.06
LEAST_R2 = 0.25
#: The precision that every plan promises, as a share of the range of the answers.
PRECISION = 2.0**-10


def run(example: Path, folder: Path) -> str:
    """What an example prints, as a newcomer starts it."""
    surroundings = {**os.environ, "PYTHONPATH": str(ROOT), "TMPDIR": str(folder)}
    done = subprocess.run(
        [sys.executable, str(example), "--short"],
        cwd=folder, env=surroundings, capture_output=True, text=True, timeout=280, stdin=subprocess.DEVNULL,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stdout + done.stderr
    assert "Warning" not in done.stderr
    return done.stdout


def run_here(
    example: Path, folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> str:
    """The same in this process, where torch is imported already; a warning is an error here."""
    monkeypatch.setattr(sys, "argv", [str(example), "--short"])
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    monkeypatch.chdir(folder)
    with torch.random.fork_rng():
        runpy.run_path(str(example), run_name="__main__")
    return capsys.readouterr().out


def figures(text: str, what: str) -> list[dict[str, float]]:
    """The figures by name, of each network that the example shows: "accuracy, encrypted: 97.2%"."""
    found: list[dict[str, float]] = []
    for name, value, percent in re.findall(rf"^{what}, ([\w -]+): (-?[\d.]+)(%?)$", text, re.MULTILINE):
        if not found or name in found[-1]:
            found.append({})
        found[-1][name] = float(value) / (100 if percent else 1)
    return found


def check_labels(text: str, least: float) -> None:
    networks = figures(text, "accuracy")
    assert networks
    for original, polynomial, encrypted in map(dict.values, networks):
        assert encrypted == polynomial >= least
        assert original >= least
        assert polynomial >= original - COST
    agreed = re.findall(r"^labels equal to the polynomial network's: ([\d.]+)%$", text, re.MULTILINE)
    assert agreed == ["100.0"] * len(networks)
    assert text.count("verification: passed") == len(networks)


def check_numbers(text: str) -> None:
    ((original, polynomial, encrypted),) = map(dict.values, figures(text, "R²"))
    assert original > LEAST_R2
    assert polynomial > original - COST
    assert abs(encrypted - polynomial) <= 0.001  # which is how they are printed
    told = re.search(r"largest difference from the polynomial network, .*: ([\d.e+-]+)$", text, re.MULTILINE)
    assert told is not None
    assert 0 < float(told[1]) < PRECISION
    assert text.count("verification: passed") == 1


@pytest.mark.parametrize(
    "example",
    [pytest.param(path, id=path.stem, marks=[pytest.mark.slow] * (path.stem in SLOWER)) for path in EXAMPLES],
)
def test_an_example_runs(
    example: Path, folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The first to try in a process of its own."""
    first = example.stem == "own_csv"
    text = run(example, folder) if first else run_here(example, folder, monkeypatch, capsys)
    assert "nan" not in text.lower().split()
    if example.stem == "regression":
        check_numbers(text)
    else:
        check_labels(text, LEAST_ACCURACY[example.stem])


def test_there_are_examples() -> None:
    assert {path.stem for path in EXAMPLES} == {*LEAST_ACCURACY, "regression"}


def test_the_checks_find() -> None:
    """A label that differs, a loss of accuracy, no network at all, an alarm."""
    good = (
        "accuracy, original: 97.0%\naccuracy, polynomial: 96.5%\naccuracy, encrypted: 96.5%\n"
        "labels equal to the polynomial network's: 100.0%\nverification: passed\n"
    )
    check_labels(good, 0.9)
    check_labels(good * 2, 0.9)
    for was, now in (
        ("encrypted: 96.5", "encrypted: 96.2"),
        ("original: 97.0", "original: 99.9"),
        ("accuracy", "share"),
        ("passed", "FAILED"),
        ("100.0%", "99.7%"),
    ):
        wrong = good.replace(was, now)
        if was == "original: 97.0":
            wrong = wrong.replace("96.5", "91.0")
        with pytest.raises(AssertionError):
            check_labels(wrong, 0.9)
