"""Convolve: its invariants broken one at a time, from bytes, and what it does on the simulator."""

from __future__ import annotations

import copy
import json
import random
from typing import Any

import numpy as np
import pytest

from securedl.errors import FormatError
from securedl.he.arithmetic import merge_step
from securedl.he.ckks import VALUE_SCALE, WEIGHT_SCALE, coefficient_parameters
from securedl.he.clear import ClearEvaluator
from securedl.he.record import Shape
from securedl.program.convolve import MAX_STEP_PRODUCTS, Convolve, Span
from securedl.program.drive import drive
from securedl.program.execute import execute
from securedl.program.program import Program
from securedl.program.steps import MAX_TILES, Port, Refresh

PARAMS = coefficient_parameters()
SCALE = VALUE_SCALE * WEIGHT_SCALE


def example() -> Program:
    """Three inputs for each of two blocks, two groups of maps, four answers merged; then one product."""
    steps = (
        Convolve(1, 0, 2, 3, (Span(0, 3), Span(1, 2)), 4, 0, SCALE, WEIGHT_SCALE, 0),
        Refresh(2, 1, 1, 0, VALUE_SCALE, coefficients=True),
        Convolve(3, 2, 1, 1, (Span(0, 1),), 1, 0, SCALE, WEIGHT_SCALE, 4),
    )
    return Program(PARAMS, 5, 0, True, Port(6, 0, VALUE_SCALE, coefficients=True), steps, 3)


FIELDS = json.loads(example().to_json())


def broken(path: str, value: Any) -> bytes:
    """The example with one field replaced; a path like "steps.0.merge"."""
    fields = copy.deepcopy(FIELDS)
    *parents, last = [int(part) if part.isdigit() else part for part in path.split(".")]
    place: Any = fields
    for parent in parents:
        place = place[parent]
    place[last] = value
    return json.dumps(fields).encode()


def test_what_it_is() -> None:
    program = example()
    assert Program.from_json(program.to_json()) == program
    assert program.answer == Port(1, 0, SCALE, coefficients=True)
    assert program.answer.sent == Shape(0, 2, SCALE, cut=True)
    assert program.weight_shapes == [Shape(0, 2, WEIGHT_SCALE, True)] * 5
    assert program.rotations == tuple(sorted(merge_step(4096, span) for span in (4, 2)))
    counts = program.counts
    assert (counts.groups, counts.terms, counts.merges) == (5, 9, 3)
    assert program.relinearises


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        ("width", 1, "slots"), ("batch", 0, "a batch of 0"), ("batch", 1 << 15, "a batch of"),
        ("query.tiles", 5, "other tiles"), ("query.coefficients", False, "in coefficients"),
        ("query.level", 1, "query port"), ("query.scale", 3.0, "scales"),
        ("steps.0.blocks", 0, "empty"), ("steps.0.blocks", 3, "other tiles"),
        ("steps.0.blocks", 1 << 40, "other tiles"),
        ("steps.0.inputs", 0, "empty"), ("steps.0.inputs", 2, "other tiles"),
        ("steps.0.spans", [], "empty"), ("steps.0.spans.0.stop", 4, "span"),
        ("steps.0.spans.0.start", 3, "span"),
        ("steps.0.merge", 0, "merges"), ("steps.0.merge", 3, "merges"), ("steps.0.merge", 2048, "merges"),
        ("steps.0.level", 1, "above the top"), ("steps.0.scale", 2 * SCALE, "scales"),
        ("steps.0.weight_scale", 1.0, "scales"), ("steps.0.first", 1, "starts at weight"),
        ("steps.0.source", 1, "unwritten"), ("steps.0.out", 0, "twice"),
        ("steps.2.first", 3, "starts at weight"),
        ("steps.1.coefficients", False, "in coefficients"), ("steps.1.tiles", 0, "brings 0 tiles"),
        ("steps.1.tiles", MAX_TILES + 1, "brings"), ("steps.1.tiles", 2, "other tiles"),
        ("steps.1.level", 1, "above the top"),
        ("steps.0.spans", [{"start": 0, "stop": 1}] * (MAX_TILES // 2 + 1), "too many answers"),
        ("steps.0.merge", 2.0, "type int"), ("steps.0.spans", [[0, 1]], "needs the fields"),
        ("steps.0.spans.0.start", -1, "out of range"), ("steps.0.extra", 1, "needs the fields"),
    ],
)  # fmt: skip
def test_each_invariant(path: str, value: Any, message: str) -> None:
    with pytest.raises(FormatError, match=message):
        Program.from_json(broken(path, value))


