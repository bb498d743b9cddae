"""Kits: what they ask and notice is what an owner would; what is in them, and what is not."""

from __future__ import annotations

import io
import pickle
import re
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from torch import nn

import securedl
from securedl.client.kit import Kit
from securedl.client.modular import least_combinations
from securedl.client.projected import COMBINATIONS
from securedl.errors import AlarmError, InputError, KeyFileError
from securedl.plan.normalised import Normalised
from securedl.plan.plan import Plan
from securedl.plan.quantised import Quantised

sys.path.insert(0, str(Path(__file__).parent))
from every_form import FEATURES, PLANS, Server, X, data, network
from exact_plans import EXACT

pytestmark = pytest.mark.he

ROOT = Path(__file__).parents[2]
BINARY = nn.Sequential(*list(network("relu", 2).children())[:-1], nn.Linear(8, 1)).double()
KINDS: dict[str, Callable[[], Plan]] = {
    "squares": PLANS["squares, a refresh a level"],
    "cubics": PLANS["cubics"],
    "one sample": PLANS["one sample"],
    "taps": PLANS["squares, taps"],
    "no refresh": PLANS["squares, no refresh"],
    "one output": lambda: securedl.compile(BINARY, X, batch=32, ring=8192, checked_by="client"),
    "whole numbers": EXACT["squares"],
    "whole cubics": EXACT["cubics"],
    "whole, one output": lambda: securedl.compile(BINARY, X, scheme="bgv", batch=32),
}


class Granted:
    """An owner, its kit as it comes out of a file, and a server that is asked by either."""

    def __init__(self, plan: Plan, folder: Path) -> None:
        self.plan, self.owner, self.path = plan, securedl.Owner(plan, ahead=0), folder / "kit"
        self.server: Any = Server(self.owner)
        self.owner.grant("ward 3", days=2).save(self.path, passphrase="p")

    def kit(self) -> Kit:
        return securedl.Kit.load(self.path, passphrase="p", ahead=0)

    def ask(self, asking: Any, x: np.ndarray, change: Any = None, **options: Any) -> Any:
        self.server.owner = asking
        return self.server.answer(x, change, **options)


