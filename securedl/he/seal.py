"""SEAL, through TenSEAL's `sealapi`: contexts, streams, and the reference evaluator.

SEAL reads and writes only paths, so streams pass through a memory file. The streams that SEAL reads
here are written by this module from residues that `record.unpack` has checked.
"""

from __future__ import annotations

import math
import os
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
import tenseal.sealapi as seal
import zstandard
from numpy.typing import NDArray

from securedl.errors import CompileError, InputError
from securedl.he.arithmetic import Evaluator
from securedl.he.cut import cut
from securedl.he.modular import centred_residues, reduced, times
from securedl.he.params import Parameters
from securedl.he.record import SEED_BYTES, Record, Shape
from securedl.he.roots import monomial

_HEADER = struct.Struct("<HBBBBHQ")
_LIBRARY = seal.Serialization.SEALHeader()
_MAGIC, _HEADER_SIZE = _LIBRARY.magic, _LIBRARY.header_size
_VERSION = (_LIBRARY.version_major, _LIBRARY.version_minor)
_SEEDED_TAG = b"\x01"  # the Blake2xb generator
#: TenSEAL's enumeration names BFV and CKKS alone; its SEAL has BGV as number 3.
_SCHEMES = {"ckks": seal.SCHEME_TYPE.CKKS, "bgv": seal.SCHEME_TYPE(3)}


def save_stream(thing: Any) -> bytes:
    """The decompressed body of what a SEAL object writes."""
    fd = os.memfd_create("securedl")
    try:
        thing.save(f"/proc/self/fd/{fd}")
        with open(fd, "rb", buffering=0, closefd=False) as file:
            data = file.readall()
    finally:
        os.close(fd)
    compression = _HEADER.unpack_from(data)[4]
    body = data[_HEADER.size :]
    return zstandard.ZstdDecompressor().decompressobj().decompress(body) if compression else body


def load_stream(thing: Any, context: Any, body: bytes) -> Any:
    """Let a SEAL object read `body`, which this module made."""
    fd = os.memfd_create("securedl")
    try:
        for part in (_header(len(body)), body):
            left = memoryview(part)
            while left:
                left = left[os.write(fd, left) :]
        thing.load(context, f"/proc/self/fd/{fd}")
    finally:
        os.close(fd)
    return thing


def _header(length: int) -> bytes:
    return _HEADER.pack(_MAGIC, _HEADER_SIZE, *_VERSION, 0, 0, length + _HEADER_SIZE)


def _array(residues: NDArray[np.uint64]) -> bytes:
    data = np.ascontiguousarray(residues, dtype="<u8").tobytes()
    return _header(len(data) + 8) + struct.pack("<Q", residues.size) + data


