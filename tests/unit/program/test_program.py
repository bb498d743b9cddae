"""Programs from strangers: canonical bytes, every invariant broken one at a time, hostile JSON."""

from __future__ import annotations

import copy
import json
from dataclasses import make_dataclass, replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from securedl.errors import FormatError
from securedl.he.ckks import ckks_parameters
from securedl.he.record import Shape
from securedl.program.program import MAX_DIAGONALS, MAX_STEPS, Program, _build
from securedl.program.steps import MAX_TILES, AddWeight, Block, Matvec, Multiply, Port, Refresh, Tap

PARAMS = ckks_parameters(8192, 4)
S = 2.0**33
Q = PARAMS.primes
SQUARE = S * S / Q[3]
CUBIC = SQUARE * S / Q[2]


def example() -> Program:
    """Two tiles to one and back, a cubic, a refresh, two sources."""
    blocks = (Block(0, 0, 0, (0, 3)), Block(0, 0, 1, (1,)))
    steps = (
        Matvec(1, (0,), blocks, 1, 2, (2, 4), 4, S, (float(Q[4]),), 0),
        Multiply(2, 1, 1, 3, SQUARE),
        AddWeight(3, 2, 2, SQUARE, 4),
        Multiply(4, 3, 1, 2, CUBIC),
        Refresh(5, 4, 1, 2, S),
        Matvec(
            6, (5, 5), (Block(0, 0, 0, (0,)), Block(1, 1, 0, (2,))), 2, 1, (), 2, S, (float(Q[2]),) * 2, 5
        ),
    )
    return Program(PARAMS, 512, 8, True, Port(2, 4, S), steps, 6)


FIELDS = json.loads(example().to_json())


def test_round_trip():
    program = example()
    again = Program.from_json(program.to_json())
    assert again == program
    assert again.to_json() == program.to_json()
    assert again.id == program.id
    assert len(program.id) == 16
    hash(again)


def test_order_and_space_do_not_change_the_program():
    text = json.dumps(dict(reversed(FIELDS.items())), indent=2).encode()
    assert Program.from_json(text).id == example().id


def test_what_follows_from_the_steps():
    """By hand."""
    program = example()
    first = program.steps[0]
    # k = 0, 1, 3 with g = 2: giant step 0 holds j = 0 and j = 1 of tile 1, giant step 1 holds j = 1.
    assert list(first.groups()) == [(0, 0, [(0, 0, 0), (0, 1, 1)]), (0, 1, [(0, 0, 1)])]
    assert program.rotations == (512, 1024, 2048)
    assert program.relinearises
    # Inputs: j = 1 of both tiles. Results: i = 1 and two folds, then k = 2 of the last step, whose g is 1.
    counts = program.counts
    assert (counts.hoisted, counts.turns, counts.terms) == (2, 4, 5)
    assert (counts.groups, counts.products) == (4, 2)
    query = Shape(4, 2, float(Q[4]), True)
    assert program.weight_shapes == [
        *[query] * 3,
        Shape(3, 2, S, True),
        Shape(2, 2, SQUARE, True),
        *[Shape(2, 2, float(Q[2]), True)] * 2,
        *[Shape(1, 2, S, True)] * 2,
    ]
    assert program.tiles() == {0: 2, 1: 1, 2: 1, 3: 1, 4: 1, 5: 1, 6: 2}
    assert program.ports()[4] == Port(1, 1, CUBIC)
    assert program.refreshes == [(Port(1, 0, CUBIC), Port(1, 2, S))]
    assert program.answer == Port(2, 0, S)


def tapped() -> Program:
    """The example, whose first matrix and last value are shown on the way."""
    program = example()
    first, square, *rest = program.steps
    assert isinstance(square, Multiply)
    steps = first, Tap(7, 1, 3), replace(square, left=7, right=7), *rest, Tap(8, 6, 1)
    return replace(program, steps=steps, output=8)


