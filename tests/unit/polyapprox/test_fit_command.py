"""python -m polyapprox: figures and a picture, or one sentence and a status that is not 0."""

import subprocess
import sys

import pytest

from polyapprox import least_squares
from polyapprox.__main__ import main


def run(*arguments):
    command = [sys.executable, "-m", "polyapprox", *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=60)


def test_fit_and_picture(tmp_path):
    path = tmp_path / "sigmoid.png"
    arguments = ["sigmoid", "--degree", "3", "--interval", "-8", "8", "--method", "both", "--out"]
    done = run(*arguments, str(path))
    assert done.returncode == 0, done.stderr
    assert path.read_bytes().startswith(b"\x89PNG")
    fit = least_squares("sigmoid", 3, (-8, 8))
    printed = [float(line.split()[1]) for line in done.stdout.splitlines() if line.startswith("  x^")]
    assert printed[:4] == list(fit.power())
    assert len(printed) == 8
    assert f"max error {fit.max_error:.6g} (proved)" in done.stdout


def test_an_unknown_function_in_a_process_of_its_own():
    done = run("swish")
    assert done.returncode == 2
    assert done.stderr.startswith("polyapprox: unknown activation 'swish'; expected one of sigmoid")
    assert "Traceback" not in done.stderr
    assert done.stdout == ""


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("relu --degree -1", "degree is -1"),
        ("relu --degree 2000", "from 0 to 64"),
        ("relu --interval 3 1", "the lower first"),
        ("relu --interval nan 1", "two finite numbers"),
        ("relu --method minimax --weight chebyshev", "--weight is for least squares"),
        ("relu --out /no/such/folder/x.png", "cannot write /no/such/folder/x.png: No such file or directory"),
        ("relu --out /tmp/x.nonsense", "cannot write /tmp/x.nonsense: Format 'nonsense' is not supported"),
    ],
)
def test_mistakes_are_one_sentence(line, message, capsys):
    assert main(line.split()) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1


@pytest.mark.parametrize("line", ["", "relu --degree two", "relu --method best", "relu --interval 1"])
def test_argparse_mistakes(line, capsys):
    with pytest.raises(SystemExit) as stopped:
        main(line.split())
    assert stopped.value.code == 2
    assert "error:" in capsys.readouterr().err


@pytest.mark.parametrize("method", ["ls", "minimax"])
def test_methods_without_a_picture(method, capsys):
    assert main(["gelu", "--method", method]) == 0
    assert "gelu on [-4, 4]" in capsys.readouterr().out
