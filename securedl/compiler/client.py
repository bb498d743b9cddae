"""compile with activations="client": the layers are the server's, all that is between them the client's."""

from __future__ import annotations

import contextlib
import math
from typing import TYPE_CHECKING

import numpy as np

from securedl.compiler.candidate import told
from securedl.compiler.cost import COEFFICIENT_PRICES, EXPECTED_QUERIES, CoefficientPrices
from securedl.compiler.exact_layers import compile_whole_layers
from securedl.compiler.precision import KEPT_SAMPLES
from securedl.compiler.quantise import Fineness
from securedl.compiler.rounds import Wanted, alternatives, compile_rounds
from securedl.errors import CompileError, InputError
from securedl.network.graph import Array
from securedl.network.outputs import Output, task_of
from securedl.plan.plan import Plan
from securedl.plan.signature import Link
from securedl.program.program import MAX_BATCH
from securedl.progress import SILENT, Steps

if TYPE_CHECKING:
    from torch import nn

    from securedl.network.partition import Partitioned


def compile_client(
    model: nn.Module,
    x: Array,
    *,
    batch: int | str,
    encrypted: bool,
    link: Link,
    ring: int | None,
    columns: tuple[str, ...],
    task: str | None,
    limit_gb: float,
    prices: CoefficientPrices = COEFFICIENT_PRICES,
    queries: int = EXPECTED_QUERIES,
    fineness: Fineness | None = None,
    told: Steps = SILENT,
) -> Plan:
    """A plan for any network, from calibration samples [samples, *shape].

    Args:
        fineness: see `rounds.Wanted`. told: of how many passes are done.

    Raises:
        UnsupportedLayerError: no layer that a server could compute, or what cannot be captured.
        CompileError: see `compile_rounds`; or the script is not the model.
    """
    from securedl.network.compare import check_script
    from securedl.network.join import join
    from securedl.network.partition import partition

    samples, plain = _samples(batch), partition(model, x.shape[1:], samples=x)
    told(1, 4)
    joined = join(plain)
    check_script(model, joined, x)
    told(2, 4)
    shape, head = plain.output_shape, plain.head
    if not head.kind and (task in (None, "binary", "multilabel")):
        _check_logits(joined, x[:KEPT_SAMPLES], task)
    output = Output(shape, task_of(shape, head) if task is None else task, head)

    wanted = Wanted(
        samples, encrypted, link, ring, columns, output, limit_gb, prices, queries, fineness=fineness
    )
    if joined is not plain:
        with contextlib.suppress(CompileError):  # two small results in one may be less precise than each
            return _compiled(joined, x, wanted)
    told(3, 4)
    return _compiled(plain, x, wanted)


def _compiled(found: Partitioned, x: Array, wanted: Wanted) -> Plan:
    if wanted.fineness is None:
        plan = compile_rounds(found.script, found.kernels, x, wanted)
        return told(plan, alternatives(found.script.layers, wanted))
    plan = compile_whole_layers(found.script, found.kernels, x, wanted)
    return told(plan, alternatives(found.script.layers, wanted, params=plan.program.params))


def _check_logits(found: Partitioned, x: Array, task: str | None) -> None:
    """Refuse answers whose signs are no labels.

    Raises:
        InputError: probabilities, or whole numbers, and nobody said that they are just values.
    """
    logits = found.script.logits(x, found.kernels)
    single = math.prod(found.output_shape) == 1
    whole = bool((logits == np.rint(logits)).all())
    shares = bool(((logits >= 0) & (logits <= 1)).all()) and len(logits) > 1
    if whole or (shares and (single or task == "multilabel")):
        kind = "whole numbers" if whole else "from 0 to 1"
        raise InputError(
            f"all answers of the network are {kind}, so their signs are no labels: let it end in its logits, "
            "or in a Softmax or Sigmoid, which the client applies; or pass task='regression' for the values "
            "alone"
        )


def _samples(batch: int | str) -> int:
    """Samples of a query."""
    if batch == "throughput":
        raise InputError(
            "batch 'throughput' fills the slots of a ciphertext, which activations='client' does not use: "
            "give a number"
        )
    if batch == "latency":
        return 1
    if isinstance(batch, bool) or not isinstance(batch, int | np.integer) or not 1 <= batch <= MAX_BATCH:
        raise InputError(f"batch must be a number from 1 to {MAX_BATCH} or 'latency', got {batch!r}")
    return int(batch)
