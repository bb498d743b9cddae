"""SEAL as the oracle of the vector evaluator: keys, streams from residues, and SEAL's own operations."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import Any

import numpy as np
import tenseal.sealapi as seal

from securedl.he.params import Parameters, ntt_primes
from securedl.he.record import Record, Shape
from securedl.he.seal import SealContext, SealEvaluator, galois_element, save_stream
from securedl.he.vector import Handle, VectorEvaluator

#: Steps that an oracle has rotation keys for, unless it is made for fewer.
STEPS = (1, 2, 3, 5, 8, 64, 1000, 1024)
#: How residues are drawn.
KINDS = ("random", "zero", "one", "largest", "mixed", "middle")


def make_parameters(scheme: str, ring: int, bits: tuple[int, ...], special: int, t: int = 0) -> Parameters:
    """A chain with primes of exactly these sizes."""
    sources = {b: ntt_primes(ring, b) for b in {*bits, special}}
    last = next(sources[special])
    return Parameters(
        scheme, ring, tuple(next(q for q in sources[b] if 4 * q <= last) for b in bits), last, t
    )


@dataclass(frozen=True)
class Oracle:
    """One set of parameters with SEAL's secret key, its evaluator, and the vector evaluators under test.

    `steps`: those that there are rotation keys for.
    """

    params: Parameters
    steps: tuple[int, ...] = STEPS

    @cached_property
    def seal(self) -> SealContext:
        return SealContext(self.params)

    @cached_property
    def generator(self) -> Any:
        return seal.KeyGenerator(self.seal.context)

    @cached_property
    def relinearisation(self) -> list[Record]:
        return self.seal.key_records(save_stream(self.generator.create_relin_keys()), 0)

    @cached_property
    def rotations(self) -> dict[int, list[Record]]:
        found = {}
        for step in self.steps:
            element = galois_element(self.params.ring, step)
            keys = save_stream(self.generator.create_galois_keys([element]))
            found[step] = self.seal.key_records(keys, (element - 1) // 2)
        return found

    @cached_property
    def reference(self) -> SealEvaluator:
        evaluator = SealEvaluator(self.params)
        evaluator.set_keys(self.relinearisation, self.rotations)
        return evaluator

    def vector(self, threads: int = 1, exact: bool = False) -> VectorEvaluator:
        evaluator = VectorEvaluator(self.params, threads, exact)
        evaluator.set_keys(self.relinearisation, self.rotations)
        return evaluator

    def record(
        self, rng: np.random.Generator, size: int, level: int, kind: str = "random", correction: int = 1
    ) -> Record:
        """A record with residues of one kind, the second polynomial never constant: SEAL refuses zeros."""
        primes = np.array(self.params.primes[: level + 1], dtype=np.uint64)[None, :, None]
        shape = (size, level + 1, self.params.ring)
        draw = rng.integers(0, primes, shape, dtype=np.uint64)
        ends = np.where(rng.integers(0, 2, shape, dtype=np.uint8) == 1, primes - np.uint64(1), np.uint64(0))
        residues = {
            "random": draw,
            "zero": np.zeros(shape, np.uint64),
            "one": np.ones(shape, np.uint64),
            "largest": np.broadcast_to(primes - np.uint64(1), shape),
            "mixed": ends,
            "middle": np.broadcast_to(primes // np.uint64(2) + rng.integers(0, 2, shape, np.uint64), shape),
        }[kind]
        residues = np.ascontiguousarray(residues, dtype=np.uint64)
        if kind in ("zero", "one", "largest") and size > 1:
            residues[1, :, ::16] = draw[1, :, ::16]
        return Record(Shape(level, size, 1.0, correction=correction), residues)

    def decrypt(self, record: Record) -> np.ndarray:
        """The slots (CKKS) or the slots' integers (BGV) of a ciphertext."""
        plain = seal.Plaintext()
        decryptor = seal.Decryptor(self.seal.context, self.generator.secret_key())
        decryptor.decrypt(self.seal.ciphertext(record), plain)
        if self.params.scheme == "ckks":
            return np.array(seal.CKKSEncoder(self.seal.context).decode_double(plain))
        return np.array(seal.BatchEncoder(self.seal.context).decode_uint64(plain))

    def encrypt(self, values: np.ndarray, scale: float = 1.0) -> Record:
        """A fresh ciphertext at the top level."""
        plain = seal.Plaintext()
        if self.params.scheme == "ckks":
            seal.CKKSEncoder(self.seal.context).encode(values.tolist(), scale, plain)
        else:
            seal.BatchEncoder(self.seal.context).encode(values.tolist(), plain)
        encryptor = seal.Encryptor(self.seal.context, self.generator.secret_key())
        return self.seal.ciphertext_record(save_stream(encryptor.encrypt_symmetric(plain)))


@lru_cache(maxsize=4)
def oracle(scheme: str, ring: int, bits: tuple[int, ...], special: int, t: int = 0) -> Oracle:
    """The same oracle for tests of one set of parameters that follow each other: keys take much memory."""
    return Oracle(make_parameters(scheme, ring, bits, special, t))


def same(vector: VectorEvaluator, handle: Handle, expected: Record) -> bool:
    """Whether a handle holds exactly SEAL's residues and factor."""
    found = vector.dump(handle)
    return (
        found.shape.level == expected.shape.level
        and found.shape.size == expected.shape.size
        and found.correction == expected.correction
        and found.shape.scale == expected.shape.scale
        and bool(np.array_equal(found.residues, expected.residues))
    )
