"""`securedl serve` with the fake evaluator: some of its options, and --delay for each product."""

import argparse
import sys
from functools import partial
from pathlib import Path

from protocol_fakes import FakeBackend, FakeEvaluator

from protocol.serve_command import ServeOptions, run_server
from securedl.errors import SecureDLError

parser = argparse.ArgumentParser()
parser.add_argument("--store", type=Path)
parser.add_argument("--listen", default="127.0.0.1:0")
parser.add_argument("--token-file", type=Path)
parser.add_argument("--tls", type=Path, nargs=2)
parser.add_argument("--delay", type=float, default=0.0)
parser.add_argument("--grace", type=float, default=30.0)
parser.add_argument("--workers", type=int, default=1)
parser.add_argument("--worker", action="store_true")
parser.add_argument("--metrics")
parser.add_argument("--log-format", default="json")
parser.add_argument("--max-sessions", type=int, default=32)
parser.add_argument("--max-client-s", type=float)
parser.add_argument("--max-models", type=int, default=32)
parser.add_argument("--max-bytes", type=int, default=1 << 30)
a = parser.parse_args()

backend = FakeBackend(partial(FakeEvaluator, delay_s=a.delay))
options = ServeOptions(
    a.store,
    a.listen,
    a.token_file,
    a.tls,
    limits={name: getattr(a, name) for name in ("max_sessions", "max_client_s", "max_models", "max_bytes")},
    grace_s=a.grace,
    metrics=a.metrics,
    log_format=a.log_format,
    workers=a.workers,
    worker=a.worker,
    server={"evaluator": backend},
)
try:
    sys.exit(run_server(options, [sys.executable, *sys.argv]))
except SecureDLError as error:
    sys.exit(f"securedl: {error}")
