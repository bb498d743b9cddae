"""The one secret side: keys, encoding, encryption, decryption, all SEAL's. No other file sees a key."""

from __future__ import annotations

import hashlib
import io
import secrets
import struct
from collections.abc import Iterable, Iterator
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import tenseal.sealapi as seal
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from securedl.arguments import check_passphrase
from securedl.arguments import path as checked_path
from securedl.client.checks import check_plan
from securedl.client.display import owner_card
from securedl.client.verification import Verification
from securedl.errors import InputError, KeyFileError
from securedl.files import ARCHIVE, OWNER, write_atomically
from securedl.he.record import Record, Shape, pack, pack_key, unpack
from securedl.he.seal import SealContext, galois_element, load, save
from securedl.network.graph import Array
from securedl.plan.plan import Plan, plan_from_bytes
from securedl.program.program import Program

_FILE = struct.Struct("<8sB16s12s")
_MAGIC = OWNER
_VERSION = 1


class Owner:
    """The secret side of one plan.

    Args:
        plan: what was compiled. A new secret key is generated for it.

    Raises:
        InputError: not a plan.

    Attributes:
        plan: the plan. verification: probes with their tolerances, and what has been seen so far.
    """

    def __init__(self, plan: Plan) -> None:
        check_plan(plan)
        context = SealContext(plan.program.params)
        key = seal.KeyGenerator(context.context).secret_key()
        self._set(plan, context, key, secrets.token_bytes(16), Verification(plan))

    def _set(
        self, plan: Plan, context: SealContext, key: Any, key_id: bytes, verification: Verification
    ) -> None:
        self.plan, self.verification = plan, verification
        self._context, self._secret, self._key_id = context, key, key_id
        self._encryptor = seal.Encryptor(context.context, key)
        self._decryptor = seal.Decryptor(context.context, key)
        self._encoder = seal.CKKSEncoder(context.context)

    def __repr__(self) -> str:
        return owner_card(self.model_id, self.plan, self.verification).text()

    def _repr_html_(self) -> str:
        return owner_card(self.model_id, self.plan, self.verification).html()

    def __reduce__(self) -> Any:
        raise TypeError("an Owner holds a secret key: use save with a passphrase")

    @property
    def program(self) -> Program:
        """The public program."""
        return self.plan.program

    @property
    def model_id(self) -> bytes:
        """16 bytes that name the program together with this key set."""
        return hashlib.sha256(self.program.id + self._key_id).digest()[:16]

    @cached_property
    def _generator(self) -> Any:
        return seal.KeyGenerator(self._context.context, self._secret)

    def key(self, step: int | None) -> bytes:
        """A packed switch key: for a left rotation of `step` slots, or for relinearisation (None).

        Fresh randomness each time; any of the keys works.
        """
        ring = self.program.params.ring
        if step is None:
            records = self._context.key_records(save(self._generator.create_relin_keys()), 0)
        else:
            element = galois_element(ring, step)
            # The list holds Galois elements, not steps: [1, 5] would silently make keys for elements 1 and 5.
            body = save(self._generator.create_galois_keys([element]))
            records = self._context.key_records(body, (element - 1) // 2)
        return pack_key(self.program.params, records)

    def weight(self, index: int) -> bytes:
        """Packed weight `index` of the program, encrypted afresh."""
        return next(iter(self.weights([index])))

    def weights(self, indices: Iterable[int] | None = None) -> Iterator[bytes]:
        """Packed weights in ascending order of `indices` (all by default), encrypted afresh."""
        wanted = None if indices is None else set(indices)
        for index, (shape, slots) in enumerate(self.plan.weight_slots()):
            if wanted is None or index in wanted:
                yield self.encrypt(slots, shape)

    def encrypt(self, slots: Array, shape: Shape) -> bytes:
        """Encode slots [n], and encrypt them unless the shape is a plaintext's; packed bytes.

        Raises:
            InputError: values too large for the modulus at that level.
        """
        return pack(self.program.params, self._encrypted(slots, shape))

    def _encrypted(self, slots: Array, shape: Shape) -> Record:
        plain = seal.Plaintext()
        try:
            parms_id = list(self._context.parms_ids[shape.level])
            self._encoder.encode(slots.tolist(), parms_id, shape.scale, plain)
        except (ValueError, RuntimeError) as error:
            largest = float(np.abs(slots).max())
            raise InputError(
                f"values up to {largest:.3g} do not fit scale and level {shape.level}: {error}"
            ) from error
        if shape.size == 1:
            return self._context.plaintext_record(plain, shape.level)
        return self._context.ciphertext_record(save(self._encryptor.encrypt_symmetric(plain)))

    def decrypt(self, data: bytes, shape: Shape) -> Array:
        """Slots [n] of a packed ciphertext, after every field and residue was checked.

        Raises:
            FormatError: not the record that the program names.
        """
        record = unpack(self.program.params, data, shape)
        plain = seal.Plaintext()
        self._decryptor.decrypt(self._context.ciphertext(record), plain)
        return np.array(self._encoder.decode_double(plain))

    def save(self, path: str | Path, passphrase: str) -> None:
        """Write keys, plan and verification state, sealed by AES-256-GCM under scrypt(passphrase).

        Raises:
            InputError: an empty passphrase, or a path that cannot be written; nothing is left half-written.
        """
        target = checked_path(path, "Owner.save")
        check_passphrase(passphrase)
        if not passphrase:
            raise InputError("the passphrase is empty: the file holds the secret key")
        buffer = io.BytesIO()
        np.savez(
            buffer,
            key=np.frombuffer(save(self._secret), np.uint8),
            key_id=np.frombuffer(self._key_id, np.uint8),
            plan=np.frombuffer(self.plan.to_bytes(), np.uint8),
            **self.verification.to_arrays(),
        )
        salt, nonce = secrets.token_bytes(16), secrets.token_bytes(12)
        header = _FILE.pack(_MAGIC, _VERSION, salt, nonce)
        sealed = AESGCM(_derive(passphrase, salt)).encrypt(nonce, buffer.getvalue(), header)
        write_atomically(target, header + sealed)

    @classmethod
    def load(cls, path: str | Path, passphrase: str) -> Owner:
        """The owner that `save` wrote.

        Raises:
            KeyFileError: no such file, not an owner's file, a wrong passphrase or a damaged file.
            InputError: a path or a passphrase of a wrong type.
        """
        source = checked_path(path, "Owner.load")
        check_passphrase(passphrase)
        try:
            data = source.read_bytes()
        except OSError as error:
            raise KeyFileError(f"cannot read {path}: {error.strerror}") from error
        if len(data) < _FILE.size or data[:8] != _MAGIC:
            hint = "; it may be a saved plan: securedl.load_plan(path)" if data[:2] == ARCHIVE else ""
            raise KeyFileError(f"{path} is not a saved owner{hint}")
        _, version, salt, nonce = _FILE.unpack_from(data)
        if version != _VERSION:
            raise KeyFileError(f"{path} has version {version}, this program reads {_VERSION}")
        try:
            opened = AESGCM(_derive(passphrase, salt)).decrypt(nonce, data[_FILE.size :], data[: _FILE.size])
        except InvalidTag:
            raise KeyFileError(f"{path} cannot be opened: wrong passphrase, or the file is damaged") from None
        with np.load(io.BytesIO(opened), allow_pickle=False) as arrays:
            plan = plan_from_bytes(arrays["plan"].tobytes())
            context = SealContext(plan.program.params)
            key = load(seal.SecretKey(), context.context, arrays["key"].tobytes())
            owner = cls.__new__(cls)
            verification = Verification.from_arrays(plan, arrays)
            owner._set(plan, context, key, arrays["key_id"].tobytes(), verification)
        return owner


def _derive(passphrase: str, salt: bytes) -> bytes:
    # 2^15 · 8 · 128 bytes = 32 MiB and about 0.1 s a guess.
    return hashlib.scrypt(passphrase.encode(), salt=salt, dklen=32, n=1 << 15, r=8, p=1, maxmem=1 << 26)
