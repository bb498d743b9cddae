"""Polynomials by the server, layers in the coefficient form: a refresh before and after each polynomial."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from securedl.compiler.candidate import Candidate
from securedl.compiler.rounds import Wanted, alternatives, arrange, compile_rounds
from securedl.errors import UnsupportedLayerError
from securedl.network.graph import Array
from securedl.network.outputs import Output, task_of
from securedl.plan.plan import Plan

if TYPE_CHECKING:
    from torch import nn
#: What such plans are called in summaries.
NAME = "layer by layer"


def layer_by_layer(
    model: nn.Module, x: Array, task: str | None, wanted: Callable[[Output], Wanted]
) -> list[Candidate]:
    """A plan of that kind, its layouts chosen, and others that are only told.

    Args:
        x: calibration samples [samples, *shape]. wanted: for an output.

    Raises:
        UnsupportedLayerError: the network is no sequence of such layers, or has operations between them that
            are not affine, which the server would have to do.
        CompileError: see `compiler.rounds.arrange`.
    """
    from securedl.network.affine_script import is_affine
    from securedl.network.compare import check_intervals, check_script
    from securedl.network.join import join
    from securedl.network.partition import partition

    found = join(partition(model, x.shape[1:], polynomials=True))
    check_intervals(model, x)
    shape, head = found.output_shape, found.head
    if not is_affine(found.script, x.shape[1:]):
        raise UnsupportedLayerError("between its layers and polynomials the network is not affine")
    asked = wanted(Output(shape, task_of(shape, head) if task is None else task, head))
    arrangement = arrange(found.script.layers, asked)

    def make() -> Plan:
        check_script(model, found, x)
        return compile_rounds(found.script, found.kernels, x, asked)

    own = Candidate(NAME, asked.samples, arrangement.cost, arrangement.once, asked.queries, make)
    return [own, *alternatives(found.script.layers, asked, f"{NAME}, ")]
