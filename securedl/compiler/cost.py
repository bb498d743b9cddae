"""What a plan costs: counted transforms and bytes, turned into milliseconds for one ciphertext batch."""

from __future__ import annotations

import math
from dataclasses import dataclass

from securedl.compiler.layout import LayerLayout
from securedl.he.params import Parameters
from securedl.he.record import Shape, packed_length
from securedl.plan.normalised import Layer
from securedl.plan.signature import Cost, Link
from securedl.program.program import Program

#: Milliseconds of one number-theoretic transform at N = 8192 on one core (vector evaluator).
NTT_MS = 0.0066
#: Fused encrypted dot, one term and prime, in transforms: 3.5 µs against 6.6 µs.
DOT_NTTS = 0.53
#: Encode + encrypt + pack, or unpack + decrypt + decode, of one polynomial and prime at N = 8192.
CLIENT_MS = 0.4
#: Part of encrypting that makes an encryption of zero, ahead or not.
ZERO_PART = 0.75
#: Queries that share the price of preparing and uploading a model.
EXPECTED_QUERIES = 1000
#: Encoding, encrypting and packing a weight in slots, one prime at N = 8192.
PREPARE_MS = 0.6


def ntt_ms(ring: int) -> float:
    """One transform of one prime."""
    return NTT_MS * (ring / 8192) * (math.log2(ring) / 13)


def key_switch_ntts(level: int) -> float:
    """Transforms of a relinearisation or rotation with level + 1 primes."""
    primes = level + 1
    return primes * (primes + 1) + 4 * primes + 2 + primes * (primes + 1) * DOT_NTTS


def affine_ms(params: Parameters, layout: LayerLayout, level: int, encrypted: bool) -> float:
    """Server time of a matrix product at `level`."""
    primes, switch = level + 1, key_switch_ntts(level)
    below = key_switch_ntts(level - 1)
    counts = layout.counts
    ntts = counts.terms * primes * DOT_NTTS * (1.0 if encrypted else 0.5)
    ntts += 0.5 * counts.hoisted * switch + counts.groups * (switch * encrypted + 3 * primes)
    ntts += counts.turns * below
    return ntts * ntt_ms(params.ring)


def activation_ms(params: Parameters, layer: Layer, tiles: int, level: int) -> float:
    """Server time of a polynomial on `tiles` ciphertexts at `level`."""
    return tiles * layer.form.products * (key_switch_ntts(level) + 4 * (level + 1)) * ntt_ms(params.ring)


def transfer(params: Parameters, tiles: int, level: int, scale: float, *, fresh: bool, link: Link) -> Cost:
    """Tiles crossing the link: fresh ones (seeded) to the server, others to the client."""
    size = tiles * packed_length(params, Shape(level, 2, scale, seeded=fresh))
    client = tiles * (level + 1) * CLIENT_MS * params.ring / 8192
    return Cost(0.0, client, link.ms(size), size, ZERO_PART * client if fresh else 0.0)


def once_ms(program: Program, link: Link) -> float:
    """Preparing and uploading the weights of a program in slots."""
    total = 0.0
    for shape in program.weight_shapes:
        total += (shape.level + 1) * PREPARE_MS * program.params.ring / 8192
        total += link.ms(packed_length(program.params, shape))
    return total


def slots_cost(params: Parameters, tiles: int, products: int, level: int, link: Link) -> Cost:
    """A polynomial in slots between two refreshes: so many products a tile."""
    server = tiles * products * (key_switch_ntts(level) + 4 * (level + 1)) * ntt_ms(params.ring)
    ends = [transfer(params, tiles, at, 1.0, fresh=at > 0, link=link) for at in (level, 0)]
    return Cost(server) + ends[0] + ends[1]


@dataclass(frozen=True)
class CoefficientPrices:
    """Milliseconds of the coefficient form at N = 4096 with one data prime, one thread.

    Attributes:
        product: of an input tile and a weight, in a sum. relinearise, merge: of answers. load: a tile that
                came. dump: one that goes.
        send: encoding, encrypting and packing a tile, by an encryption of zero. zero: making that one, ahead
            or not. read: the inverse of both.
        prepare: encrypting a weight. layer: what a layer takes besides, on the server. between: what the
            client does between two layers, its operations on values apart.
    """

    product: float = 0.0039
    relinearise: float = 0.027
    merge: float = 0.035
    load: float = 0.044
    dump: float = 0.03
    send: float = 0.2
    zero: float = 0.3
    read: float = 0.3
    prepare: float = 0.7
    layer: float = 0.1
    between: float = 0.2


COEFFICIENT_PRICES = CoefficientPrices()