def test_taps_show_values_and_change_nothing():
    """By hand."""
    program, plain = tapped(), example()
    assert Program.from_json(program.to_json()) == program
    assert program.id != plain.id
    assert program.ports()[7] == program.ports()[1] == Port(1, 3, S)
    first, refresh, last = Port(1, 0, S), plain.refreshes[0], Port(2, 0, S)
    assert program.shown == [(first, None), refresh, (last, None)]
    assert (program.taps, program.refreshes) == ([first, last], [refresh])
    assert (program.hidden, plain.hidden) == ([], [Port(1, 3, S)])
    assert program.weight_shapes == plain.weight_shapes
    assert program.counts == plain.counts


@pytest.mark.parametrize(
    ("field", "value", "words"), [("level", 2, "another level"), ("source", 6, "unwritten")]
)
def test_bad_taps(field, value, words):
    fields = json.loads(tapped().to_json())
    fields["steps"][1][field] = value
    with pytest.raises(FormatError, match=words):
        Program.from_json(json.dumps(fields).encode())


def test_plain_weights_are_plaintexts():
    fields = copy.deepcopy(FIELDS)
    fields["encrypted"] = False
    program = Program.from_json(json.dumps(fields).encode())
    assert {(s.size, s.seeded) for s in program.weight_shapes} == {(1, False)}
    assert program.id != example().id


def broken(path: str, value) -> bytes:
    """The example with one field replaced; a path like "steps.0.level"."""
    fields = copy.deepcopy(FIELDS)
    *parents, last = [int(p) if p.isdigit() else p for p in path.split(".")]
    place = fields
    for parent in parents:
        place = place[parent]
    place[last] = value
    return json.dumps(fields).encode()


INVARIANTS = [
    ("batch", 256, "slots"), ("batch", 0, "a batch of 0"), ("width", 4, "slots"), ("width", 0, "giant step"),
    ("query.tiles", 0, "query port"), ("query.tiles", MAX_TILES + 1, "query port"),
    ("query.tiles", 1, "block out of range"), ("query.level", 5, "query port"),
    ("query.level", 3, "no longer has"), ("query.scale", S * 2, "scales"),
    ("query.scale", 0.0, "positive"), ("query.scale", -S, "positive"),
    ("output", 7, "never written"),
    ("steps.0.out", 0, "twice"), ("steps.1.out", 1, "twice"),
    ("steps.0.level", 5, "above the top"), ("steps.0.level", 0, "no level"),
    ("steps.1.level", 0, "no level"), ("steps.0.tiles", 0, "tiles"),
    ("steps.0.tiles", MAX_TILES + 1, "tiles"),
    ("steps.0.tiles", 2, "empty"), ("steps.0.giant", 0, "giant"), ("steps.0.giant", 9, "giant"),
    ("steps.0.sources", [], "weight scale for each"), ("steps.0.sources", [0, 0], "weight scale for each"),
    ("steps.0.sources", [9], "unwritten"), ("steps.0.sources", [1], "unwritten"),
    ("steps.0.weight_scales", [], "weight scale for each"), ("steps.0.weight_scales", [1e10], "scales"),
    ("steps.0.weight_scales", [1e308], "scales"), ("steps.0.weight_scales", [5e-324], "scales"),
    ("steps.0.scale", S * (1 + 1e-8), "scales"),
    ("steps.0.first", 1, "starts at weight 1, not 0"), ("steps.2.first", 3, "starts at weight 3, not 4"),
    ("steps.5.first", 6, "starts at weight 6, not 5"),
    ("steps.0.folds", [0], "folds"), ("steps.0.folds", [8], "folds"),
    ("steps.0.blocks", [], "empty"), ("steps.0.blocks.0.output", 1, "block out of range"),
    ("steps.0.blocks.0.source", 1, "block out of range"), ("steps.0.blocks.0.tile", 2, "block out of range"),
    ("steps.0.blocks.0.tile", 1, "block twice"), ("steps.0.blocks.0.diagonals", [], "diagonals"),
    ("steps.0.blocks.0.diagonals", [3, 0], "diagonals"), ("steps.0.blocks.0.diagonals", [3, 3], "diagonals"),
    ("steps.0.blocks.0.diagonals", [8], "diagonals"),
    ("steps.1.left", 5, "unwritten"), ("steps.1.right", 2, "unwritten"), ("steps.1.left", 0, "multiplies"),
    ("steps.1.level", 4, "no longer has"), ("steps.1.scale", S, "scales"), ("steps.3.right", 2, "scales"),
    ("steps.2.source", 3, "unwritten"), ("steps.2.level", 1, "another level"),
    ("steps.2.scale", S / 2, "scales"),
    ("steps.4.source", 6, "unwritten"), ("steps.4.level", 5, "above the top"),
    ("version", 3, "version"), ("version", "1", "version"), ("version", None, "version"),
    ("params.ring", 2048, "not supported"), ("params.scheme", "bfv", "unknown"),
    ("params.primes", [], "distinct"), ("params.special", PARAMS.primes[0], "distinct"),
]  # fmt: skip


