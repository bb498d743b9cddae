"""The demonstration: a real table, a network, an honest server and dishonest ones, each its own process."""

from __future__ import annotations

import contextlib
import os
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

from securedl.activations.replace import approximate
from securedl.client.inference import Answer
from securedl.client.owner import Owner
from securedl.compiler.compile import compile
from securedl.demo.data import HIDDEN, Split, load_split, train_network
from securedl.demo.dishonest import MOVES
from securedl.demo.figures import collect_figures, print_report
from securedl.demo.processes import ServerProcess, running, serve_command

PROBES = 8
#: Opens a client: (address, owner, progress) to a context manager with upload() and predict().
Connect = Callable[..., AbstractContextManager[Any]]


def _server(
    store: Path, evaluator: str, threads: int, dishonest: tuple[str, int] | None = None
) -> AbstractContextManager[ServerProcess]:
    """A server process on a Unix socket in the store's folder; `dishonest` is (attack, seed)."""
    name, kind, options = "honest", "serve", ["--evaluator", evaluator, "--threads", str(threads), "--quiet"]
    if dishonest:
        attack, seed = dishonest
        name, kind = f"{attack}-{seed}", "dishonest"
        options += ["--attack", attack, "--seed", str(seed)]
    command = serve_command(store, f"unix:{store.parent / name}.sock", *options, kind=kind)
    return running(command, store.parent / f"{name}.log")


@dataclass
class StageBar:
    """Milliseconds by stage, with a progress bar for those that take long."""

    progress: Progress

    def __post_init__(self) -> None:
        self.ms: dict[str, float] = {}

    @contextlib.contextmanager
    def __call__(self, stage: str, text: str) -> Iterator[Callable[[str, int, int], None]]:
        """Time a block; gives what is told to `progress`."""
        task = self.progress.add_task(text, total=None)
        began = time.perf_counter()
        try:
            yield lambda stage, done, total: self.progress.update(task, completed=done, total=total or None)
        finally:
            self.ms[stage] = self.ms.get(stage, 0.0) + 1e3 * (time.perf_counter() - began)
            self.progress.remove_task(task)


def run(
    data: str, connect: Connect, evaluator: str, threads: int, scheme: str, seed: int, console: Console
) -> dict[str, Any]:
    """The whole story on one table; returns the figures of `--json`."""
    bar = Progress(
        SpinnerColumn(), TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn(),
        console=console, transient=True,
    )  # fmt: skip
    with bar, tempfile.TemporaryDirectory(prefix="securedl-") as folder:
        stages = StageBar(bar)
        torch.set_num_threads(1)  # more only wait for each other on networks this small
        split = load_split(data, seed)
        with stages("train", f"training a network on {data}"):
            model = train_network(split, HIDDEN[data], seed)
        with stages("approximate", "replacing activations by polynomials, fine-tuning") as tick:
            poly = approximate(
                model, split.x_train, split.y_train, degree=2, epochs=20, seed=seed, progress=tick
            )
        with stages("compile", "compiling") as tick:
            batch = 128 if scheme == "bgv" else 64
            plan = compile(poly, split.x_train, scheme=scheme, batch=batch, progress=tick)
        with stages("keys", "making keys and probes") as tick:
            owner = Owner(plan, progress=tick)
            owner.prepare(tick)
        store = Path(folder) / "store"
        with _server(store, evaluator, threads) as process:
            upload, answer = _honest(process.address, owner, split, connect, stages)
        caught = []
        for attack in MOVES:
            with stages("dishonest", f"a dishonest server: {attack}"):
                caught.append(_dishonest(attack, seed, store, owner, split, connect, evaluator, threads))
    figures = collect_figures(data, plan, split, model, poly, answer)
    figures["bytes"] = {"upload": upload.bytes, **answer.traffic}
    figures["ms"] = {**stages.ms, **{f"predict.{k}": v for k, v in answer.timings.items()}}
    figures["verification"]["dishonest"] = caught
    figures |= {"evaluator": evaluator, "pids": {"client": os.getpid(), "server": process.pid}}
    print_report(console, plan, figures, answer)
    return figures


def _honest(
    address: str, owner: Owner, split: Split, connect: Connect, stages: StageBar
) -> tuple[Any, Answer]:
    """Upload, then predict the whole test part."""
    with (
        stages("upload", "encrypting and uploading the model") as tick,
        connect(address, owner, tick) as client,
    ):
        upload = client.upload()
    with (
        stages("predict", f"{len(split.x_test)} encrypted predictions") as tick,
        connect(address, owner, tick) as client,
    ):
        return upload, client.predict(split.x_test, probes=PROBES, outliers="clip")


def _dishonest(
    attack: str,
    seed: int,
    store: Path,
    owner: Owner,
    split: Split,
    connect: Connect,
    evaluator: str,
    threads: int,
) -> dict[str, Any]:
    """One batch of queries to a server that tampers with what the honest one was given."""
    with (
        _server(store, evaluator, threads, (attack, seed)) as process,
        connect(process.address, owner, False) as client,
    ):
        answer = client.predict(split.x_test[:32], probes=PROBES, outliers="clip", after_alarm="continue")
    return {"attack": attack, "detected": not answer.report.passed, "worst_ratio": answer.report.worst_ratio}
