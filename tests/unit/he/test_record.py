"""Records: what is packed comes back, and nothing else is accepted."""

from __future__ import annotations

import dataclasses
import struct

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from securedl.errors import FormatError
from securedl.he.ckks import ckks_parameters, coefficient_parameters
from securedl.he.record import (
    HEADER,
    Record,
    Shape,
    chain,
    key_shape,
    pack,
    pack_key,
    packed_key_length,
    packed_length,
    residue_bytes,
    unpack,
    unpack_key,
)

PARAMS = ckks_parameters(4096, 1)  # primes of 37 and 30 bits, special 39: 5, 4 and 5 bytes
BGV = dataclasses.replace(PARAMS, scheme="bgv", plain_modulus=65537)
SCALE = 2.0**30 * 1.1


def record(shape: Shape, seed: int = 0, params=PARAMS) -> Record:
    random = np.random.default_rng(seed)
    primes = np.array(chain(params, shape.level), dtype=np.uint64)[:, None]
    stored = shape.size - shape.seeded
    residues = random.integers(0, primes, (stored, len(primes), params.ring), dtype=np.uint64)
    residues[0, :, :2] = 0
    residues[-1, :, -2:] = primes - np.uint64(1)
    return Record(shape, residues, random.bytes(64) if shape.seeded else None)


shapes = st.builds(
    Shape,
    level=st.integers(0, 2),
    size=st.integers(1, 3),
    scale=st.floats(1e-300, 1e300),
    seeded=st.booleans(),
).map(lambda s: dataclasses.replace(s, seeded=s.seeded and s.size == 2))


@settings(max_examples=30)
@given(shapes, st.integers(0, 1000), st.sampled_from([bytes, bytearray, memoryview]))
def test_round_trip(shape, seed, kind):
    given_record = record(shape, seed)
    data = pack(PARAMS, given_record)
    assert len(data) == packed_length(PARAMS, shape)
    found = unpack(PARAMS, kind(data), shape)
    assert found.shape == shape
    np.testing.assert_array_equal(found.residues, given_record.residues)
    assert found.seed == given_record.seed
    assert found.correction == 1
    assert pack(PARAMS, found) == data


def test_the_header_by_hand():
    """The table in the module's text, byte by byte."""
    data = pack(PARAMS, record(Shape(1, 2, 3.5, True)))
    assert data[:4] == b"SDL1"
    assert data[4:20] == PARAMS.id
    assert tuple(data[20:24]) == (1, 2, 1, 0)
    assert struct.unpack("<dQ", data[24:40]) == (3.5, 1)
    assert len(data) == 40 + 4096 * (5 + 4) + 64


def test_residues_by_hand():
    given_record = record(Shape(1, 1, 1.0))
    data = pack(PARAMS, given_record)
    first, second = given_record.residues[0]
    assert int.from_bytes(data[40 + 5 * 7 : 40 + 5 * 8], "little") == first[7]
    start = 40 + 5 * 4096 + 4 * 9
    assert int.from_bytes(data[start : start + 4], "little") == second[9]


@pytest.mark.parametrize(("prime", "count"), [(255, 1), (256, 2), ((1 << 40) - 1, 5), (1 << 40, 6)])
def test_residue_bytes(prime, count):
    assert residue_bytes(prime) == count


SHAPE = Shape(1, 2, SCALE, True)
DATA = pack(PARAMS, record(SHAPE))


def changed(offset: int, value: bytes) -> bytes:
    return DATA[:offset] + value + DATA[offset + len(value) :]


@pytest.mark.parametrize("offset", range(40))
@pytest.mark.parametrize("bit", [0, 7])
def test_any_bit_of_the_header_counts(offset, bit):
    with pytest.raises(FormatError):
        unpack(PARAMS, changed(offset, bytes([DATA[offset] ^ 1 << bit])), SHAPE)


@pytest.mark.parametrize("scale", [np.nan, np.inf, -SCALE, 0.0, np.nextafter(SCALE, 0)])
def test_other_scales_are_refused(scale):
    with pytest.raises(FormatError, match="scale"):
        unpack(PARAMS, changed(24, struct.pack("<d", scale)), SHAPE)


@pytest.mark.parametrize(
    "expected",
    [
        Shape(0, 2, SCALE, True),
        Shape(1, 3, SCALE, True),
        Shape(1, 2, SCALE),
        Shape(1, 1, SCALE),
        Shape(1, 2, SCALE * 2, True),
    ],
)
def test_another_shape_is_refused(expected):
    with pytest.raises(FormatError):
        unpack(PARAMS, DATA, expected)


def test_same_length_other_shape_is_refused():
    """A header that lies about level or size, with the expected length."""
    for offset, value in ((20, 0), (20, 2), (20, 255), (21, 1), (21, 3), (22, 0), (22, 2), (22, 255)):
        with pytest.raises(FormatError, match="should be"):
            unpack(PARAMS, changed(offset, bytes([value])), SHAPE)


@pytest.mark.parametrize("cut", [0, 1, 39, 40, len(DATA) - 64, len(DATA) - 1])
def test_truncated(cut):
    with pytest.raises(FormatError, match="bytes was expected"):
        unpack(PARAMS, DATA[:cut], SHAPE)


@pytest.mark.parametrize("extra", [b"\0", DATA])
def test_extended(extra):
    with pytest.raises(FormatError, match="bytes was expected"):
        unpack(PARAMS, DATA + extra, SHAPE)