def test_the_example_itself_is_accepted():
    assert Program.from_json(broken("batch", 512)) == example()


@pytest.mark.parametrize(("path", "value", "message"), INVARIANTS)
def test_each_invariant(path, value, message):
    with pytest.raises(FormatError, match=message):
        Program.from_json(broken(path, value))


TYPES = [
    ("batch", 512.0), ("batch", True), ("batch", "512"), ("batch", -512), ("batch", 1 << 62),
    ("encrypted", 1), ("encrypted", None), ("query", []), ("query", {}), ("query", None),
    ("query.scale", 8589934592), ("query.scale", float("nan")), ("query.scale", float("inf")),
    ("query.tiles", 2.0), ("steps", None), ("steps", 5), ("steps", "ab"), ("steps", [[]]), ("steps", [{}]),
    ("steps", {"step": 1}), ("steps.0.step", "matmul"), ("steps.0.step", []), ("steps.0.step", "refresh"),
    ("steps.0.sources", "0"), ("steps.0.sources", {"0": 0}), ("steps.0.sources", 0),
    ("steps.0.sources", [[0]]), ("steps.0.sources", [0.0]), ("steps.0.folds", ""), ("steps.0.folds", {}),
    ("steps.0.folds", None), ("steps.0.weight_scales", [1]), ("steps.0.blocks", [[]]),
    ("steps.0.blocks", {}), ("steps.0.blocks.0.diagonals", ""), ("steps.0.blocks.0.diagonals", [True]),
    ("steps.0.blocks.0.diagonals", [-1]), ("params", None), ("params.primes", 5),
    ("params.primes", ["a"]), ("params.scheme", 3), ("steps.0.extra", 1), ("extra", 1), ("params.extra", 1),
    ("steps.0.blocks.0.extra", 1), ("query.extra", 1),
]  # fmt: skip


@pytest.mark.parametrize(("path", "value"), TYPES)
def test_each_type(path, value):
    with pytest.raises(FormatError):
        Program.from_json(broken(path, value))


@pytest.mark.parametrize("path", ["batch", "version", "steps", "params", "output"])
def test_a_missing_field(path):
    fields = copy.deepcopy(FIELDS)
    del fields[path]
    with pytest.raises(FormatError):
        Program.from_json(json.dumps(fields).encode())


@pytest.mark.parametrize(
    "data",
    [
        b"", b"{", b"null", b"[]", b'"program"', b"1e999", b"\xff\xfe", b"{}" * 2, b"[" * 100_000,
        b'{"version":' * 50_000, b"9" * 10_000, b'{"version": ' + b"9" * 5_000 + b"}", b"NaN",
    ],
)  # fmt: skip
def test_what_is_no_program(data):
    with pytest.raises(FormatError):
        Program.from_json(data)


