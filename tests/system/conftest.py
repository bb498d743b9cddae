"""Real server processes on Unix sockets, the command line, and small seeded networks."""

from __future__ import annotations

import contextlib
import itertools
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import protocol
import securedl
from securedl.demo.processes import COMMAND_LINE, ServerProcess, running, serve_command

ACTIVATIONS = {"relu": nn.ReLU, "tanh": nn.Tanh, "sigmoid": nn.Sigmoid}
#: The precision that every plan promises, as a share of the logit range.
PRECISION = 2.0**-10


@pytest.fixture(scope="module")
def folder() -> Iterator[Path]:
    """A folder with a short name: a socket's path has at most 107 bytes."""
    path = Path(tempfile.mkdtemp(prefix="sdl"))
    yield path
    shutil.rmtree(path, ignore_errors=True)


@pytest.fixture(scope="session")
def serving() -> Callable[..., contextlib.AbstractContextManager[ServerProcess]]:
    """`with serving(folder, evaluator="vector", name="s") as process`: `securedl serve` on folder/store."""

    def serving(
        folder: Path, *options: str, evaluator: str = "vector", name: str = "s"
    ) -> contextlib.AbstractContextManager[ServerProcess]:
        options = ("--evaluator", evaluator, "--threads", "1", "--quiet", *options)
        command = serve_command(folder / "store", f"unix:{folder / name}", *options)
        return running(command, folder / f"{name}.log")

    return serving


@pytest.fixture(scope="session")
def local() -> Callable[..., contextlib.AbstractContextManager[Any]]:
    """`with local(folder, owner) as client`: a server in this process on folder/store, and a client of it."""

    @contextlib.contextmanager
    def local(folder: Path, owner: Any, name: str = "s", **options: Any) -> Iterator[Any]:
        with (
            protocol.Server(folder / "store", f"unix:{folder / name}", **options) as server,
            protocol.Client(server.address, owner) as client,
        ):
            yield client

    return local


@pytest.fixture(scope="session")
def cli() -> Callable[..., subprocess.CompletedProcess[str]]:
    """Run the command line to its end."""

    def cli(*arguments: object, timeout: float = 120) -> subprocess.CompletedProcess[str]:
        command = [*COMMAND_LINE, *map(str, arguments)]
        return subprocess.run(
            command, capture_output=True, text=True, timeout=timeout, stdin=subprocess.DEVNULL
        )

    return cli


@pytest.fixture(scope="session")
def assert_refused() -> Callable[[subprocess.CompletedProcess[str], str], None]:
    """The command failed with status 1 and one line on standard error that holds `words`."""

    def assert_refused(done: subprocess.CompletedProcess[str], words: str) -> None:
        assert done.returncode == 1, (done.returncode, done.stderr)
        assert "Traceback" not in done.stderr + done.stdout
        lines = done.stderr.splitlines()
        assert len(lines) == 1, done.stderr
        assert lines[0].startswith("securedl: ")
        assert words in lines[0]

    return assert_refused


@dataclass
class Network:
    """A trained-like polynomial network and its calibration data."""

    model: nn.Module
    x: np.ndarray

    def logits(self, x: np.ndarray) -> np.ndarray:
        """What is due."""
        with torch.no_grad():
            found: np.ndarray = self.model(torch.as_tensor(x)).numpy()
        return found

    def close(self, x: np.ndarray, logits: np.ndarray) -> bool:
        """Whether encrypted logits are within the promised precision."""
        size = np.ptp(self.logits(self.x))
        return bool(np.abs(logits - self.logits(x)).max() < PRECISION * size)

    def sure(self, x: np.ndarray) -> np.ndarray:
        """Samples [samples] whose label the precision cannot change."""
        best = np.sort(self.logits(x), axis=1)
        sure: np.ndarray = best[:, -1] - best[:, -2] > 2 * PRECISION * np.ptp(self.logits(self.x))
        return sure

    def owner(self, batch: int = 32, **options: Any) -> Any:
        """A fresh owner of the compiled network."""
        return securedl.Owner(securedl.compile(self.model, self.x, batch=batch, **options))


@pytest.fixture(scope="session")
def network() -> Callable[..., Network]:
    """A dense network whose activations are polynomials, with 300 samples; equal arguments, equal network."""

    def network(
        sizes: tuple[int, ...] = (6, 8, 8, 3), activation: str = "relu", degree: int = 2, seed: int = 0
    ) -> Network:
        x = np.random.default_rng(seed).uniform(-1, 1, (300, sizes[0]))
        layers: list[nn.Module] = []
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            for before, after in itertools.pairwise(sizes):
                layers += [nn.Linear(before, after), ACTIVATIONS[activation]()]
        model = nn.Sequential(*layers[:-1]).double()
        return Network(securedl.approximate(model, x, degree=degree), x)

    return network
