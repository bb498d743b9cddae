"""One set of keys: encryption, decryption and switch keys, all SEAL's. No other file names a secret key."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import cached_property, partial
from typing import Any

import numpy as np
import tenseal.sealapi as seal

from securedl.client.zeros import Zeros, added
from securedl.errors import FormatError, InputError
from securedl.he.clear import embedding
from securedl.he.cut import lifted
from securedl.he.modular import centred_residues, multiplied
from securedl.he.params import Parameters
from securedl.he.record import Record, Shape, pack, pack_key, unpack
from securedl.he.scheme import Slots
from securedl.he.schemes import scheme_of
from securedl.he.seal import SealContext, galois_element, load_stream, save_stream

# `coefficients` is imported late: a process that makes nothing but encryptions of zero starts three times as
# fast, and is a third as large, without its kernels.


class Keys:
    """A secret key and what is done with it.

    Args:
        params: of the ring. body: what `body` gave of an earlier key; a new one is generated without it.
        ahead: how many encryptions of zero of each level are made ahead in idle time.

    Attributes:
        zeros: those.
    """

    def __init__(
        self, params: Parameters, body: bytes | None = None, ahead: Mapping[int, int] | None = None
    ) -> None:
        self.params = params
        self._context = SealContext(params)
        context = self._context.context
        if body is None:
            self._secret = seal.KeyGenerator(context).secret_key()
        else:
            self._secret = load_stream(seal.SecretKey(), context, body)
        self._decryptor = seal.Decryptor(context, self._secret)
        self._encoder = None if params.exact else scheme_of(params).encoder(self._context)
        self._zero = partial(_zero, self._context, seal.Encryptor(context, self._secret))
        self.zeros = Zeros(self._zero, ahead or {})

    def __repr__(self) -> str:
        return f"Keys(parameters {self.params.id.hex()})"

    def __reduce__(self) -> Any:
        raise TypeError("Keys hold a secret key: save the owner with a passphrase")

    def body(self) -> bytes:
        """The secret key itself, for a sealed file only."""
        return save_stream(self._secret)

    @cached_property
    def slot_squares(self) -> Slots:
        """|s|² of the secret key s in each slot, [n], which makes rounding errors large; as secret as it."""
        shape = Shape(0, 2, 1.0)
        polynomials = np.zeros((2, 1, self.params.ring), np.uint64)
        polynomials[1] = 1  # what decrypts to 0 + 1·s
        record = pack(self.params, Record(shape, polynomials))
        values = embedding(self.params.ring).values(self.decrypt(record, shape, coefficients=True))
        return np.asarray(values.real**2 + values.imag**2)

    @cached_property
    def _generator(self) -> Any:
        return seal.KeyGenerator(self._context.context, self._secret)

    def switch_key(self, step: int | None) -> bytes:
        """A packed switch key: for a left rotation of `step` slots, or for relinearisation (None).

        Fresh randomness each time; any of the keys works.
        """
        if step is None:
            records = self._context.key_records(save_stream(self._generator.create_relin_keys()), 0)
        else:
            element = galois_element(self.params.ring, step)
            # The list holds Galois elements, not steps: [1, 5] would silently make keys for elements 1 and 5.
            body = save_stream(self._generator.create_galois_keys([element]))
            records = self._context.key_records(body, (element - 1) // 2)
        return pack_key(self.params, records)

    def zero(self, level: int) -> Record:
        """A fresh encryption of zero, its second polynomial a seed."""
        return self._zero(level)

    def encrypt(self, values: Slots, shape: Shape, zero: Callable[[int], Record] | None = None) -> bytes:
        """Encode slots [n] or coefficients [N], and encrypt them unless the shape is a plaintext's; packed.
        Values of BGV are whole numbers, and its slots [2, N/2].

        Args:
            zero: gives an encryption of zero of a level, which nobody else has or will have: as
                `zeros.take`. Else it is made here.

        Raises:
            InputError: values too large for the modulus at that level, or for the plain modulus.
        """
        from securedl.client.coefficients import encoded

        record = self._exactly(values, shape) if self.params.exact else encoded(self.params, values, shape)
        if shape.size > 1:
            record = added(self.params, record, (zero or self._zero)(shape.level))
        return pack(self.params, record)

    def _exactly(self, values: Slots, shape: Shape) -> Record:
        """The plaintext of whole numbers times their correction factor."""
        from securedl.client.batching import batched
        from securedl.client.coefficients import to_residues

        t, largest = self.params.plain_modulus, float(np.abs(values).max())
        if not largest <= t // 2:
            raise InputError(f"values up to {largest:.3g} do not fit the plain modulus {t}")
        if values.ndim == 1:
            coefficients = multiplied(values, shape.correction, t)
        else:
            coefficients = batched(values, shape.correction, self.params.ring, t)
        residues = to_residues(self.params, shape.level, coefficients[None])
        return Record(replace(shape, size=1, seeded=False), residues)

    def decrypt(self, data: bytes, shape: Shape, coefficients: bool = False) -> Slots:
        """Slots [n] (of BGV [2, N/2]) or coefficients [N] of a packed ciphertext, after every field and
        residue was checked.

        Raises:
            FormatError: not the record that the program names.
        """
        from securedl.client.coefficients import from_residues, to_residues

        record = unpack(self.params, data, shape)
        if shape.cut:
            shape = replace(shape, cut=False)
            record = Record(shape, to_residues(self.params, 0, lifted(self.params, record)))
        plain = seal.Plaintext()
        try:
            self._decryptor.decrypt(self._context.ciphertext(record), plain)
        except RuntimeError as error:  # nothing that a program names: every field was compared with it
            raise FormatError(f"SEAL cannot decrypt this ciphertext: {error}") from error
        if self.params.exact:
            t = self.params.plain_modulus
            whole = centred_residues(self._context.plain_coefficients(plain), t).astype(np.float64)
            return whole if coefficients else self._unbatched(whole)
        if coefficients:
            residues = self._context.plaintext_record(plain, shape.level).residues
            found: Slots = from_residues(self.params, residues)[0] / shape.scale
            return found
        assert self._encoder is not None
        return self._encoder.decode(plain)

    def _unbatched(self, coefficients: Slots) -> Slots:
        """Whole numbers [2, N/2] in the slots of a polynomial."""
        from securedl.client.batching import unbatched

        t = self.params.plain_modulus
        return centred_residues(unbatched(coefficients, self.params.ring, t), t).astype(np.float64)


def _zero(context: SealContext, encryptor: Any, level: int) -> Record:
    zero = encryptor.encrypt_zero_symmetric(list(context.parms_ids[level]))
    return context.ciphertext_record(save_stream(zero))
