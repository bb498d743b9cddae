"""Sums and differences of ciphertexts, the second one times a monomial: how a step of merging begins."""

from __future__ import annotations

from securedl.he.vector.kernels.arith import add_rows
from securedl.he.vector.kernels.cache import kernel
from securedl.he.vector.kernels.lanes import Lanes, Value
from securedl.he.vector.kernels.llvm import lane_kernel
from securedl.he.vector.kernels.team import DONE, done, draw, flag, wait

#: Columns of a pair: addresses of both ciphertexts and of the results. Without a second one (0) the sum is
#: twice the first, and there is no difference.
PAIR_FIRST, PAIR_SECOND, PAIR_SUM, PAIR_DIFFERENCE = range(4)
#: A row's parts, units of a team.
PARTS = 4


@lane_kernel("iiiiidd")
def butterfly_rows(lanes: Lanes, a: Value, b: Value, w: Value, total: Value, difference: Value) -> None:
    """total = a + b·w, difference = a - b·w, centred, of centred a, b, w: both below 1.2 q before."""
    lanes.look_ahead([a, b, w], [total, difference])
    x, y = lanes.load(a), lanes.product(lanes.load(b), lanes.load(w))
    lanes.store(lanes.reduce(lanes.add(x, y)), total)
    lanes.store(lanes.reduce(lanes.sub(x, y)), difference)


@kernel("void(int64,int64[:,::1],int64,int64,float64[::1],float64[::1])")
def butterflies(team, pairs, w, n, q, q_inverse):  # type: ignore[no-untyped-def]
    """Pairs of ciphertexts [2, q.size, N], in the columns above; w: address of the monomial, [q.size, N]."""
    row, part = 8 * n, 8 * n // PARTS
    number, unit = draw(team), 0
    for k in range(len(pairs)):
        a, b = pairs[k, PAIR_FIRST], pairs[k, PAIR_SECOND]
        total, difference = pairs[k, PAIR_SUM], pairs[k, PAIR_DIFFERENCE]
        for i in range(q.size):
            for piece in range(PARTS):
                if unit == number:
                    for p in range(2):
                        begin = (p * q.size + i) * row + piece * part
                        factor = w - p * q.size * row
                        for j in range(begin, begin + part, 64):
                            if b != 0:
                                butterfly_rows(
                                    a + j, b + j, factor + j, total + j, difference + j, q[i], q_inverse[i]
                                )
                            else:
                                add_rows(a + j, a + j, total + j, q[i], q_inverse[i])
                    number = done(team, number)
                unit += 1
    wait(flag(team, DONE), unit)
