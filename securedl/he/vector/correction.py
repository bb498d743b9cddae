"""BGV's correction factors: a ciphertext with factor f holds f·message modulo t."""

from __future__ import annotations


def balance(first: int, second: int, t: int) -> tuple[int, int, int]:
    """(f, u, v) with u·first = v·second = f mod t and |u| + |v| small, as SEAL chooses them.

    u and v are the pair of least |u| + |v| among the steps of Euclid's algorithm on t and second/first.
    """

    def size(x: int, y: int) -> int:
        return sum(abs(z - t if z > t // 2 else z) for z in (x, y))

    ratio = pow(first, -1, t) * second % t
    best = (ratio, 1)
    previous, a = t, ratio
    previous_b, b = 0, 1
    while a:
        quotient = previous // a
        previous, a = a, previous % a
        previous_b, b = b, previous_b - b * quotient
        pair = (a % t, b % t)
        if a and size(*pair) < size(*best):
            best = pair
    return best[0] * first % t, *best