@pytest.fixture(scope="module", params=KINDS)
def granted(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Granted:
    return Granted(KINDS[request.param](), tmp_path_factory.mktemp("kit"))


def test_answers_are_the_owners(granted: Granted) -> None:
    kit, x = granted.kit(), data(granted.plan, 20)
    assert (kit.model_id, kit.program) == (granted.owner.model_id, granted.plan.program)
    found, own = granted.ask(kit, x), granted.ask(granted.owner, x)
    assert found.report.passed
    if granted.plan.program.params.exact:
        np.testing.assert_array_equal(found.logits, own.logits)
    else:
        np.testing.assert_allclose(found.logits, own.logits, atol=1e-3 * np.ptp(own.logits))
    tested = [one is not None for one in kit.granted.sums]
    assert found.report.points == sum(tested) or not any(tested)
    if all(tested):
        assert (found.report.how, found.report.checked, found.report.open) == ("projected", 20, 0)
    else:
        assert found.report.probes + found.report.checkpoints > 0 or granted.plan.batch == 1


def test_changes_are_noticed(granted: Granted) -> None:
    """Of any value of every lane, at every checkpoint that has sums; by one, or by what they reach."""
    kit, random = granted.kit(), np.random.default_rng(0)
    points, exact = granted.plan.signature.checkpoints, granted.plan.program.params.exact
    for point, one in enumerate(kit.granted.sums, 1):
        layout = points[point].sent
        assert layout is not None
        for unit in (0.0, 1.0):
            values = np.zeros(layout.shape)
            values[tuple(random.integers(values.shape))] = unit
            changed = packed(granted.plan, layout.pack(values))

            def change(at: int, tile: int, point: int = point, changed: np.ndarray = changed) -> Any:
                return changed[tile] if at == point else None

            answer = granted.ask(kit, data(granted.plan, 3), change, probes=0)
            if one is not None or not unit:
                assert answer.report.passed != bool(unit), (point, unit, exact)


def packed(plan: Plan, tiles: np.ndarray) -> np.ndarray:
    from securedl.plan.layouts import in_rows

    return in_rows(tiles, plan.program.rows, plan.batch)


def test_probes_test_what_sums_do_not(granted: Granted) -> None:
    kit = granted.kit()
    if kit.granted.probes is None:
        assert all(one is not None for one in kit.granted.sums)
        return
    wrong, last = packed(granted.plan, np.ones((1, slots(granted.plan))))[0], len(kit.granted.sums)
    answer = granted.ask(kit, data(granted.plan, 3), lambda at, tile: wrong if at == last else None)
    assert not answer.report.passed
    assert any("probe" in alarm for alarm in answer.report.alarms) or kit.granted.sums[-1] is not None


def slots(plan: Plan) -> int:
    return plan.program.width * plan.batch


def arrays(kit: Kit) -> dict[str, np.ndarray]:
    """All of a kit's file but the key."""
    _, found = kit.granted.to_parts()
    return {name: np.asarray(value) for name, value in found.items()}


def matrices(plan: Plan) -> Iterator[np.ndarray]:
    assert isinstance(plan.network, Normalised | Quantised)
    for layer in plan.network.layers:
        for matrix in layer.matrices:
            yield matrix.toarray()
        yield layer.bias[None]


def test_no_weight_follows_from_what_is_in_it(granted: Granted) -> None:
    """A weight follows from sums if its row is a combination of theirs, and from probes if its column is one
    of what they sent; nor is any array a weight itself.
    """
    kit, found = granted.kit(), arrays(granted.kit())
    for number, one in enumerate(kit.granted.sums):
        features = kit.granted.tolerances[number].deviations.shape[1]
        rows, spread = np.zeros((0, features)), kit.granted.tolerances[number].deviations.max(axis=0)
        if one is not None:
            parts = {
                name.rpartition(".")[2]: a for name, a in found.items() if name.startswith(f"sums{number}.")
            }
            rows = parts["rows"] if "rows" in parts else parts["factors"][:, :features].astype(float)
        assert len(rows) <= min(features // 2, COMBINATIONS)
        space = np.linalg.svd(rows * spread)[2][: len(rows)]
        left = 1 - (space**2).sum(axis=0)  # of each unit vector, what is outside of the rows' span
        assert (left > 0.01).all(), (number, left)
        received = found.get(f"probes.received{number}")
        if received is not None and received.size and one is None:
            sent = found[f"probes.sent{number}"]
            assert len(sent) <= sent.shape[1] // 2
            space = np.linalg.svd(sent)[2][: len(sent)]
            assert (1 - (space**2).sum(axis=0) > 0.01).all()
        elif received is not None:
            assert not received.size
    for weight in matrices(granted.plan):
        rough = np.abs(weight[weight != 0])
        for name, array in found.items():
            if array.dtype.kind == "f" and array.ndim == 2 and array.shape == weight.shape:
                assert not np.allclose(array, weight), name
            if array.dtype.kind == "f" and array.size and len(rough) > 3 and "sums" not in name:
                shared = np.isin(np.round(np.abs(array), 12), np.round(rough, 12)).mean()
                assert shared < 0.5 or granted.plan.program.params.exact, name


def test_no_calibration_sample_is_in_it(granted: Granted) -> None:
    samples = {tuple(np.round(row, 9)) for row in granted.plan.samples}
    for name, array in arrays(granted.kit()).items():
        if array.ndim == 2 and array.shape[1] == FEATURES and array.dtype.kind == "f":
            assert not samples & {tuple(np.round(row, 9)) for row in array}, name


def test_every_array_is_explained(granted: Granted) -> None:
    text = (ROOT / "docs" / "kits.md").read_text()
    for name in arrays(granted.kit()):
        assert f"`{re.sub('[0-9]+', '*', name)}`" in text, name


def test_sums_are_as_many_as_may_be(granted: Granted) -> None:
    params = granted.plan.program.params
    most = least_combinations(params.plain_modulus) if params.exact else COMBINATIONS
    for number, one in enumerate(granted.kit().granted.sums):
        features = granted.kit().granted.tolerances[number].deviations.shape[1]
        if one is not None:
            rows = one.factors if params.exact else one.projection.rows  # type: ignore[union-attr]
            assert len(rows) == min(most, features // 2)


@pytest.fixture(scope="module")
def squares(tmp_path_factory: pytest.TempPathFactory) -> Granted:
    return Granted(KINDS["squares"](), tmp_path_factory.mktemp("squares"))


def test_after_its_end_it_asks_nothing(squares: Granted, monkeypatch: pytest.MonkeyPatch) -> None:
    kit, x, now = squares.kit(), data(squares.plan, 2), time.time()
    assert squares.ask(kit, x).report.passed
    monkeypatch.setattr(time, "time", lambda: now + 2 * 86_400 + 5)
    for expired in (kit, squares.kit()):
        with pytest.raises(InputError, match=r"this kit has expired on 20\d\d-.* UTC: ask the model's owner"):
            expired.ask(x)
    assert squares.owner.grant("for ever").terms.until == "without end"


def test_after_an_alarm_it_asks_no_more(squares: Granted) -> None:
    kit, x = squares.kit(), data(squares.plan, 2)
    assert not squares.ask(kit, x, lambda at, tile: np.ones(slots(squares.plan)), probes=0).report.passed
    with pytest.raises(AlarmError):
        kit.ask(x)
    assert squares.kit().ask(x)  # another copy does not know


def test_samples_outside_of_the_box(squares: Granted) -> None:
    kit, x = squares.kit(), data(squares.plan, 4).copy()
    x[2] = 100
    with pytest.raises(InputError, match=r"1 sample\(s\) would overflow under encryption: x\[2\]"):
        kit.ask(x)
    answer = squares.ask(kit, x, outliers="skip")
    assert answer.report.passed
    assert answer.report.skipped == (2,)
    assert squares.ask(kit, x, outliers="clip").report.clipped == (2,)


def test_it_uploads_nothing(squares: Granted) -> None:
    kit = squares.kit()
    for call in (kit.prepare, lambda: kit.key(None), lambda: kit.weights([0])):
        with pytest.raises(InputError, match="a kit holds no weights and cannot upload"):
            call()


def test_plans_that_cannot_be_granted() -> None:
    with pytest.raises(InputError, match="this plan cannot be granted: no box is known"):
        securedl.Owner(PLANS["powers"](), ahead=0).grant()
    owner = securedl.Owner(PLANS["a client's activations"](), ahead=0)
    with pytest.raises(InputError, match="this plan cannot be granted: layers are computed one by one"):
        owner.grant()
    with pytest.raises(InputError, match="the name of a kit is text"):
        owner.grant(3)  # type: ignore[arg-type]
    for days in (0, -1, float("nan"), "1"):
        with pytest.raises(InputError, match="days"):
            owner.grant(days=days)  # type: ignore[arg-type]


def test_files(squares: Granted, tmp_path: Path) -> None:
    squares.owner.save(tmp_path / "owner", passphrase="p")
    squares.plan.save(tmp_path / "plan")
    load, owner = securedl.Kit.load, securedl.Owner.load
    with pytest.raises(KeyFileError, match=r"is not a kit; it is a saved owner"):
        load(tmp_path / "owner", passphrase="p")
    with pytest.raises(KeyFileError, match=r"is not a kit; it may be a saved plan"):
        load(tmp_path / "plan", passphrase="p")
    with pytest.raises(KeyFileError, match=r"is not a saved owner; it is a kit"):
        owner(squares.path, passphrase="p")
    with pytest.raises(KeyFileError, match="wrong passphrase, or the file is damaged"):
        load(squares.path, passphrase="q")
    damaged = bytearray(squares.path.read_bytes())
    damaged[len(damaged) // 2] ^= 1
    (tmp_path / "damaged").write_bytes(damaged)
    with pytest.raises(KeyFileError, match="wrong passphrase, or the file is damaged"):
        load(tmp_path / "damaged", passphrase="p")
    with pytest.raises(InputError, match="the passphrase is empty"):
        squares.kit().save(tmp_path / "kit", passphrase="")
    assert squares.path.stat().st_mode & 0o777 == 0o600
    with pytest.raises(TypeError, match="holds a secret key"):
        pickle.dump(squares.kit(), io.BytesIO())
    text = repr(squares.kit())
    assert "ward 3" in text
    assert "every value at" in text


def test_a_ledger_counts(squares: Granted, tmp_path: Path) -> None:
    kit = securedl.Kit.load(squares.path, passphrase="p", ahead=0, ledger=tmp_path / "ledger")
    squares.ask(kit, data(squares.plan, 2))
    again = securedl.Kit.load(squares.path, passphrase="p", ahead=0, ledger=tmp_path / "ledger")
    assert again.granted.ledger.batches == kit.granted.ledger.batches > 0


def test_another_key(squares: Granted) -> None:
    """One owner's kits ask its own model; a rotated owner has another one, and old kits stay good."""
    other = squares.owner.rotate()
    assert other.model_id != squares.owner.model_id
    assert other.plan is squares.plan
    assert squares.ask(squares.kit(), data(squares.plan, 2)).report.passed
    server: Any = Server(other)
    server.owner = other.grant()
    assert server.answer(data(squares.plan, 2)).report.passed


def test_no_torch_is_loaded(squares: Granted) -> None:
    """Nor what makes plans, nor a graph of tenseal's tensors."""
    code = (
        "import sys\n"
        "class Never:\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        "        assert name.partition('.')[0] not in ('torch', 'sklearn', 'onnx'), name\n"
        "sys.meta_path.insert(0, Never())\n"
        "import numpy as np, securedl\n"
        f"kit = securedl.Kit.load({str(squares.path)!r}, passphrase='p', ahead=0)\n"
        f"inference = kit.ask(np.zeros((3, {FEATURES})))\n"
        "print(sum(len(tile) for batch in inference.batches for tile in batch.query()) > 1000)\n"
        "print([name for name in sys.modules if name.startswith('securedl.compiler')])\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.stdout.splitlines() == ["True", "[]"], done.stderr