@dataclass(frozen=True)
class SealContext:
    """A SEAL context for checked parameters, and conversions between records and SEAL objects."""

    params: Parameters

    @cached_property
    def context(self) -> Any:
        """The SEALContext; SEAL's own 128-bit check runs beside ours."""
        parms = seal.EncryptionParameters(_SCHEMES[self.params.scheme])
        parms.set_poly_modulus_degree(self.params.ring)
        parms.set_coeff_modulus([seal.Modulus(q) for q in (*self.params.primes, self.params.special)])
        if self.params.plain_modulus:
            parms.set_plain_modulus(self.params.plain_modulus)
        context = seal.SEALContext(parms, True, seal.SEC_LEVEL_TYPE.TC128)
        if not context.parameters_set():
            raise CompileError(f"SEAL refuses these parameters: {context.parameters_error_message()}")
        return context

    @cached_property
    def parms_ids(self) -> tuple[tuple[int, ...], ...]:
        """SEAL's name for each level, from 0; the last one is the key level."""
        data, found = self.context.first_context_data(), []
        while data is not None:
            found.append(tuple(data.parms_id()))
            data = data.next_context_data()
        return (*reversed(found), tuple(self.context.key_parms_id()))

    def ciphertext_body(self, record: Record) -> bytes:
        """SEAL's ciphertext stream for a record, seed and all."""
        shape = record.shape
        body = struct.pack("<4Q?", *self.parms_ids[shape.level], True)
        body += struct.pack(
            "<3QdQ", shape.size, self.params.ring, shape.level + 1, shape.scale, shape.correction
        )
        body += _array(record.residues)
        if record.seed is not None:
            body += _header(1 + SEED_BYTES) + _SEEDED_TAG + record.seed
        return body

    def ciphertext(self, record: Record) -> Any:
        """A SEAL ciphertext, the seed expanded by SEAL."""
        return load_stream(seal.Ciphertext(), self.context, self.ciphertext_body(record))

    def plaintext(self, record: Record) -> Any:
        """A SEAL plaintext in NTT form."""
        body = struct.pack("<4Q", *self.parms_ids[record.shape.level])
        body += struct.pack("<Qd", record.residues.size, record.shape.scale) + _array(record.residues)
        return load_stream(seal.Plaintext(), self.context, body)

    def ciphertext_record(self, body: bytes) -> Record:
        """The record in a ciphertext stream that SEAL wrote."""
        size, ring, primes, scale, correction = struct.unpack_from("<3QdQ", body, 33)
        (count,) = struct.unpack_from("<Q", body, 89)
        residues = np.frombuffer(body, "<u8", count, 97).reshape(-1, primes, ring)
        seeded = len(residues) < size
        seed = body[-SEED_BYTES:] if seeded else None
        return Record(Shape(primes - 1, size, scale, seeded, correction), residues, seed)

    def plain_coefficients(self, plain: Any) -> NDArray[np.int64]:
        """Coefficients int64 [N] of a plaintext modulo t that is not in NTT form."""
        body = save_stream(plain)
        (count,) = struct.unpack_from("<Q", body, 32)
        found = np.zeros(self.params.ring, np.int64)
        found[:count] = np.frombuffer(body, "<u8", count, len(body) - 8 * count)
        return found

    def plaintext_record(self, plain: Any, level: int) -> Record:
        """The record of an encoded plaintext in NTT form."""
        body = save_stream(plain)
        count, scale = struct.unpack_from("<Qd", body, 32)
        residues = np.frombuffer(body, "<u8", count, len(body) - 8 * count).reshape(1, level + 1, -1)
        return Record(Shape(level, 1, scale), residues)

    def key_records(self, body: bytes, index: int) -> list[Record]:
        """The digits of switch key `index` in a stream of relinearisation or Galois keys."""
        (outer,) = struct.unpack_from("<Q", body, 32)
        offset = 40
        for position in range(outer):
            (inner,) = struct.unpack_from("<Q", body, offset)
            offset += 8
            digits = []
            for _ in range(inner):
                length = _HEADER.unpack_from(body, offset)[6]
                if position == index:
                    digits.append(self.ciphertext_record(body[offset + _HEADER_SIZE : offset + length]))
                offset += length
            if position == index:
                return digits
        raise InputError(f"SEAL's keys hold no key number {index}")

    def keys_body(self, keys: dict[int, list[Record]], slots: int) -> bytes:
        """A stream of `slots` switch keys, those in `keys` present."""
        parts = [struct.pack("<4QQ", *self.parms_ids[-1], slots)]
        for index in range(slots):
            digits = keys.get(index, [])
            parts.append(struct.pack("<Q", len(digits)))
            for digit in digits:
                body = self.ciphertext_body(digit)
                parts += [_header(len(body)), body]
        return b"".join(parts)


class CkksEncoder:
    """Slots to CKKS plaintexts and back (`scheme.Encoder`)."""

    def __init__(self, context: SealContext) -> None:
        self._context = context
        self._encoder = seal.CKKSEncoder(context.context)

    def encode(self, slots: NDArray[np.float64], shape: Shape) -> Any:
        """A plaintext of slots [n] at the shape's level and scale."""
        plain = seal.Plaintext()
        parms_id = list(self._context.parms_ids[shape.level])
        self._encoder.encode(slots.tolist(), parms_id, shape.scale, plain)
        return plain

    def decode(self, plain: Any) -> NDArray[np.float64]:
        """Slots [n]."""
        return np.array(self._encoder.decode_double(plain))


