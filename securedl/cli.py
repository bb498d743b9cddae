"""The command line. Errors of the user's or the server's making are one sentence and exit status 1."""

from __future__ import annotations

import os
import sys
import time
from contextlib import AbstractContextManager
from enum import Enum
from json import dumps
from pathlib import Path
from typing import Annotated, Any

import typer

from protocol.jobs.command import predict_rows
from protocol.operator_commands import health, models_app, token_app
from securedl.errors import InputError, SecureDLError
from securedl.files import check_writable, write_atomically
from securedl.settings import VARIABLES, take_settings

app = typer.Typer(
    help="Encrypted neural-network inference that the client can verify.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"auto_envvar_prefix": VARIABLES},
)


class Data(str, Enum):
    """Embedded tables."""

    wine = "wine"
    digits = "digits"
    breast_cancer = "breast_cancer"


class BackendName(str, Enum):
    """Server back ends."""

    vector = "vector"
    seal = "seal"


class SchemeName(str, Enum):
    """Encryption schemes."""

    ckks = "ckks"
    bgv = "bgv"


class ExecutorName(str, Enum):
    """Where queries are evaluated."""

    here = "here"
    ray = "ray"


class LogFormat(str, Enum):
    """Of a server's log."""

    text = "text"
    json = "json"


CORES = os.cpu_count() or 1
GIB = 1 << 30
EvaluatorOption = Annotated[
    BackendName, typer.Option(help="vector: the fast kernels. seal: the reference, about ten times slower.")
]
ThreadsOption = Annotated[int, typer.Option(min=1, max=256, help="Threads of one evaluation (vector only).")]
ListenOption = Annotated[
    str, typer.Option(help="HOST:PORT or unix:PATH. Loopback only without token and TLS.")
]
StoreOption = Annotated[Path, typer.Option(help="Folder that keeps keys and encrypted models.")]
QuietOption = Annotated[bool, typer.Option(help="Only warnings in the log.")]


def _version(asked: bool) -> None:
    if asked:
        from securedl.version import __version__

        print(f"securedl {__version__}")
        raise typer.Exit


@app.callback()
def everywhere(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the release and stop.")
    ] = False,
) -> None:
    """Encrypted neural-network inference that the client can verify."""


@app.command()
def demo(
    data: Annotated[Data, typer.Option(help="Which UCI table (scikit-learn's copy).")] = Data.digits,
    scheme: Annotated[SchemeName, typer.Option(help="ckks, or bgv: whole numbers.")] = SchemeName.ckks,
    evaluator: EvaluatorOption = BackendName.vector,
    threads: ThreadsOption = CORES,
    seed: Annotated[int, typer.Option(help="Seed of split, training and tampering.")] = 0,
    json: Annotated[Path | None, typer.Option(help="Write the figures to this file.")] = None,
) -> None:
    """Train, encrypt, predict on a server process, verify, and catch dishonest servers."""
    check_writable(json)
    from rich.console import Console

    from protocol import Client
    from securedl.demo import story

    def connect(address: str, owner: Any, progress: Any) -> AbstractContextManager[Any]:
        return Client(address, owner, progress=progress)

    figures = story.run(data.value, connect, evaluator.value, threads, scheme.value, seed, Console())
    _write_json(json, figures)


