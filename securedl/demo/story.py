"""The demonstration: a real table, a network, an honest server and dishonest ones, each its own process."""

from __future__ import annotations

import contextlib
import itertools
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console
from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn
from rich.table import Table
from torch import nn

from securedl.activations.replace import approximate
from securedl.client.inference import Answer
from securedl.client.owner import Owner
from securedl.compiler.compile import compile
from securedl.demo.dishonest import MOVES
from securedl.errors import InputError, ServerError
from securedl.he.params import SECURITY_BITS
from securedl.network.graph import Array
from securedl.plan.plan import Plan

#: Hidden layers of the network for each table.
DATA = {"wine": (16, 16), "digits": (32, 32), "breast_cancer": (16, 16)}
#: The same tables in the catalogue, all in scikit-learn's copies: no network is needed.
VARIANTS = {
    "wine": ("wine", "wine"), "digits": ("optdigits", "digits"), "breast_cancer": ("wdbc", "wdbc"),
}  # fmt: skip
PROBES = 8
#: Opens a client: (address, owner, progress) to a context manager with upload() and predict().
Connect = Callable[..., AbstractContextManager[Any]]


@dataclass(frozen=True)
class Split:
    """Standardised training and test samples [samples, features] with labels [samples]."""

    x_train: Array
    y_train: np.ndarray
    x_test: Array
    y_test: np.ndarray


def load(name: str, seed: int = 0) -> Split:
    """One of the embedded UCI tables, split 80/20 with all classes in both parts."""
    from sklearn.model_selection import train_test_split

    from securedl import datasets

    if name not in DATA:
        raise InputError(f"data {name!r} is not embedded: use one of {', '.join(DATA)}")
    source, variant = VARIANTS[name]
    table = datasets.load(source, variant=variant)
    x_train, x_test, y_train, y_test = train_test_split(
        table.x, table.y, test_size=0.2, stratify=table.y, random_state=seed
    )
    mean, deviation = x_train.mean(axis=0), x_train.std(axis=0)
    # A pixel that is almost always the same must not become huge when it is not.
    deviation = np.maximum(deviation, 0.05 * deviation.max() if name == "digits" else 1e-12)
    return Split((x_train - mean) / deviation, y_train, (x_test - mean) / deviation, y_test)


def train(split: Split, hidden: tuple[int, ...], seed: int = 0, epochs: int = 60) -> nn.Module:
    """A ReLU network on the training part."""
    torch.manual_seed(seed)
    sizes = (split.x_train.shape[1], *hidden, int(split.y_train.max()) + 1)
    layers: list[nn.Module] = []
    for before, after in itertools.pairwise(sizes):
        layers += [nn.Linear(before, after), nn.ReLU()]
    model = nn.Sequential(*layers[:-1])
    optimiser = torch.optim.Adam(model.parameters(), lr=3e-3, weight_decay=1e-3)
    x, y = torch.tensor(split.x_train, dtype=torch.float32), torch.tensor(split.y_train)
    for _ in range(epochs):
        for chosen in torch.split(torch.randperm(len(x)), 32):
            optimiser.zero_grad()
            loss = nn.functional.cross_entropy(model(x[chosen]), y[chosen])
            loss.backward()  # type: ignore[no-untyped-call]
            optimiser.step()
    return model.eval()


def accuracy(labels: np.ndarray, truth: np.ndarray) -> float:
    """Share of right labels."""
    return float(np.mean(labels == truth))


@contextlib.contextmanager
def server(
    store: Path, evaluator: str, threads: int, dishonest: tuple[str, int] | None = None
) -> Iterator[tuple[str, int]]:
    """A server process on a Unix socket in the store's folder; gives (address, process id)."""
    name = "-".join(map(str, dishonest)) if dishonest else "honest"
    socket = store.parent / f"{name}.sock"
    command = [sys.executable, "-m", "securedl.cli", "dishonest" if dishonest else "serve"]
    if dishonest:
        command += ["--attack", dishonest[0], "--seed", str(dishonest[1])]
    command += ["--listen", f"unix:{socket}", "--store", str(store), "--evaluator", evaluator]
    command += ["--threads", str(threads), "--quiet"]
    with open(store.parent / f"{name}.log", "w+b") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log, stdin=subprocess.DEVNULL)
        try:
            deadline = time.monotonic() + 600  # kernels may have to be compiled, on a busy machine
            while not socket.exists():
                if process.poll() is not None or time.monotonic() > deadline:
                    log.seek(0)
                    raise ServerError(
                        f"the server did not start: {log.read().decode(errors='replace').strip()}"
                    )
                time.sleep(0.02)
            yield f"unix:{socket}", process.pid
        finally:
            process.terminate()
            try:
                process.wait(timeout=10)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