def test_too_many_steps():
    fields = copy.deepcopy(FIELDS)
    fields["steps"] = [
        {"step": "refresh", "out": i + 1, "source": i, "level": 1, "scale": S} for i in range(MAX_STEPS + 1)
    ]
    with pytest.raises(FormatError, match=f"more than {MAX_STEPS} steps"):
        Program.from_json(json.dumps(fields).encode())


def test_too_many_weights():
    """By matrices, and by constants on many tiles."""
    tiles = MAX_TILES
    count = MAX_DIAGONALS // tiles + 1
    fields = copy.deepcopy(FIELDS)
    fields["query"] |= {"tiles": tiles, "level": 1}
    fields["steps"] = [
        {"step": "add_weight", "out": i + 1, "source": i, "level": 1, "scale": S, "first": i * tiles}
        for i in range(count)
    ]
    fields["output"] = 1
    with pytest.raises(FormatError, match=f"more than {MAX_DIAGONALS} weights"):
        Program.from_json(json.dumps(fields).encode())


def test_work_is_bounded_before_anything_is_built():
    """Folds cost rotations and no bytes of keys; long lists cost time to check."""
    for path, value, what in (
        ("steps.0.folds", [1] * 40, "folds 40 times"),
        ("steps.0.sources", [0] * 100, "weight scale for each source"),
        ("steps", [{}] * (MAX_STEPS + 1), f"more than {MAX_STEPS} steps"),
        ("version", True, "not of version"),
        ("batch", "x" * 10_000_000, "must be of type int"),
    ):
        with pytest.raises(FormatError, match=what) as caught:
            Program.from_json(broken(path, value))
        assert len(str(caught.value)) < 200


@pytest.mark.parametrize(
    ("kind", "value", "what"),
    [
        (int, -1, "out of range"),
        (int, True, "must be of type int"),
        (float, 1, "must be of type float"),
        (float, float("inf"), "a positive number"),
        (tuple[int, ...], 3, "must be a list"),
        (tuple[int, ...], [1, -2], "out of range"),
        (Port, {"tiles": 1}, "needs the fields"),
    ],
)
def test_fields_are_checked_by_their_types_however_they_are_written(kind, value, what):
    """A step's file may spell its annotations as text or as types."""
    for spelling in (kind, str(kind) if kind == tuple[int, ...] else kind.__name__):
        step = make_dataclass("Loose", [("field", spelling)], frozen=True)
        step.__module__ = __name__
        with pytest.raises(FormatError, match=what):
            _build(step, {"field": value})


def test_a_field_of_another_type_is_a_mistake_in_the_step():
    with pytest.raises(TypeError, match="a type that bytes cannot carry"):
        _build(make_dataclass("Loose", [("field", int | None)]), {"field": 1})


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)


def paths(node, prefix: str = ""):
    for key, value in node.items() if isinstance(node, dict) else enumerate(node):
        yield f"{prefix}{key}"
        if isinstance(value, dict | list):
            yield from paths(value, f"{prefix}{key}.")


@settings(max_examples=400)
@given(st.sampled_from(sorted(paths(FIELDS))), json_values)
def test_a_hostile_field_is_refused_or_harmless(path, value):
    try:
        program = Program.from_json(broken(path, value))
    except FormatError:
        return
    # What is accepted can be run and means one thing.
    assert Program.from_json(program.to_json()) == program
    assert len(program.weight_shapes) <= MAX_DIAGONALS
    assert program.rotations is not None
    assert program.answer
    hash(program)


@settings(max_examples=200)
@given(json_values)
def test_any_json(value):
    with pytest.raises(FormatError):
        Program.from_json(json.dumps(value).encode())


@settings(max_examples=200)
@given(st.binary(max_size=60))
def test_any_bytes(data):
    with pytest.raises(FormatError):
        Program.from_json(data)


@settings(max_examples=200)
@given(st.integers(0, len(example().to_json()) - 1), st.integers(0, 255))
def test_any_changed_byte(offset, value):
    data = bytearray(example().to_json())
    data[offset] = value
    try:
        program = Program.from_json(bytes(data))
    except FormatError:
        return
    assert (program.id == example().id) == (program == example())
