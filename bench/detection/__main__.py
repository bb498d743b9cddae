"""What is noticed of tampering, table by table.

    python -m bench.detection TABLE [--quick] [--json FILE] [...]

`answers`: one altered answer, through a server's own sockets.
`ciphertexts`: what a server process can do to ciphertexts, against probes and recomputation.
`papers`: the papers' attacks and samples, on plain weights.
`costs`: what checking every answer costs a client.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from bench.detection import answers, ciphertexts, costs, papers
from securedl.files import check_writable

#: Name of a table to what makes it.
TABLES = {"answers": answers, "ciphertexts": ciphertexts, "papers": papers, "costs": costs}


def main() -> None:
    """The command line."""
    assert __doc__ is not None
    parser = argparse.ArgumentParser(prog="bench.detection", description=__doc__.split("\n\n")[0])
    tables = parser.add_subparsers(dest="table", required=True)
    for name, table in TABLES.items():
        assert table.__doc__ is not None
        command = tables.add_parser(name, description=table.__doc__.split("\n\n")[0])
        command.add_argument("--quick", action="store_true", help="little of it, in minutes")
        command.add_argument("--json", type=Path, help="write the figures there")
        table.arguments(command)
    chosen = parser.parse_args()
    if chosen.json is not None:
        check_writable(chosen.json)
    sys.exit(TABLES[chosen.table].main(chosen))


if __name__ == "__main__":
    main()
