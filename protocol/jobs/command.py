"""The command `securedl predict`. It imports late, so that the command line starts fast."""

from __future__ import annotations

from enum import Enum
from json import dumps
from pathlib import Path
from typing import Annotated

import typer

from protocol.address import DEFAULT
from securedl.errors import InputError
from securedl.files import check_writable, write_atomically


class OutliersName(str, Enum):
    """What is done about samples that would overflow."""

    refuse = "raise"
    skip = "skip"
    clip = "clip"


class VerifyName(str, Enum):
    """Whose answers are compared."""

    every = "every"
    probes = "probes"
    none = "none"


class AfterAlarmName(str, Enum):
    """What a call does after an alarm in an earlier one."""

    refuse = "refuse"
    go_on = "continue"


OutliersOption = Annotated[
    OutliersName, typer.Option(help="Samples that would overflow: refuse all, skip or clip them.")
]
VerifyOption = Annotated[VerifyName, typer.Option(help="What is compared: every value, probes, nothing.")]
AfterAlarmOption = Annotated[
    AfterAlarmName, typer.Option(help="Where an earlier call ended with an alarm: ask nothing, or go on.")
]


def predict_rows(
    secret: Annotated[Path, typer.Argument(help="A file that Owner.save or Kit.save wrote.")],
    rows: Annotated[Path, typer.Argument(help="Samples: .npy [samples, ...], or .csv with a row for each.")],
    out: Annotated[Path, typer.Option(help="For the answers: .npz (logits, labels) or .csv.")],
    address: Annotated[str, typer.Option(help="Of the server: HOST:PORT or unix:PATH.")] = DEFAULT,
    passphrase_file: Annotated[
        Path | None, typer.Option(help="File with the passphrase, 0600. Without it you are asked.")
    ] = None,
    token_file: Annotated[
        Path | None, typer.Option(help="File with the bearer token, 0600: the first one in it.")
    ] = None,
    tls: Annotated[bool, typer.Option("--tls", help="TLS, trusting the system's authorities.")] = False,
    tls_ca: Annotated[Path | None, typer.Option(help="TLS, trusting this authority: PEM.")] = None,
    probes: Annotated[int, typer.Option(min=0, help="Sensitive samples in each call, at least.")] = 8,
    outliers: OutliersOption = OutliersName.refuse,
    verify: VerifyOption = VerifyName.every,
    after_alarm: AfterAlarmOption = AfterAlarmName.refuse,
    ledger: Annotated[
        Path | None, typer.Option(help="Counts calls and alarms. Default: SECRET.ledger.")
    ] = None,
    ray: Annotated[bool, typer.Option("--ray", help="Ask by the processes of a Ray cluster.")] = False,
    ray_address: Annotated[
        str | None, typer.Option(help="HOST:PORT of its head. Default: one of its own, on this machine.")
    ] = None,
    actors: Annotated[
        int | None, typer.Option(min=1, max=4096, help="Processes of --ray. Default: 2.")
    ] = None,
    json: Annotated[Path | None, typer.Option(help="Write the verdict to this file.")] = None,
) -> None:
    """Ask an encrypted model the rows of a file, and verify the answers.

    Answers are kept beside --out meanwhile: a job that breaks off goes on by the same command.
    """
    if not ray and (actors, ray_address) != (None, None):
        raise InputError("--actors and --ray-address are of --ray")
    check_writable(json)
    from protocol.jobs.asker import AskerFiles, Manner
    from protocol.jobs.run import Job, refuse_alarms, run_job

    places = AskerFiles(
        secret.absolute(), passphrase_file and passphrase_file.absolute(), rows.absolute(), address,
        token_file and token_file.absolute(), tls_ca.absolute() if tls_ca else tls or None,
    )  # fmt: skip
    found = run_job(
        Job(
            places, Manner(probes, outliers.value, verify.value), out,
            ledger or secret.with_name(secret.name + ".ledger"), after_alarm.value,
            (actors or 2) if ray else 0, ray_address,
        ),
        lambda: str(typer.prompt("passphrase", hide_input=True, err=True)),
    )  # fmt: skip
    if json is not None:
        verdict = {**found.report.to_dict(), "calls": found.calls, "withheld": found.withheld.tolist()}
        write_atomically(json, dumps(verdict, indent=1).encode(), mode=0o644)
    refuse_alarms(found, out)
