"""A server process with the fake evaluator: STORE ADDRESS [DELAY_S [TOKEN ...]]."""

import logging
import sys
from functools import partial

from protocol_fakes import FakeBackend, FakeEvaluator

from protocol import serve

logging.basicConfig(level=logging.INFO)
serve(
    sys.argv[1],
    sys.argv[2],
    evaluator=FakeBackend(partial(FakeEvaluator, delay_s=float(sys.argv[3]) if len(sys.argv) > 3 else 0.0)),
    token=sys.argv[4:] or None,
    ready=lambda address: print(f"serving {sys.argv[1]} on {address}", flush=True),
)