@pytest.mark.parametrize("index", [0, 1, 4095])
@pytest.mark.parametrize("which", [0, 1])
@pytest.mark.parametrize("above", [0, 1, "all"])
def test_a_residue_must_be_below_its_prime(index, which, above):
    prime = PARAMS.primes[which]
    width = residue_bytes(prime)
    value = (1 << 8 * width) - 1 if above == "all" else prime + above
    offset = HEADER.size + (0 if which == 0 else 5 * 4096) + width * index
    with pytest.raises(FormatError, match=f"below its prime {prime}"):
        unpack(PARAMS, changed(offset, value.to_bytes(width, "little")), SHAPE)
    just = unpack(PARAMS, changed(offset, (prime - 1).to_bytes(width, "little")), SHAPE)
    assert just.residues[0, which, index] == prime - 1


def test_other_parameters_are_refused():
    with pytest.raises(FormatError, match="other encryption parameters"):
        unpack(BGV, DATA, SHAPE)


def test_correction_factors_are_bgv_only():
    data = pack(PARAMS, record(dataclasses.replace(SHAPE, correction=3)))
    with pytest.raises(FormatError, match="CKKS record has correction factor 1, got 3"):
        unpack(PARAMS, data, SHAPE)


@pytest.mark.parametrize("due", [1, 3, 65536])
@pytest.mark.parametrize("sent", [0, 1, 2, 3, 65536, 65537, 65538, 2**64 - 1])
def test_bgv_has_the_factor_that_the_program_names(due, sent):
    shape, other = (dataclasses.replace(SHAPE, correction=factor) for factor in (due, sent))
    data = pack(BGV, record(other, params=BGV))
    if sent == due:
        assert unpack(BGV, data, shape).correction == due
        return
    with pytest.raises(FormatError, match=f"BGV record has correction factor {due}, got {sent}"):
        unpack(BGV, data, shape)


@settings(max_examples=50)
@given(st.binary(max_size=200))
def test_noise_is_refused(data):
    with pytest.raises(FormatError):
        unpack(PARAMS, data, SHAPE)
    with pytest.raises(FormatError):
        unpack_key(PARAMS, data)


def test_keys_round_trip():
    digits = [record(key_shape(PARAMS), seed) for seed in range(2)]
    data = pack_key(PARAMS, digits)
    assert len(data) == packed_key_length(PARAMS)
    for found, digit in zip(unpack_key(PARAMS, data), digits, strict=True):
        np.testing.assert_array_equal(found.residues, digit.residues)
        assert found.seed == digit.seed


def test_damaged_keys_are_refused():
    data = pack_key(PARAMS, [record(key_shape(PARAMS), seed) for seed in range(2)])
    half = len(data) // 2
    for bad in (data[:-1], data + b"\0", data[:half], b""):
        with pytest.raises(FormatError, match="bytes was expected"):
            unpack_key(PARAMS, bad)
    for offset in (0, 5, 20, half, half + 21):
        with pytest.raises(FormatError):
            unpack_key(PARAMS, data[:offset] + bytes([data[offset] ^ 1]) + data[offset + 1 :])


ONE = coefficient_parameters()
CUT = Shape(0, 2, SCALE, cut=True)


def cut_record(seed: int = 0) -> Record:
    residues = np.random.default_rng(seed).integers(0, 1 << 32, (2, 1, ONE.ring), dtype=np.uint64)
    residues[:, 0, :2] = 0, (1 << 32) - 1
    return Record(CUT, residues)


def test_cut_records_come_back_in_four_bytes_a_coefficient():
    given_record = cut_record()
    data = pack(ONE, given_record)
    assert len(data) == packed_length(ONE, CUT) == HEADER.size + 2 * ONE.ring * 4
    assert data[23] == 1
    assert data[HEADER.size :] == given_record.residues.astype("<u4").tobytes()
    found = unpack(ONE, data, CUT)
    assert found.shape == CUT
    np.testing.assert_array_equal(found.residues, given_record.residues)


@pytest.mark.parametrize("flag", [0, 2, 255])
def test_the_flag_of_a_cut_record(flag):
    data = bytearray(pack(ONE, cut_record()))
    data[23] = flag
    with pytest.raises(FormatError, match="not a record of this version"):
        unpack(ONE, bytes(data), CUT)


@pytest.mark.parametrize("flag", [1, 2, 255])
def test_the_flag_of_a_whole_record(flag):
    with pytest.raises(FormatError, match="not a record of this version"):
        unpack(PARAMS, changed(23, bytes([flag])), SHAPE)


def test_cut_and_whole_records_are_not_confused():
    whole = Shape(0, 2, SCALE)
    with pytest.raises(FormatError, match="bytes was expected"):
        unpack(ONE, pack(ONE, cut_record()), whole)
    record = Record(whole, np.zeros((2, 1, ONE.ring), dtype=np.uint64))
    with pytest.raises(FormatError, match="bytes was expected"):
        unpack(ONE, pack(ONE, record), CUT)


@pytest.mark.parametrize("length", [0, 1, 39, 40, 41, -4, -1])
def test_truncated_cut_records(length):
    with pytest.raises(FormatError, match="bytes was expected"):
        unpack(ONE, pack(ONE, cut_record())[:length], CUT)
    with pytest.raises(FormatError, match="bytes was expected"):
        unpack(ONE, pack(ONE, cut_record()) + bytes(4), CUT)


@pytest.mark.parametrize(
    "wrong", [{"level": 1}, {"size": 1}, {"size": 3}, {"seeded": True}, {"correction": 3}]
)
def test_only_two_polynomials_of_level_0_are_cut(wrong):
    with pytest.raises(FormatError, match="are cut"):
        dataclasses.replace(CUT, **wrong)


def test_only_ckks_is_cut():
    bgv = dataclasses.replace(ONE, scheme="bgv", plain_modulus=65537)
    for refused in (lambda: pack(bgv, cut_record()), lambda: unpack(bgv, bytes(40), CUT)):
        with pytest.raises(FormatError, match="only records of CKKS are cut"):
            refused()