def galois_element(ring: int, step: int) -> int:
    """3^step mod 2N: the automorphism that rotates left by `step` slots."""
    return pow(3, step, 2 * ring)


@dataclass(frozen=True)
class SealHandle:
    """A SEAL object with its level; of a plaintext the correction factor too, which SEAL keeps for none."""

    value: Any
    level: int
    plain: bool = False
    factor: int = 1


class SealEvaluator(Evaluator[SealHandle]):
    """The reference evaluator. SEAL's bindings hold the interpreter's lock in every call."""

    def __init__(self, params: Parameters) -> None:
        self.params = params
        self._seal = SealContext(params)
        self._evaluator = seal.Evaluator(self._seal.context)
        self._relin = seal.RelinKeys()
        self._galois = seal.GaloisKeys()

    def set_keys(self, relinearisation: list[Record], rotations: Mapping[int, list[Record]]) -> None:
        """Install switch keys; rotations by left step in slots."""
        context, ring = self._seal.context, self.params.ring
        if relinearisation:
            self._relin = load_stream(
                seal.RelinKeys(), context, self._seal.keys_body({0: relinearisation}, 1)
            )
        if rotations:
            elements = {(galois_element(ring, s) - 1) // 2: key for s, key in rotations.items()}
            self._galois = load_stream(seal.GaloisKeys(), context, self._seal.keys_body(elements, ring))

    def load(self, record: Record) -> SealHandle:
        """Checked residues to a SEAL object."""
        level = record.shape.level
        if record.shape.size == 1:
            return SealHandle(self._seal.plaintext(record), level, plain=True, factor=record.correction)
        return SealHandle(self._seal.ciphertext(record), level)

    def dump(self, handle: SealHandle) -> Record:
        """A ciphertext's residues."""
        return self._seal.ciphertext_record(save_stream(handle.value))

    def sent(self, handle: SealHandle, shape: Shape) -> Record:
        """A ciphertext's residues, or its coefficients cut."""
        if not shape.cut:
            return self.dump(handle)
        whole = seal.Ciphertext()
        self._evaluator.transform_from_ntt(handle.value, whole)
        residues = self._seal.ciphertext_record(save_stream(whole)).residues[:, 0]
        return cut(self.params, residues.astype(np.float64), float(handle.value.scale))

    def level(self, handle: SealHandle) -> int:
        """Rescales that remain."""
        return handle.level

    def scale(self, handle: SealHandle) -> float:
        """The scale SEAL keeps."""
        return float(handle.value.scale)

    def add(self, a: SealHandle, b: SealHandle) -> SealHandle:
        """a + b; scales may differ in the last bits, which SEAL itself would refuse."""
        if a.value.scale != b.value.scale:
            if not math.isclose(a.value.scale, b.value.scale, rel_tol=1e-9):
                raise InputError(f"cannot add scales {a.value.scale} and {b.value.scale}")
            a = self._with_scale(a, b.value.scale)
        out = seal.Ciphertext()
        if b.plain:
            self._evaluator.add_plain(a.value, self._residues(b) if self.params.exact else b.value, out)
        else:
            self._evaluator.add(a.value, b.value, out)
        return SealHandle(out, a.level)

    def _residues(self, plain: SealHandle) -> Any:
        """BGV's message as SEAL adds it: not in NTT form, so that it can be brought under any factor."""
        shape, stored = Shape(0, 2, 1.0), self._seal.plaintext_record(plain.value, plain.level).residues
        whole, polynomials = seal.Ciphertext(), np.ones((2, 1, self.params.ring), np.uint64)
        polynomials[0] = stored[0, 0]
        self._evaluator.transform_from_ntt(self._seal.ciphertext(Record(shape, polynomials)), whole)
        found = self._seal.ciphertext_record(save_stream(whole)).residues[0, 0]
        q, t = self.params.primes[0], self.params.plain_modulus
        residues = times(reduced(centred_residues(found.astype(np.int64), q), t), pow(plain.factor, -1, t), t)
        body = struct.pack("<4QQd", 0, 0, 0, 0, self.params.ring, 1.0) + _array(residues.astype(np.uint64))
        return load_stream(seal.Plaintext(), self._seal.context, body)

    def _with_scale(self, a: SealHandle, scale: float) -> SealHandle:
        same = seal.Ciphertext()
        self._evaluator.mod_switch_to(a.value, self._seal.parms_ids[a.level], same)
        same.scale = scale
        return SealHandle(same, a.level)

    def multiply(self, a: SealHandle, b: SealHandle) -> SealHandle:
        """a · b."""
        return SealHandle(self._under(self._product(a, b), b.factor), a.level)

    def _product(self, a: SealHandle, b: SealHandle) -> Any:
        out = seal.Ciphertext()
        (self._evaluator.multiply_plain if b.plain else self._evaluator.multiply)(a.value, b.value, out)
        return out

    def _under(self, product: Any, factor: int) -> Any:
        """A product with a plaintext, under the plaintext's factor too."""
        if factor == 1:
            return product
        record = self._seal.ciphertext_record(save_stream(product))
        correction = record.correction * factor % self.params.plain_modulus
        return self._seal.ciphertext(replace(record, shape=replace(record.shape, correction=correction)))

    def square(self, a: SealHandle) -> SealHandle:
        """a · a."""
        out = seal.Ciphertext()
        self._evaluator.square(a.value, out)
        return SealHandle(out, a.level)

    def dot(self, xs: Sequence[SealHandle], ws: Sequence[SealHandle]) -> SealHandle:
        """Σ x·w. SEAL refuses a plaintext of zeros, whose term is nothing: it is left out."""
        sums = dict[int, Any]()  # by the factor of the weights
        for x, w in zip(xs, ws, strict=True):
            if w.plain and w.value.is_zero():
                continue
            term = self._product(x, w)
            total = sums.setdefault(w.factor, term)
            if total is not term:
                term.scale = total.scale  # equal but for the last bit of a double
                self._evaluator.add_inplace(total, term)
        if not sums:
            raise InputError("all weights of a product are zero; a plain layer needs one that is not")
        total, *others = (self._under(one, factor) for factor, one in sums.items())
        for one in others:
            self._evaluator.add_inplace(total, one)
        return SealHandle(total, xs[0].level)

    def relinearise(self, a: SealHandle) -> SealHandle:
        """Back to two polynomials."""
        if a.value.size() == 2:
            return a
        out = seal.Ciphertext()
        self._evaluator.relinearize(a.value, self._relin, out)
        return SealHandle(out, a.level)

    def rescale(self, a: SealHandle) -> SealHandle:
        """Divide by the last prime and drop it."""
        if self.params.exact:  # where the noise is divided, not the message
            return self.mod_switch(a, a.level - 1)
        out = seal.Ciphertext()
        self._evaluator.rescale_to_next(a.value, out)
        return SealHandle(out, a.level - 1)

    def mod_switch(self, a: SealHandle, level: int) -> SealHandle:
        """Drop primes."""
        if a.level == level:
            return a
        out = seal.Ciphertext()
        self._evaluator.mod_switch_to(a.value, self._seal.parms_ids[level], out)
        return SealHandle(out, level)

    def moved(self, a: SealHandle, power: int, divisor: int = 1) -> SealHandle:
        """a times a monomial."""
        return self.multiply(a, self.load(monomial(self.params, a.level, power, divisor)))

    def rotate(self, a: SealHandle, steps: Sequence[int]) -> list[SealHandle]:
        """One after another: SEAL does not hoist."""
        found = []
        for step in steps:
            if step == 0:
                found.append(a)
                continue
            out = seal.Ciphertext()
            self._evaluator.apply_galois(a.value, galois_element(self.params.ring, step), self._galois, out)
            found.append(SealHandle(out, a.level))
        return found
