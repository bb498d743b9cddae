"""The tables of `bench.models`: on the terminal, in Markdown, and as a picture."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

HEAD = (
    f"{'network':10} {'by':6} {'accuracy':>8} {'same':>9} {'error':>8} {'server':>13} {'2 thr.':>6} "
    f"{'client':>13} {'est. s/c':>13} {'up MB':>6} {'kB/query':>9} {'trips':>5}"
)
ABOUT = """# Networks, end to end

Made by `python -m bench.models --json FILE --plot docs/results/models.png --markdown
docs/results/models.md`.

![Where the milliseconds of a query go](models.png)

Weights and queries encrypted, one sample a query. With `activations="client"` the networks have their
original activations: the MLPs and convolutional networks ReLU, LeNet-5 max pooling, the paper's CNN
(SecureDL, section 5.1) average pooling, ResNet-20 and the VGG-like network batch norms. With
`activations="server"` they
are the polynomial networks that `securedl.approximate` made of them: squares for the activations, average
pooling, and fine-tuned; the plan is the one that the planner takes to be the fastest.

Plans are for a link of {rtt_ms:g} ms and {mbit_s:,.0f} Mbit/s: on a slower one a plan sends less and computes
more (`--link 20 100`).

**x** is a multiple of the same network's run of a relinearisation at N = 8192 with four primes on one
thread, so that figures of different machines can be compared. Times are medians of {repeats} queries with
server and client in one process, a thread for each; the server's contain loading what came and packing what
goes. No network is in them, nor the screening of samples, for which the network runs in the clear once. The
client's time is all its work; *ready* is what is left of it where encryptions of zero were made ahead, in
idle time, as an `Owner` does by default.

"""
NOTES = """
Labels are those of a server process, compared with the same network's in double precision; probes were among
them. Errors are in parts of the range of the logits; the stated one is what the plan says beforehand, from
simulated answers. Estimates are those of the plan with prices measured in the same run, of the coefficient
form (`securedl.client.calibrate`). The latency of one sample is that of a server process over a Unix socket,
its client on the same cores. The client's memory is all of the process that compiles and asks, data sets
included.
"""


def line(found: dict[str, Any]) -> str:
    """A row of the table on the terminal."""
    return (
        f"{found['network']:10} {found['activations']:6} {found['accuracy']:8.2%} "
        f"{found['labels_equal']:4}/{found['asked']:<4} "
        f"{found['largest_error']:8.1e} {found['server_ms']:6.1f} {found['server_units']:5.1f}x "
        f"{found['server_two_units']:5.1f}x {found['client_ms']:6.1f} {found['client_units']:5.1f}x "
        f"{found['estimated_server_ms']:6.1f}/{found['estimated_client_ms']:6.1f} "
        f"{found['upload_bytes'] / 1e6:6.1f} "
        f"{(found['query_bytes'] + found['answer_bytes']) / 1e3:9.0f} {found['trips']:5}"
    )


def markdown(rows: Sequence[dict[str, Any]], machine: dict[str, str], repeats: int) -> str:
    """The whole page."""
    units = [row["unit_ms"] * 1e3 for row in rows]
    where = (
        f"{machine['processor']}; Python {machine['python']}, torch {machine['torch']}; "
        f"commit {machine['commit']}; "
        f"a relinearisation took {min(units):.0f} to {max(units):.0f} µs.\n"
    )
    parts = [ABOUT.format(repeats=repeats, **rows[0]["link"]), where]
    for who in ("client", "server"):
        some = [row for row in rows if row["activations"] == who]
        if some:
            parts += [f"\n## Activations by the {who}\n\n", _table(_RIGHT, some), "\n", _table(_TIME, some)]
            parts += ["\n", _table(_SENT, some)]
    return "".join([*parts, NOTES])


def _off(row: dict[str, Any], who: str) -> str:
    estimate, measured = row[f"estimated_{who}_ms"], row[f"{who}_ms"]
    return f"{estimate:.1f} ({estimate / measured - 1:+.0%})"


#: Heads of columns, and what stands in them.
_RIGHT = {
    "network": lambda row: row["network"],
    "accuracy": lambda row: f"{row['accuracy']:.2%} of {row['tested']}",
    "encrypted labels equal": lambda row: f"{row['labels_equal']} of {row['asked']}",
    "largest error": lambda row: f"{row['largest_error']:.1e}",
    "stated": lambda row: f"{row['stated_error']:.1e}",
    "verification": lambda row: f"{'passed' if row['passed'] else 'ALARM'}, {row['probes']} probes",
}
_TIME = {
    "network": lambda row: row["network"],
    "server, ms": lambda row: f"{row['server_ms']:.1f} ({row['server_units']:.1f}x)",
    "two threads": lambda row: f"{row['server_two_ms']:.1f} ({row['server_two_units']:.1f}x)",
    "estimate": lambda row: _off(row, "server"),
    "of it, load and dump": lambda row: f"{row['load_ms'] + row['dump_ms']:.1f}",
    "client, ms": lambda row: f"{row['client_ms']:.1f} ({row['client_units']:.1f}x)",
    "client's estimate": lambda row: _off(row, "client"),
    "ready, ms": lambda row: f"{row['client_ready_ms']:.1f}",
    "ready's estimate": lambda row: _off(row, "client_ready"),
    "latency, ms": lambda row: f"{row['one_ms']:.0f}",
    "samples a second": lambda row: f"{row['per_s']:.2g}",
}
_SENT = {
    "network": lambda row: row["network"],
    "weights": lambda row: f"{row['weights']:,}",
    "upload, MB": lambda row: f"{row['upload_bytes'] / 1e6:.1f}",
    "of it, keys": lambda row: f"{row['key_bytes'] / 1e6:.1f}",
    "a query, kB": lambda row: f"{row['query_bytes'] / 1e3:.0f} + {row['answer_bytes'] / 1e3:.0f}",
    "trips": lambda row: f"{row['trips']}",
    "compile, s": lambda row: f"{row['compile_s']:.1f}",
    "prepare, s": lambda row: f"{row['prepare_s']:.1f}",
    "server, MiB": lambda row: f"{row['server_mib']:.0f}",
    "client, MiB": lambda row: f"{row['client_mib']:.0f}",
}


def _table(columns: dict[str, Any], rows: Sequence[dict[str, Any]]) -> str:
    lines = [list(columns), ["---", *["---:"] * (len(columns) - 1)]]
    lines += [[show(row) for show in columns.values()] for row in rows]
    return "".join(f"| {' | '.join(cells)} |\n" for cells in lines)


def _name(row: dict[str, Any]) -> str:
    return str(row["network"]) + (", squares" if row["activations"] == "server" else "")


def plot(rows: Sequence[dict[str, Any]], path: Path) -> None:
    """A bar for each network: milliseconds of server and client, with their estimates beside them."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 0.5 * len(rows) + 1.5), layout="constrained")
    axes = figure.subplots()
    for place, row in enumerate(rows):
        for who, colour, at in (("server", "tab:blue", -0.2), ("client", "tab:orange", 0.2)):
            label = who if not place else None
            axes.barh(place + at, row[f"{who}_ms"], 0.35, color=colour, label=label)
            estimate = row[f"estimated_{who}_ms"]
            axes.plot(
                [estimate], [place + at], "k|", markersize=12, label="estimate" if label == "client" else None
            )
    axes.set_yticks(range(len(rows)), [_name(row) for row in rows])
    axes.invert_yaxis()
    axes.set_xscale("log")
    axes.set_xlabel("ms of one encrypted sample, one thread")
    axes.legend()
    figure.savefig(path, dpi=150)
