"""What the papers' samples notice of the papers' attacks: on plain weights, in the clear, as they do.

    python -m bench.detection papers [--quick] [--network NAME ...] [--json FILE] [--plot FOLDER]

VerIDeep's Tables III to VI and Figure 14 and SecureDL's Figure 4, with networks narrowed so that one thread
trains each in minutes. Networks, tampered ones and samples are made once and kept in the user's cache folder;
rows of networks that are not asked for stay in the JSON file, so that it can be made in parts.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch

from bench.detection.bags import METHODS, TOLERANCE, bags
from bench.detection.draws import DRAWS, HALVES, SAMPLES, answers, hits, noticed, orders
from bench.detection.figures import paper
from bench.detection.subjects import SUBJECTS, accuracy, images, trained
from bench.detection.tampering import simulated, tampered
from bench.detection.targets import missed
from securedl.errors import InputError
from securedl.files import write_atomically
from securedl.verify.statistics import wilson_interval

CONFIDENCE = 0.99
QUICK_DRAWS = 200
Row = dict[str, Any]


def rows(name: str, quick: bool) -> Iterator[Row]:
    """Of one network: by attack, method, selection and form of output."""
    draws = QUICK_DRAWS if quick else DRAWS
    data = images(SUBJECTS[name])
    model = trained(name, data, 1 if quick else None)
    found = bags(name, model, data, quick)
    right = accuracy(model, data.x_test, data.y_test)
    attacks = tampered(name, model, data, quick)
    honest = answers(model, found)
    trials, _ = hits(honest, simulated(model, quick), found, TOLERANCE)
    random = np.random.default_rng(0)
    ways = {
        method: dict(orders(model, method, found[method], trials[method, "top-1"], random, draws))
        for method in METHODS
    }
    for attack, made in attacks.items():
        print(f"{name}: {attack}", file=sys.stderr, flush=True)
        seen, left_out = hits(honest, made.networks(), found, TOLERANCE)
        for (method, form), matrix in seen.items():
            if not len(matrix):
                continue
            for way, order in ways[method].items():
                yield {
                    "network": name, "accuracy": 100 * right, "attack": attack, **made.facts,
                    "networks": len(matrix), "left out": left_out, "method": method, "selection": way,
                    "output": form, "bag": len(found[method]), "draws": draws,
                    "noticed": noticed(matrix, order, draws, seed=1),
                }  # fmt: skip


def line(row: Row) -> str:
    """A row of the printed table, % and the paper's in brackets."""
    cells = []
    for n in SAMPLES:
        if n in row["noticed"]:
            share, theirs = 100 * row["noticed"][n] / row["draws"], None
            if row["method"] == "VerIDeep":
                theirs = paper(row["network"], row["attack"], row["output"], n)
            cells.append(f"{share:6.2f}" + (f" ({theirs:g})" if theirs is not None else ""))
    return f"{row['attack']:22} {row['method']:9} {row['selection']:8} {row['output']:13}" + " ".join(cells)


def interval(row: Row, samples: int) -> tuple[float, float]:
    """Of the share noticed, %: of networks and draws, of which there are fewer where choice is not random."""
    draws = row["draws"]
    different = draws if row["selection"] == "random" else min(draws, HALVES * row["networks"])
    low, high = wilson_interval(round(row["noticed"][samples] / draws * different), different, CONFIDENCE)
    return 100 * low, 100 * high


def arguments(parser: argparse.ArgumentParser) -> None:
    """Of the command line."""
    parser.add_argument("--network", action="append", choices=list(SUBJECTS), help="all by default")
    parser.add_argument("--plot", type=Path, help="draw pictures into this folder (png)")


def kept(path: Path | None) -> list[Row]:
    """Rows of an earlier run.

    Raises:
        InputError: another file.
    """
    if path is None or not path.exists():
        return []
    try:
        return [
            row | {key: {int(n): value for n, value in row[key].items()} for key in ("noticed", "interval")}
            for row in json.loads(path.read_text())
        ]
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise InputError(f"{path} is no file of this table: {error}; name another one") from error


def main(chosen: argparse.Namespace) -> int:
    """The tables, and what the targets are missed by; 1 where some are."""
    torch.set_num_threads(1)
    names = chosen.network or list(SUBJECTS)
    every = [row for row in kept(chosen.json) if row["network"] not in names]
    for name in names:
        for row in rows(name, chosen.quick):
            every.append(row | {"interval": {n: interval(row, n) for n in row["noticed"]}})
            if row["output"] == "top-1":
                print(line(row), flush=True)
        if chosen.json is not None:
            write_atomically(chosen.json, json.dumps(every).encode())
    if chosen.plot is not None:
        from bench.detection.pictures import draw

        draw(every, chosen.plot, chosen.quick)
    short = missed(every)
    print("", *short, sep="\n")
    return int(bool(short))