@app.command("serve")
def serve_store(
    listen: ListenOption = "127.0.0.1:7443",
    store: StoreOption = Path("securedl-store"),
    evaluator: EvaluatorOption = BackendName.vector,
    threads: ThreadsOption = CORES,
    token_file: Annotated[
        Path | None, typer.Option(help="File with one bearer token a line, and a tenant's name behind it.")
    ] = None,
    tls_cert: Annotated[Path | None, typer.Option(help="PEM certificate chain.")] = None,
    tls_key: Annotated[Path | None, typer.Option(help="PEM private key.")] = None,
    max_models: Annotated[int | None, typer.Option(min=1, help="Models of each client. Default: 32.")] = None,
    max_gb: Annotated[
        float | None,
        typer.Option(min=0.0, help="GiB on disk of each client, packed weights too. Default: 64."),
    ] = None,
    max_sessions: Annotated[
        int | None, typer.Option(min=1, help="Sessions of all clients at once. Default: 32.")
    ] = None,
    max_client_sessions: Annotated[
        int | None, typer.Option(min=1, help="Sessions of each client. Default: a fair share.")
    ] = None,
    max_key_gb: Annotated[
        float | None, typer.Option(min=0.0, help="GiB of memory for the keys of one model. Default: 16.")
    ] = None,
    max_query_gb: Annotated[
        float | None, typer.Option(min=0.0, help="GiB of memory that one query may take. Default: 2.")
    ] = None,
    max_query_s: Annotated[
        float | None, typer.Option(min=0.0, help="Seconds of a core that one query may take. Default: 600.")
    ] = None,
    max_client_s: Annotated[
        float | None,
        typer.Option(min=0.0, help="Core seconds of each client a day (UTC). Default: no limit."),
    ] = None,
    workers: Annotated[int, typer.Option(min=1, max=256, help="Processes that share the port.")] = 1,
    executor: Annotated[
        ExecutorName, typer.Option(help="here: in the server's processes. ray: in actors of a Ray cluster.")
    ] = ExecutorName.here,
    actors: Annotated[
        int | None, typer.Option(min=1, max=4096, help="Of --executor ray. Default: 2.")
    ] = None,
    ray_address: Annotated[
        str | None,
        typer.Option(help="HOST:PORT of a Ray cluster's head. Default: one of its own, on this machine."),
    ] = None,
    grace: Annotated[
        float, typer.Option(min=0.0, help="Seconds that running queries get when it is told to stop.")
    ] = 30.0,
    metrics: Annotated[
        str | None, typer.Option(help="HOST:PORT for Prometheus: plain HTTP, loopback only.")
    ] = None,
    metrics_anywhere: Annotated[
        bool, typer.Option("--metrics-anywhere", help="Let --metrics be an address that others can reach.")
    ] = False,
    log_format: Annotated[LogFormat, typer.Option(help="Lines of text, or of JSON.")] = LogFormat.text,
    quiet: QuietOption = False,
    worker: Annotated[bool, typer.Option("--worker", hidden=True)] = False,
    config: Annotated[
        Path | None,
        typer.Option(is_eager=True, callback=take_settings, help="TOML file with these options."),
    ] = None,
) -> None:
    """Serve encrypted models until stopped. Needs no secret and can read none.

    Every option can be an environment variable too, or a line of a TOML file (--config), in this order.
    """
    if (tls_cert is None) != (tls_key is None):
        raise InputError("TLS needs both --tls-cert and --tls-key")
    tls = (tls_cert, tls_key) if tls_cert and tls_key else None
    given = {
        "max_models": max_models,
        "max_bytes": None if max_gb is None else int(max_gb * GIB),
        "max_sessions": max_sessions,
        "max_client_sessions": max_client_sessions,
        "max_key_bytes": None if max_key_gb is None else int(max_key_gb * GIB),
        "max_query_s": max_query_s,
        "max_query_bytes": None if max_query_gb is None else int(max_query_gb * GIB),
        "max_client_s": max_client_s,
    }
    limits = {name: value for name, value in given.items() if value is not None}
    from protocol.serve_command import ServeOptions, run_server

    options = ServeOptions(
        store, listen, token_file, tls, limits, grace, metrics, metrics_anywhere, log_format.value, quiet,
        workers, worker, {"evaluator": evaluator.value, "threads": threads},
        executor.value, actors, ray_address,
    )  # fmt: skip
    if status := run_server(options, [sys.executable, "-m", "securedl.cli", *sys.argv[1:]]):
        raise typer.Exit(status)


app.command("predict")(predict_rows)
app.command("health")(health)


@app.command("warm-up")
def compile_kernels() -> None:
    """Compile the kernels of the fast evaluator, as the first start of a server would: for images."""
    from securedl.he.backends import backend

    began = time.monotonic()
    print("compiling kernels, half a minute unless they are there ...", flush=True)
    backend(BackendName.vector.value).prepare()
    print(f"kernels are ready after {time.monotonic() - began:.1f} s")


@app.command(hidden=True)
def dishonest(
    attack: Annotated[str, typer.Option(help="noise, drop or swap.")],
    seed: Annotated[int, typer.Option(help="Which weights are tampered with.")] = 0,
    listen: ListenOption = "127.0.0.1:7443",
    store: StoreOption = Path("securedl-store"),
    evaluator: EvaluatorOption = BackendName.vector,
    threads: ThreadsOption = 1,
    quiet: QuietOption = False,
) -> None:
    """A server that tampers with its weights, to see what clients notice. For tests and the demo."""
    from securedl.demo.dishonest import DishonestBackend, check_move
    from securedl.he.backends import backend

    check_move(attack)  # before a back end is loaded
    other = DishonestBackend(backend(evaluator.value), attack, seed)
    from protocol.serve_command import ServeOptions, run_server

    run_server(ServeOptions(store, listen, quiet=quiet, server={"evaluator": other, "threads": threads}))


