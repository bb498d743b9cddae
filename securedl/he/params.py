"""Encryption parameters: frozen, checked once, and refused below 128 bits of security."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterator
from dataclasses import dataclass

from securedl.errors import CompileError

#: Largest bits of Q·P at 128 bits of security for a ternary secret: the stricter of SEAL's own table
#: (homomorphicencryption.org standard) and Bossuat et al., "Security Guidelines for Implementing
#: Homomorphic Encryption", ia.cr/2024/463.
MAX_MODULUS_BITS = {4096: 106, 8192: 214, 16384: 430, 32768: 868}
SECURITY_BITS = 128
#: Of a chain: more have too many bits in every ring. Counted before any is tested.
MAX_PRIMES = 64
#: A modular product must fit an exact double-precision fused multiply-add.
MAX_PRIME_BITS = 50
#: The special prime exceeds every data prime by this many bits; with less, key switching adds
#: visible error (8e-4 where the special prime is the smaller one, 1.8e-5 at two bits more).
SPECIAL_BITS = 2


def is_prime(n: int) -> bool:
    """Deterministic Miller-Rabin, right for every n < 3.3e24 (Sorenson and Webster 2015)."""
    bases = (2, 3, 5, 7, 11, 13, 17, 19, 23, 29, 31, 37, 41)
    if n < 2 or any(n % p == 0 for p in bases):
        return n in bases
    odd, twos = n - 1, 0
    while odd % 2 == 0:
        odd, twos = odd // 2, twos + 1
    for base in bases:
        x = pow(base, odd, n)
        if x in (1, n - 1):
            continue
        if not any((x := x * x % n) == n - 1 for _ in range(twos - 1)):
            return False
    return True


def ntt_primes(ring: int, bits: int) -> Iterator[int]:
    """Primes of exactly `bits` bits with p ≡ 1 (mod 2·ring), from the largest down."""
    step = 2 * ring
    candidate = ((1 << bits) - 1) // step * step + 1
    while candidate > 1 << (bits - 1):
        if candidate < 1 << bits and is_prime(candidate):
            yield candidate
        candidate -= step


@dataclass(frozen=True)
class Parameters:
    """One modulus chain.

    Attributes:
        scheme: "ckks" or "bgv".
        ring: degree N of the ring, a power of two.
        primes: data primes; primes[0] is the last to remain, so level l holds primes[: l + 1].
        special: the key-switching prime, at least 4 times the largest data prime.
        plain_modulus: t for BGV; 0 for CKKS.

    Raises:
        CompileError: when the chain is malformed or gives less than 128 bits of security.
    """

    scheme: str
    ring: int
    primes: tuple[int, ...]
    special: int
    plain_modulus: int = 0

    def __post_init__(self) -> None:
        if self.scheme not in ("ckks", "bgv"):
            raise CompileError(f"scheme {self.scheme!r} is unknown: use 'ckks' or 'bgv'")
        t = self.plain_modulus
        if (self.scheme == "ckks" and t) or (self.scheme == "bgv" and not (t % 2 and is_prime(t))):
            raise CompileError(f"plain modulus {t}: CKKS has 0, BGV an odd prime")
        if self.ring not in MAX_MODULUS_BITS:
            raise CompileError(f"ring {self.ring} is not supported: use one of {sorted(MAX_MODULUS_BITS)}")
        chain = (*self.primes, self.special)
        if len(chain) > MAX_PRIMES:
            raise CompileError(f"a modulus chain has at most {MAX_PRIMES} primes, got {len(chain)}")
        if not self.primes or len(set(chain)) != len(chain):
            raise CompileError(f"a modulus chain needs distinct primes, got {chain}")
        for q in chain:
            if q >= 1 << MAX_PRIME_BITS or q % (2 * self.ring) != 1 or not is_prime(q):
                raise CompileError(
                    f"{q} is not a prime below 2^{MAX_PRIME_BITS} with p = 1 mod {2 * self.ring}"
                )
        if self.special < 4 * max(self.primes):
            raise CompileError(
                f"special prime {self.special} is less than 4 times the largest data prime {max(self.primes)}"
            )
        if self.modulus_bits > MAX_MODULUS_BITS[self.ring]:
            raise CompileError(
                f"{self.modulus_bits} modulus bits at ring {self.ring} give less than {SECURITY_BITS} bits "
                f"of security: at most {MAX_MODULUS_BITS[self.ring]} are allowed"
            )

    @property
    def exact(self) -> bool:
        """Whether messages are integers modulo `plain_modulus`; records then have factors, no scales."""
        return self.plain_modulus > 0

    @property
    def modulus_bits(self) -> int:
        """Bits of Q·P, what the security table bounds."""
        return (math.prod(self.primes) * self.special).bit_length()

    @property
    def levels(self) -> int:
        """Multiplications that a fresh ciphertext at the top can take."""
        return len(self.primes) - 1

    @property
    def slots(self) -> int:
        """Values one ciphertext holds, N/2."""
        return self.ring // 2

    @property
    def id(self) -> bytes:
        """16 bytes that name these parameters in every message."""
        text = f"{self.scheme}:{self.ring}:{self.primes}:{self.special}:{self.plain_modulus}"
        return hashlib.sha256(text.encode()).digest()[:16]
