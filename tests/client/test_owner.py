"""The secret side: what it saves, what it refuses, and what it never shows."""

from __future__ import annotations

import copy
import io
import pickle

import numpy as np
import pytest
import torch
from torch import nn

import securedl
from securedl.client import sealed
from securedl.errors import FormatError, InputError, KeyFileError
from securedl.he.record import Shape, key_shape, packed_key_length, packed_length, unpack, unpack_key
from securedl.he.seal import SealEvaluator, save_stream
from securedl.network.polynomial import PolynomialActivation

pytestmark = pytest.mark.he

X = np.random.default_rng(0).normal(size=(60, 5))


@pytest.fixture(scope="module")
def plan():
    """5-4-3 with a squaring: one level at a time at N = 4096, so keys are small."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        act = PolynomialActivation(np.array([0.5, 0.5, 0.5]), (-3, 3))
        model = nn.Sequential(nn.Linear(5, 4), act, nn.Linear(4, 3))
    return securedl.compile(model, X, batch=64, ring=4096)


@pytest.fixture(scope="module")
def owner(plan):
    return securedl.Owner(plan)


@pytest.fixture(scope="module")
def saved(owner, tmp_path_factory):
    path = tmp_path_factory.mktemp("owner") / "owner.key"
    owner.verification.ledger.checked, owner.verification.ledger.alarmed = 41, 2
    owner.save(path, "correct horse")
    return path


def test_preparing_tells_how_far_it_is(plan):
    """Tolerances and probes are one stage; nothing is told where both are there."""
    told, owner = list[tuple[str, int, int]](), securedl.Owner(plan)
    again = securedl.Owner(plan)
    assert again.verification.tolerances
    for one in (owner, again):
        told.clear()
        one.prepare(lambda *at: told.append(at))
        assert {name for name, _, _ in told} == {"probes"}
        done = [at for _, at, _ in told]
        assert done == sorted(done)
        assert told[0] == ("probes", 0, 0)
        assert told[-1][1] == told[-1][2] > 0
        told.clear()
        one.prepare(lambda *at: told.append(at))
        assert told == []


def slots(seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).uniform(-1, 1, 2048)


def query_shape(owner) -> Shape:
    return Shape(1, 2, owner.program.query.scale, True)


def expanded(owner, data: bytes, shape: Shape) -> bytes:
    """What a server that only passes a query on would send back."""
    from securedl.he.record import pack

    evaluator = SealEvaluator(owner.program.params)
    handle = evaluator.load(unpack(owner.program.params, data, shape))
    return pack(owner.program.params, evaluator.dump(handle))


class TestEncryption:
    def test_round_trip(self, owner):
        shape = query_shape(owner)
        data = owner.keys.encrypt(slots(), shape)
        assert len(data) == packed_length(owner.program.params, shape)
        np.testing.assert_allclose(owner.keys.decrypt(data, shape), slots(), atol=1e-5)
        back = expanded(owner, data, shape)
        np.testing.assert_allclose(owner.keys.decrypt(back, Shape(1, 2, shape.scale)), slots(), atol=1e-5)

    def test_equal_values_are_encrypted_differently(self, owner):
        one, two = (owner.keys.encrypt(slots(), query_shape(owner)) for _ in range(2))
        assert one[-64:] != two[-64:], "the seed"
        same = np.frombuffer(one, np.uint8)[40:] == np.frombuffer(two, np.uint8)[40:]
        assert same.mean() < 0.05

    def test_another_owner_reads_nothing(self, owner, plan):
        other = securedl.Owner(plan)
        shape = query_shape(owner)
        found = other.keys.decrypt(owner.keys.encrypt(slots(), shape), shape)
        assert np.abs(found - slots()).min() > 0
        assert np.abs(found).max() > 10

    def test_plaintexts_are_not_encrypted(self, owner):
        shape = Shape(1, 1, owner.program.query.scale)
        assert owner.keys.encrypt(slots(), shape) == owner.keys.encrypt(slots(), shape)

    def test_values_that_do_not_fit(self, owner):
        with pytest.raises(InputError, match="values up to 1e"):
            owner.keys.encrypt(slots() * 0 + 1e30, Shape(0, 2, owner.program.query.scale, True))

    def test_weights_in_order(self, owner, plan):
        shapes = owner.program.weight_shapes
        made = list(owner.weights())
        assert len(made) == len(shapes)
        for data, shape, (want_shape, values) in zip(made, shapes, plan.weight_slots(), strict=True):
            assert shape == want_shape
            np.testing.assert_allclose(owner.keys.decrypt(data, shape), values, atol=1e-5)
        some = list(owner.weights([3, 1]))
        assert len(some) == 2
        for index, data in zip((1, 3), some, strict=True):
            want = list(plan.weight_slots())[index][1]
            np.testing.assert_allclose(owner.keys.decrypt(data, shapes[index]), want, atol=1e-5)
        np.testing.assert_allclose(
            owner.keys.decrypt(owner.weight(2), shapes[2]), list(plan.weight_slots())[2][1], atol=1e-5
        )

    def test_keys(self, owner):
        params = owner.program.params
        for step in (None, *owner.program.rotations):
            data = owner.key(step)
            assert len(data) == packed_key_length(params)
            assert {r.shape for r in unpack_key(params, data)} == {key_shape(params)}


class TestRefusals:
    @pytest.mark.parametrize(
        "change",
        [
            lambda s: Shape(0, 2, s.scale, True),
            lambda s: Shape(s.level, 3, s.scale),
            lambda s: Shape(s.level, 2, s.scale),
            lambda s: Shape(s.level, 2, s.scale * 2, True),
        ],
    )
    def test_another_shape(self, owner, change):
        shape = query_shape(owner)
        with pytest.raises(FormatError):
            owner.keys.decrypt(owner.keys.encrypt(slots(), shape), change(shape))

    def test_damaged_bytes(self, owner):
        shape = query_shape(owner)
        data = owner.keys.encrypt(slots(), shape)
        for bad in (b"", data[:-1], data + b"\0", bytes(len(data)), data[:40] + b"\xff" * 100 + data[140:]):
            with pytest.raises(FormatError):
                owner.keys.decrypt(bad, shape)

    def test_no_pickle_and_no_copy(self, owner):
        for attempt in (pickle.dumps, copy.copy, copy.deepcopy):
            with pytest.raises(TypeError, match="secret key"):
                attempt(owner)

    def test_nothing_secret_is_shown(self, owner):
        text = f"{owner!r} {owner} {owner.verification!r}"[:10_000]
        assert repr(owner).splitlines()[0] == f"Owner of model {owner.model_id.hex()}"
        assert not set("[]{}'") & set(repr(owner))  # no array, no bytes, no dictionary
        text += owner._repr_html_()
        assert owner._key_id.hex() not in text
        assert "SecretKey" not in text

    def test_public_bytes_hold_no_secret(self, owner, plan):
        """Neither the program nor a key or query carries the secret polynomial."""
        secret = save_stream(owner.keys._secret)[-8 * 4096 :]
        public = [plan.program.to_json(), owner.key(None), owner.keys.encrypt(slots(), query_shape(owner))]
        public += [plan.to_bytes()]
        for data in public:
            assert secret[:64] not in data


class TestModelId:
    def test_it_names_program_and_key(self, owner, plan):
        other = securedl.Owner(plan)
        assert len(owner.model_id) == 16
        assert owner.model_id != other.model_id
        assert owner.model_id == owner.model_id
        assert owner.program.id == other.program.id


class TestSaving:
    def test_everything_comes_back(self, owner, saved):
        found = securedl.Owner.load(saved, "correct horse")
        assert found.model_id == owner.model_id
        assert found.program == owner.program
        assert found.plan.to_bytes() == owner.plan.to_bytes()
        assert (found.verification.ledger.checked, found.verification.ledger.alarmed) == (41, 2)
        shape = query_shape(owner)
        np.testing.assert_array_equal(
            *(
                who.keys.decrypt(data, shape)
                for data in [owner.keys.encrypt(slots(), shape)]
                for who in (owner, found)
            )
        )
        np.testing.assert_allclose(
            owner.keys.decrypt(found.keys.encrypt(slots(), shape), shape), slots(), atol=1e-5
        )

    def test_it_keeps_its_probes(self, owner, tmp_path):
        known = owner.verification.probes
        owner.save(tmp_path / "key", passphrase="p")
        found = securedl.Owner.load(tmp_path / "key", passphrase="p").verification.probes
        np.testing.assert_array_equal(found.fingerprint.samples, known.fingerprint.samples)

    def test_the_file(self, owner, saved):
        assert saved.stat().st_mode & 0o077 == 0
        assert [p.name for p in saved.parent.iterdir()] == [saved.name]
        data = saved.read_bytes()
        assert save_stream(owner.keys._secret)[-1000:-900] not in data
        assert b"checkpoints" not in data, "the plan is sealed too"

    def test_the_same_owner_is_sealed_differently(self, owner, saved, tmp_path):
        owner.save(tmp_path / "again", "correct horse")
        assert (tmp_path / "again").read_bytes()[9:37] != saved.read_bytes()[9:37], "salt and nonce"

    @pytest.mark.parametrize("passphrase", ["wrong", "Correct horse", "correct horse ", ""])
    def test_a_wrong_passphrase(self, saved, passphrase):
        with pytest.raises(KeyFileError, match="wrong passphrase"):
            securedl.Owner.load(saved, passphrase)

    def test_an_empty_passphrase(self, owner, tmp_path):
        with pytest.raises(InputError, match="passphrase is empty"):
            owner.save(tmp_path / "key", "")
        assert not list(tmp_path.iterdir())

    @pytest.mark.parametrize("keep", [0, 7, 8, 36, 37, 52, 60, 1000, -1])
    def test_truncated(self, saved, tmp_path, keep):
        (tmp_path / "key").write_bytes(saved.read_bytes()[:keep])
        with pytest.raises(KeyFileError):
            securedl.Owner.load(tmp_path / "key", "correct horse")

    @pytest.mark.parametrize("offset", [0, 7, 8, 9, 24, 25, 36, 37, 38, 5000, -1])
    def test_a_flipped_bit(self, saved, tmp_path, offset):
        data = bytearray(saved.read_bytes())
        data[offset] ^= 4
        (tmp_path / "key").write_bytes(data)
        with pytest.raises(KeyFileError):
            securedl.Owner.load(tmp_path / "key", "correct horse")

    def test_extended(self, saved, tmp_path):
        (tmp_path / "key").write_bytes(saved.read_bytes() + b"\0")
        with pytest.raises(KeyFileError):
            securedl.Owner.load(tmp_path / "key", "correct horse")

    def test_other_files(self, plan, tmp_path):
        with pytest.raises(KeyFileError, match="cannot read"):
            securedl.Owner.load(tmp_path / "none", "p")
        with pytest.raises(KeyFileError, match="cannot read"):
            securedl.Owner.load(tmp_path, "p")
        plan.save(tmp_path / "plan")
        with pytest.raises(KeyFileError, match="not a saved owner"):
            securedl.Owner.load(tmp_path / "plan", "p")

    def test_an_unwritable_place_leaves_nothing(self, owner, saved, tmp_path, monkeypatch):
        with pytest.raises(InputError, match="cannot write"):
            owner.save(tmp_path / "missing" / "key", "p")
        (tmp_path / "folder").mkdir()
        with pytest.raises(InputError, match="cannot write"):
            owner.save(tmp_path / "folder", "p")
        assert [p.name for p in tmp_path.iterdir()] == ["folder"]

    def test_a_full_disk_keeps_the_old_file(self, owner, tmp_path, monkeypatch):
        path = tmp_path / "key"
        path.write_bytes(b"old")

        def full(fd):
            raise OSError(28, "No space left on device")

        monkeypatch.setattr("os.fsync", full)
        with pytest.raises(InputError, match="No space left"):
            owner.save(path, "p")
        assert path.read_bytes() == b"old"
        assert [p.name for p in tmp_path.iterdir()] == ["key"]

    def test_what_is_inside_is_no_pickle(self, saved):
        data = saved.read_bytes()
        _, _, salt, nonce = sealed._FILE.unpack_from(data)
        head = sealed._FILE.size
        opened = sealed.AESGCM(sealed._derive("correct horse", salt)).decrypt(nonce, data[head:], data[:head])
        with np.load(io.BytesIO(opened), allow_pickle=False) as arrays:
            assert {"plan", *(f"channel0.{name}" for name in ("key", "key_id", "ledger"))} <= set(arrays)