app.add_typer(token_app, name="token")
app.add_typer(models_app, name="models")
datasets_app = typer.Typer(help="Public data sets: list them, and where each is now.")
app.add_typer(datasets_app, name="datasets", invoke_without_command=True)
JsonOption = Annotated[Path | None, typer.Option("--json", help="Write the figures to this file.")]


@datasets_app.callback()
def datasets(context: typer.Context, json: JsonOption = None) -> None:
    """List the public data sets: size, licence, citation, and where each is now."""
    if context.invoked_subcommand is not None:
        if json is not None:
            raise InputError(
                "--json goes behind fetch and the names: securedl datasets fetch NAME --json FILE"
            )
        return
    check_writable(json)
    from rich.console import Console

    from securedl.datasets import listing

    _write_json(json, listing.show(Console()))


@datasets_app.command("fetch")
def fetch_datasets(
    names: Annotated[list[str], typer.Argument(help="Names of data sets, or all.")], json: JsonOption = None
) -> None:
    """Get data sets from their official sources into the cache, unless they are at hand."""
    from rich.console import Console

    from securedl.datasets import listing

    check_writable(json)  # downloads take long
    results = listing.get(names, Console())
    _write_json(json, results)
    if failed := [result["name"] for result in results if result["failed"]]:
        raise InputError(
            f"{len(failed)} of {len(results)} data sets could not be fetched: {', '.join(failed)}"
        )


@app.command()
def plan(path: Annotated[Path, typer.Argument(help="A file that Plan.save wrote.")]) -> None:
    """Print what a saved plan will do."""
    from securedl.plan.plan import load_plan

    print(load_plan(path).summary())


@app.command()
def ledger(
    path: Annotated[Path, typer.Argument(help="A file that was given as Owner(plan, ledger=...).")],
    json: JsonOption = None,
) -> None:
    """Print what owners asked, what was checked and alarmed, and how much can have been tampered with."""
    from securedl.client.ledger_summary import ledger_figures, ledger_text

    check_writable(json)
    figures = ledger_figures(path)
    print(ledger_text(figures))
    _write_json(json, figures)


@app.command()
def probes(
    samples: Annotated[int, typer.Option(help="How many samples of your own are asked.")],
    fraction: Annotated[float, typer.Option(help="Of the answers tampered with, above 0 and at most 1.")],
    confidence: Annotated[float, typer.Option(help="Chance to notice it, between 0 and 1.")] = 0.95,
    miss: Annotated[float, typer.Option(help="Chance that a tampered probe shows nothing.")] = 0.0,
    json: JsonOption = None,
) -> None:
    """Tell how many probes it takes where they alone are compared, as for servers that return labels only."""
    from securedl.verify.statistics import probes_needed

    check_writable(json)
    needed = probes_needed(samples, fraction, confidence, miss)
    print(
        f"{needed:,} probes at random places among {samples:,} samples notice tampering with "
        f"{100 * fraction:g} % of the answers with {100 * confidence:g} %"
    )
    given = {"samples": samples, "fraction": fraction, "confidence": confidence, "miss": miss}
    _write_json(json, {**given, "probes": needed})


def _write_json(path: Path | None, figures: Any) -> None:
    if path is not None:
        write_atomically(path, dumps(figures, indent=1).encode(), mode=0o644)


#: Packages that are left out of a server's installation.
NOT_A_SERVERS = ("tenseal", "torch", "scipy", "sklearn", "pooch", "zstandard")


def main() -> None:
    """Entry point: one clear sentence for every expected error."""
    try:
        app()
    except SecureDLError as error:
        print(f"securedl: {error}", file=sys.stderr)
        sys.exit(1)
    except ModuleNotFoundError as error:
        if error.name is None or error.name.partition(".")[0] not in NOT_A_SERVERS:
            raise
        print(
            f"securedl: this needs {error.name}, which a server does without: pip install .", file=sys.stderr
        )
        sys.exit(1)
    except KeyboardInterrupt:
        sys.exit(130)


if __name__ == "__main__":
    main()
