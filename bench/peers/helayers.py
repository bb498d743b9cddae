"""HElayers, which is closed and optional, in a process of its own and with an interpreter of its own."""

from __future__ import annotations

import importlib.util
import json
import os
import signal
import subprocess
import sys
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from bench.peers import onnx_file
from bench.peers.networks import Squared
from bench.peers.rows import Row

WORKER = Path(__file__).with_name("helayers_worker.py")


def interpreter(given: str | None) -> str | None:
    """The Python that has pyhelayers, or None."""
    if given:
        return given
    return sys.executable if importlib.util.find_spec("pyhelayers") else None


def measured(network: Squared, python: str | None, seconds: float) -> Row:
    """One row; what fails is its note.

    Args:
        python: as `interpreter` gives it. seconds: that the server's part is repeated for, once at least.
    """
    row = Row(network.name, "HElayers", "its optimiser", "query, weights")
    if python is None:
        row.note = "not installed: pip install pyhelayers, or --helayers PYTHON of an environment that has it"
        return row
    if importlib.util.find_spec("onnx") is None:
        row.note = "needs onnx to hand the network over: pip install onnx"
        return row
    with tempfile.TemporaryDirectory() as folder:
        at = Path(folder)
        np.save(at / "x.npy", onnx_file.padded(network))
        np.save(at / "logits.npy", network.logits)
        onnx_file.write(network, at / "model.onnx")
        onnx_file.write(network, at / "channels_last.onnx", channels_last=True)
        try:
            found = _run(network.name, [python, str(WORKER), folder, str(seconds)])
        except (OSError, RuntimeError) as error:
            row.note = f"failed: {error}"
            return row
    wrong = found.pop("wrong_as_onnx", None)
    if wrong:
        row.note = f"weights reordered by hand: wrong by {wrong:.0%} of the range with those of the ONNX file"
    return replace(row, **found, client_ms=found["encrypt_ms"] + found["decrypt_ms"])


def _run(name: str, command: list[str]) -> dict[str, Any]:
    """The worker's figures, its progress printed as ours.

    Raises:
        RuntimeError: with the last line of its errors, if it has no times.
    """
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    environment.pop("PYTHONPATH", None)
    last = "nothing said"
    with subprocess.Popen(
        command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stderr is not None
        assert process.stdout is not None
        for text in process.stderr:
            last = text.strip() or last
            if not text.startswith((" ", "Traceback")):
                print(f"{name}: HElayers: {text.rstrip()}", flush=True)
        found: dict[str, Any] = {}
        for text in process.stdout:
            found.update(json.loads(text))
    if process.returncode:
        memory = ", killed, perhaps for want of memory" if process.returncode == -signal.SIGKILL else ""
        last = f"{last} (exit code {process.returncode}{memory})"
        print(f"{name}: HElayers: failed: {last}", flush=True)
    if not found:
        raise RuntimeError(last)
    return found
