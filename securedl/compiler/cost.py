"""What a plan costs: counted transforms and bytes, turned into milliseconds for one ciphertext batch."""

from __future__ import annotations

import math
from dataclasses import dataclass

from securedl.compiler.layout import LayerLayout
from securedl.he.params import Parameters
from securedl.he.record import Shape, packed_length
from securedl.plan.signature import Cost, Link
from securedl.program.program import Program

#: A term of a key switch and prime, in transforms.
DOT_NTTS = 0.53
#: A rotation of a value that has more of them, in key switches, and transforms besides, for each reads
#: a key of its own. A product whose key was just used, in key switches.
HOISTED, OWN_KEY, SAME_KEY = 0.45, 5, 0.5
#: A transform of one prime at N = 8192, in relinearisations of the coefficient form.
NTT = 0.245
#: Encrypting a tile or weight, loading and dumping one, and decrypting one, for each prime and each 4,096
#: coefficients: in what the coefficient form takes. Less than once, for a part is done once for all primes.
SEND, READ = 0.72, 0.87
#: Queries that share the price of preparing and uploading a model.
EXPECTED_QUERIES = 1000


def key_switch_ntts(level: int) -> float:
    """Transforms of a relinearisation or rotation with level + 1 primes."""
    primes = level + 1
    return primes * (primes + 1) + 4 * primes + 2 + primes * (primes + 1) * DOT_NTTS


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

    product: float = 0.0033
    relinearise: float = 0.031
    merge: float = 0.042
    load: float = 0.065
    dump: float = 0.055
    send: float = 0.1
    zero: float = 0.4
    read: float = 0.32
    prepare: float = 0.55
    layer: float = 0.08
    between: float = 0.08


COEFFICIENT_PRICES = CoefficientPrices()


@dataclass(frozen=True)
class SlotsCost:
    """What operations in slots cost on a machine where those of the coefficient form cost `prices`."""

    params: Parameters
    link: Link
    prices: CoefficientPrices

    @property
    def ntt_ms(self) -> float:
        """One transform of one prime."""
        ring = self.params.ring
        return NTT * self.prices.relinearise * (ring / 8192) * (math.log2(ring) / 13)

    def affine_ms(self, layout: LayerLayout, level: int, encrypted: bool) -> float:
        """Server time of a matrix product at `level`."""
        primes, switch = level + 1, key_switch_ntts(level)
        below = key_switch_ntts(level - 1)
        counts = layout.counts
        ntts = counts.hoisted * (HOISTED * switch + OWN_KEY) + counts.turns * below
        ntts += counts.groups * (switch * encrypted + 3 * primes)
        return counts.terms * self.term_ms(level, encrypted) + ntts * self.ntt_ms

    def term_ms(self, level: int, encrypted: bool) -> float:
        """Server time of one term of a sum of products: weights come from memory, as coefficients' do."""
        parts = (level + 1) * self.params.ring / 4096
        return parts * self.prices.product * (1.0 if encrypted else 0.5)

    def products_ms(self, products: int, tiles: int, level: int) -> float:
        """Server time of so many products of values, a tile each: the first reads the key of all."""
        times = SAME_KEY * tiles * products + (1 - SAME_KEY) * (tiles * products > 0)
        return times * (key_switch_ntts(level) + 4 * (level + 1)) * self.ntt_ms

    def transfer(self, tiles: int, level: int, *, fresh: bool) -> Cost:
        """Tiles crossing the link, with both sides' work: fresh ones to the server, others back."""
        size = tiles * packed_length(self.params, Shape(level, 2, 1.0, seeded=fresh))
        parts, price = tiles * (level + 1) * self.params.ring / 4096, self.prices
        ahead = SEND * parts * price.zero if fresh else 0.0
        client = SEND * parts * price.send + ahead if fresh else READ * parts * price.read
        server = SEND * parts * (price.load if fresh else price.dump)
        return Cost(server, client, self.link.ms(size), size, ahead)

    def polynomial(self, tiles: int, products: int, level: int) -> Cost:
        """A polynomial between two refreshes: so many products a tile."""
        ends = self.transfer(tiles, level, fresh=True) + self.transfer(tiles, 0, fresh=False)
        return Cost(self.products_ms(products, tiles, level)) + ends

    def once_ms(self, program: Program) -> float:
        """Preparing and uploading the weights of a program in slots."""
        return sum(self.weight_ms(shape) for shape in program.weight_shapes)

    def weight_ms(self, shape: Shape) -> float:
        """The same of one weight in slots."""
        making = SEND * (shape.level + 1) * self.params.ring / 4096 * self.prices.prepare
        return making + self.link.ms(packed_length(self.params, shape))

    def weights_ms(self, layout: LayerLayout, level: int, encrypted: bool) -> float:
        """The same of those of a matrix product at `level`: its diagonals, and its bias a level below."""
        parts = 2 if encrypted else 1
        diagonal, bias = (Shape(at, parts, 1.0, seeded=encrypted) for at in (level, level - 1))
        return layout.diagonals * self.weight_ms(diagonal) + layout.target.tiles * self.weight_ms(bias)