@dataclass
class Stages:
    """Milliseconds by stage, with a progress bar for those that take long."""

    progress: Progress

    def __post_init__(self) -> None:
        self.ms: dict[str, float] = {}

    @contextlib.contextmanager
    def __call__(self, stage: str, text: str) -> Iterator[Callable[[int, int], None]]:
        """Time a block; gives a callback (done, total) for the bar."""
        task = self.progress.add_task(text, total=None)
        began = time.perf_counter()
        try:
            yield lambda done, total: self.progress.update(task, completed=done, total=total)
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
        stages = Stages(bar)
        torch.set_num_threads(1)  # more only wait for each other on networks this small
        split = load(data, seed)
        with stages("train", f"training a network on {data}"):
            model = train(split, DATA[data], seed)
        with stages("approximate", "replacing activations by polynomials, fine-tuning"):
            poly = approximate(
                model, split.x_train, split.y_train, degree=2, epochs=20, seed=seed, progress=False
            )
        with stages("compile", "compiling"):
            plan = compile(poly, split.x_train, scheme=scheme, batch=64)
        with stages("keys", "making keys and probes"):
            owner = Owner(plan)
            owner.verification.prepare()
        store = Path(folder) / "store"
        with server(store, evaluator, threads) as (address, pid):
            upload, answer = _honest(address, owner, split, connect, stages)
        caught = []
        for attack in MOVES:
            with stages("dishonest", f"a dishonest server: {attack}"):
                caught.append(_dishonest(attack, seed, store, owner, split, connect, evaluator, threads))
    figures = _figures(data, plan, split, model, poly, answer)
    figures["bytes"] = {"upload": upload.bytes, **answer.traffic}
    figures["ms"] = {**stages.ms, **{f"predict.{k}": v for k, v in answer.timings.items()}}
    figures["verification"]["dishonest"] = caught
    figures |= {"evaluator": evaluator, "pids": {"client": os.getpid(), "server": pid}}
    _print(console, plan, figures, answer)
    return figures


def _honest(address: str, owner: Owner, split: Split, connect: Connect, stages: Stages) -> tuple[Any, Answer]:
    """Upload, then predict the whole test part."""
    with (
        stages("upload", "encrypting and uploading the model") as tick,
        connect(address, owner, tick) as client,
    ):
        upload = client.upload()
    with (
        stages("predict", f"{len(split.x_test)} encrypted predictions"),
        connect(address, owner, None) as client,
    ):
        return upload, client.predict(split.x_test, probes=PROBES)


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
        server(store, evaluator, threads, (attack, seed)) as (address, _),
        connect(address, owner, None) as client,
    ):
        answer = client.predict(split.x_test[:32], probes=PROBES)
    return {"attack": attack, "detected": not answer.report.passed, "worst_ratio": answer.report.worst_ratio}


def _figures(
    data: str, plan: Plan, split: Split, model: nn.Module, poly: nn.Module, answer: Answer
) -> dict[str, Any]:
    with torch.no_grad():
        x = torch.tensor(split.x_test, dtype=torch.float32)
        original, polynomial = model(x).numpy().argmax(axis=1), poly.double()(x.double()).numpy()
    error = float(np.abs(answer.logits - polynomial).max())
    best = np.sort(polynomial, axis=1)
    clear = best[:, -1] - best[:, -2] > error
    same = answer.labels == polynomial.argmax(axis=1)
    return {
        "data": data,
        "scheme": plan.program.params.scheme,
        "security_bits": SECURITY_BITS,
        "samples": len(split.x_test),
        "accuracy": {
            "original": accuracy(original, split.y_test),
            "polynomial": accuracy(polynomial.argmax(axis=1), split.y_test),
            "encrypted": accuracy(answer.labels, split.y_test),
        },
        "label_agreement": float(np.mean(same)),
        "label_agreement_outside_error": float(np.mean(same[clear])) if clear.any() else 1.0,
        "max_logit_error": error,
        "logit_range": float(np.ptp(polynomial)),
        "refreshes": len(plan.program.refreshes),
        "verification": {"honest": {"probes": answer.report.probes, "passed": answer.report.passed}},
    }


def _print(console: Console, plan: Plan, figures: dict[str, Any], answer: Answer) -> None:
    """One readable report."""
    console.rule(f"encrypted inference on {figures['data']}")
    console.print(plan.summary(), highlight=False)
    right, ms, size = figures["accuracy"], figures["ms"], figures["bytes"]
    table = Table(box=None, show_header=False, padding=(0, 2))
    table.add_row("test samples", str(figures["samples"]))
    table.add_row(
        "accuracy",
        f"original {100 * right['original']:.2f} %, polynomial {100 * right['polynomial']:.2f} %, "
        f"encrypted {100 * right['encrypted']:.2f} %",
    )
    bits = np.log2(figures["max_logit_error"] / figures["logit_range"])
    table.add_row(
        "largest logit error", f"{figures['max_logit_error']:.2e} (2^{bits:.1f} of the logit range)"
    )
    table.add_row("labels as the polynomial model's", f"{100 * figures['label_agreement']:.2f} %")
    per_sample = ms["predict"] / figures["samples"]
    table.add_row("encrypted prediction", f"{ms['predict']:.0f} ms in all, {per_sample:.2f} ms a sample")
    stages = ("train", "approximate", "compile", "keys", "upload")
    table.add_row("before it, once", ", ".join(f"{s} {ms[s] / 1e3:.2f} s" for s in stages))
    sent = ", ".join(f"{kind} {count / 1e6:.2f} MB" for kind, count in size.items())
    table.add_row("on the link", sent)
    table.add_row("refreshes a batch", str(figures["refreshes"]))
    pids = figures["pids"]
    table.add_row("processes", f"client {pids['client']}, server {pids['server']} ({figures['evaluator']})")
    console.print(table)
    console.print("\n[bold]honest server[/bold]")
    console.print(answer.report.summary(), highlight=False)
    console.print("[bold]dishonest servers[/bold]")
    for act in figures["verification"]["dishonest"]:
        verdict = "[green]detected[/green]" if act["detected"] else "[red]NOT detected[/red]"
        ratio = f"{act['worst_ratio']:.3g}"
        console.print(
            f"  {act['attack']:6} on 5 % of one layer's encrypted diagonals: {verdict}, {ratio} x tolerance"
        )
