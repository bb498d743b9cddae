"""One set of keys: encryption, decryption and switch keys, all SEAL's. No other file names a secret key."""

from __future__ import annotations

from dataclasses import replace
from functools import cached_property
from typing import Any

import numpy as np
import tenseal.sealapi as seal

from securedl.client.coefficients import encoded, from_residues, to_residues
from securedl.errors import InputError
from securedl.he.cut import lifted
from securedl.he.params import Parameters
from securedl.he.record import Record, Shape, pack, pack_key, unpack
from securedl.he.schemes import scheme_of
from securedl.he.seal import SealContext, galois_element, load_stream, save_stream
from securedl.network.graph import Array


class Keys:
    """A secret key and what is done with it.

    Args:
        params: of the ring. body: what `body` gave of an earlier key; a new one is generated without it.
    """

    def __init__(self, params: Parameters, body: bytes | None = None) -> None:
        self.params = params
        self._context = SealContext(params)
        context = self._context.context
        if body is None:
            self._secret = seal.KeyGenerator(context).secret_key()
        else:
            self._secret = load_stream(seal.SecretKey(), context, body)
        self._encryptor = seal.Encryptor(context, self._secret)
        self._decryptor = seal.Decryptor(context, self._secret)
        self._encoder = scheme_of(params).encoder(self._context)

    def __repr__(self) -> str:
        return f"Keys(parameters {self.params.id.hex()})"

    def __reduce__(self) -> Any:
        raise TypeError("Keys hold a secret key: save the owner with a passphrase")

    def body(self) -> bytes:
        """The secret key itself, for a sealed file only."""
        return save_stream(self._secret)

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

    def encrypt(self, slots: Array, shape: Shape) -> bytes:
        """Encode slots [n] or coefficients [N], and encrypt them unless the shape is a plaintext's; packed.

        Raises:
            InputError: values too large for the modulus at that level.
        """
        return pack(self.params, self._encrypted(slots, shape))

    def _encrypted(self, slots: Array, shape: Shape) -> Record:
        if len(slots) == self.params.ring:
            record = encoded(self.params, slots, shape)
            if shape.size == 1:
                return record
            return self._hidden(record)
        try:
            plain = self._encoder.encode(slots, shape)
        except (ValueError, RuntimeError) as error:
            largest = float(np.abs(slots).max())
            raise InputError(
                f"values up to {largest:.3g} do not fit scale and level {shape.level}: {error}"
            ) from error
        if shape.size == 1:
            return self._context.plaintext_record(plain, shape.level)
        return self._context.ciphertext_record(save_stream(self._encryptor.encrypt_symmetric(plain)))

    def _hidden(self, plain: Record) -> Record:
        """A fresh encryption of zero with the plaintext added, which is how SEAL encrypts; SEAL would have to
        read the plaintext first, a tenth of the time.
        """
        shape, parms_ids = plain.shape, self._context.parms_ids
        zero = self._encryptor.encrypt_zero_symmetric(list(parms_ids[shape.level]))
        record = self._context.ciphertext_record(save_stream(zero))
        primes = np.array(self.params.primes[: shape.level + 1], dtype=np.uint64)[:, None]
        total = record.residues + plain.residues
        total -= primes * (total >= primes)
        return Record(replace(record.shape, scale=shape.scale), total, record.seed)

    def decrypt(self, data: bytes, shape: Shape, coefficients: bool = False) -> Array:
        """Slots [n] or coefficients [N] of a packed ciphertext, after every field and residue was checked.

        Raises:
            FormatError: not the record that the program names.
        """
        record = unpack(self.params, data, shape)
        if shape.cut:
            shape = replace(shape, cut=False)
            record = Record(shape, to_residues(self.params, 0, lifted(self.params, record)))
        plain = seal.Plaintext()
        self._decryptor.decrypt(self._context.ciphertext(record), plain)
        if coefficients:
            residues = self._context.plaintext_record(plain, shape.level).residues
            found: Array = from_residues(self.params, residues)[0] / shape.scale
            return found
        return self._encoder.decode(plain)