def test_a_scale_that_does_not_fit() -> None:
    fields = copy.deepcopy(FIELDS)
    large = 2.0**30
    fields["steps"][0] |= {"weight_scale": large, "scale": large * VALUE_SCALE}
    with pytest.raises(FormatError, match="does not fit level 0"):
        Program.from_json(json.dumps(fields).encode())


def test_work_is_bounded() -> None:
    fields = copy.deepcopy(FIELDS)
    blocks, inputs = 8, MAX_TILES // 8
    spans = [{"start": 0, "stop": inputs}] * (MAX_STEP_PRODUCTS // MAX_TILES + 1)
    fields["query"]["tiles"] = MAX_TILES
    fields["steps"][0] |= {"blocks": blocks, "inputs": inputs, "spans": spans}
    with pytest.raises(FormatError, match=f"more than {MAX_STEP_PRODUCTS} products"):
        Program.from_json(json.dumps(fields).encode())


def test_forms_are_not_mixed() -> None:
    """A slot step on coefficients, and the other way round."""
    fields = copy.deepcopy(FIELDS)
    fields["steps"][2] = {"step": "multiply", "out": 3, "left": 2, "right": 2, "level": 0, "scale": 1.0}
    with pytest.raises(FormatError, match=r"level to spend|in slots"):
        Program.from_json(json.dumps(fields).encode())


def changed(fields: Any, draw: random.Random) -> None:
    """Replace, drop or repeat something somewhere, in place."""
    place = fields
    while True:
        keys = list(place) if isinstance(place, dict) else list(range(len(place)))
        key = draw.choice(keys)
        if isinstance(place[key], dict | list) and place[key] and draw.random() < 0.8:
            place = place[key]
            continue
        old = place[key]
        choices: list[Any] = [None, True, -1, 0, 1, 2, 3, 1 << 20, 1 << 70, 0.5, "x", [], {}, float("nan")]
        if isinstance(old, int | float) and not isinstance(old, bool):
            choices += [old + 1, old - 1, old * 2, float(old), -old]
        new = draw.choice(choices)
        if isinstance(place, list) and draw.random() < 0.3:
            place.insert(key, copy.deepcopy(old))
        elif draw.random() < 0.15:
            del place[key]
        else:
            place[key] = new
        return


def test_ten_thousand_mutations_are_refused_or_harmless() -> None:
    """What is accepted still is a program whose every part can be computed, within the bounds."""
    draw, accepted = random.Random(0), 0
    for _ in range(10_000):
        fields = copy.deepcopy(FIELDS)
        for _ in range(draw.randint(1, 3)):
            changed(fields, draw)
        try:
            program = Program.from_json(json.dumps(fields).encode())
        except FormatError:
            continue
        accepted += 1  # another batch, or fewer maps: a different program, with a different name
        assert program == example() or program.id != example().id
        assert len(program.weight_shapes) <= MAX_STEP_PRODUCTS
        assert program.counts.terms <= MAX_STEP_PRODUCTS * len(program.steps)
    assert accepted < 2_500


def test_on_the_simulator_it_adds_products_and_merges_them() -> None:
    """Polynomials that are constants: each answer is a number, and they land in lanes 0, 2, 1 and 3 of 4."""
    evaluator = ClearEvaluator(PARAMS)

    def constant(value: float, scale: float) -> Any:
        coefficients = np.zeros(PARAMS.ring)
        coefficients[0] = value
        return evaluator.fresh(coefficients, Shape(0, 2, scale))

    query = [constant(value, VALUE_SCALE) for value in (1, 2, 3, 10, 20, 30)]
    weights = [constant(value, WEIGHT_SCALE) for value in (1, 0.5, 0.25, 0.1, 2)]
    seen = []

    def refresh(request: Any) -> list[Any]:
        seen.extend(request.tiles)
        return [constant(0.5, VALUE_SCALE)]

    (answer,) = drive(execute(example(), evaluator, weights, query), refresh)
    found = evaluator.coefficients(seen[0])[:4]
    first, second, third, fourth = 1 + 1 + 0.75, 0.2, 10 + 10 + 7.5, 2.0
    np.testing.assert_allclose(found, [first, third, second, fourth], atol=1e-9)
    np.testing.assert_allclose(evaluator.coefficients(answer)[:2], [1, 0], atol=1e-9)
