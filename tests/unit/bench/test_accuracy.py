"""The accuracy table: its statistics against known answers, its folds, its pages."""

from __future__ import annotations

from concurrent.futures import Future

import numpy as np
import pytest

from bench.accuracy import networks, report
from bench.accuracy.cells import Cell, Job, summary
from bench.accuracy.folds import FOLDS, accuracy, balanced, corrected_interval, folds
from securedl.errors import FormatError


def test_the_corrected_interval_by_hand() -> None:
    # mean 2, s² = 1, J = 3: t(0.975, 2) = 4.302653 (any table), half = t √(1/3 + 1/4) = 3.286205
    low, high = corrected_interval(np.array([1.0, 2.0, 3.0]), 0.25)
    assert (low, high) == pytest.approx((2 - 3.286205, 2 + 3.286205), abs=1e-5)


def test_the_corrected_interval_covers_where_the_plain_one_does_not() -> None:
    # Differences of folds share training data: correlation n_test/(n_test + n_train) = 1/5 among all.
    rng, hits, plain = np.random.default_rng(0), 0, 0
    for _ in range(400):
        common, own = rng.normal(), rng.normal(size=50)
        found = np.sqrt(0.2) * common + np.sqrt(0.8) * own
        low, high = corrected_interval(found, 0.25)
        hits += low <= 0 <= high
        plain += abs(found.mean()) <= 2.01 * found.std(ddof=1) / np.sqrt(50)
    assert 0.92 <= hits / 400 <= 0.98
    assert plain / 400 < 0.6


def test_folds_are_stratified_disjoint_and_standardised_by_the_training_part() -> None:
    rng = np.random.default_rng(1)
    x, y = rng.normal(5, 3, size=(100, 4)), np.repeat([0, 1], [88, 12])
    x[:, 3] = 7.0  # a feature without spread
    found = list(folds(x, y, repetition=0))
    assert len(found) == FOLDS
    assert sum(len(f.y_test) for f in found) == 100
    for fold in found:
        assert 2 <= (fold.y_test == 1).sum() <= 3
        np.testing.assert_allclose(fold.x_train[:, :3].mean(axis=0), 0, atol=1e-5)
        np.testing.assert_allclose(fold.x_train[:, :3].std(axis=0), 1, atol=1e-5)
        assert np.all(fold.x_test[:, 3] == 0)
    again, other = list(folds(x, y, 0)), list(folds(x, y, 1))
    assert np.array_equal(found[0].x_test, again[0].x_test)
    assert not np.array_equal(found[0].x_test, other[0].x_test)


def test_balanced_accuracy_sees_through_a_majority_vote() -> None:
    truth = np.repeat([0, 1], [88, 12])
    assert accuracy(np.zeros(100), truth) == 88
    assert balanced(np.zeros(100), truth) == 50


def test_training_is_deterministic_and_leaves_the_global_generator_alone() -> None:
    import torch

    rng = np.random.default_rng(2)
    x, y = rng.normal(size=(40, 5)).astype(np.float32), rng.integers(0, 2, 40)
    state = torch.random.get_rng_state()
    first, second, third = (networks.train("mlp", "relu", x, y, 2, seed, epochs=2) for seed in (0, 0, 1))
    assert torch.equal(torch.random.get_rng_state(), state)
    a, b, c = (networks.logits(m, x) for m in (first, second, third))
    assert np.array_equal(a, b)
    assert not np.array_equal(a, c)


@pytest.mark.parametrize("network", networks.NETWORKS)
@pytest.mark.parametrize("features", [2, 9, 100])
def test_networks_take_any_number_of_features(network: str, features: int) -> None:
    model = networks.NETWORKS[network](features, 6, "tanh")
    x = networks.shaped(network, np.zeros((3, features), dtype=np.float32))
    assert networks.logits(model, x).shape == (3, 6)


def fold(original: float, tuned: float, encrypted: dict[str, float] | None = None) -> dict[str, object]:
    values = {"original": original, "swapped": 50.0, "tuned": tuned}
    found: dict[str, object] = {**values, **{f"balanced_{k}": v for k, v in values.items()}}
    return found if encrypted is None else found | {"encrypted": encrypted}


def rows(shift: float) -> list[dict[str, object]]:
    sent = {
        "samples": 20, "refused": 1, "right": 15, "agree": 19, "outside": 18, "agree_outside": 18,
        "error": 0.001, "reach": 1.024, "alarms": 0, "refreshes": 2, "compile_s": 1.0, "upload_s": 2.0,
        "predict_s": 0.5,
    }  # fmt: skip
    some = [fold(90, 90 + shift + d, sent) for d in (-0.1, 0.0, 0.1)]
    cells = [Cell(n, d, a) for n in ("cnn", "mlp") for d, a in report.PAPER]
    return [summary(cell, some) for cell in cells]


def test_a_summary_adds_up() -> None:
    row = rows(-1.0)[0]
    assert row["difference"] == pytest.approx(-1.0)
    encrypted = row["encrypted"]
    assert isinstance(encrypted, dict)
    assert (encrypted["samples"], encrypted["accuracy"]) == (60, 75.0)
    assert encrypted["error"] == pytest.approx(0.001 / 1.024)


@pytest.mark.parametrize(("shift", "missed"), [(0.0, 0), (-1.5, 0), (-1.6, 18)])
def test_cells_that_miss_are_named(shift: float, missed: int) -> None:
    page = report.page(rows(shift), "x", "y.png")
    assert page.count(" * |") == 2 * missed
    assert page.count("Breast tissue sigmoid") == (2 if missed else 0)
    assert f"{shift:+.2f} points" in page
    assert "A quick run" not in page
    assert "**A quick run**: fewer folds" in report.page(rows(shift), "x", quick=True)


def test_an_interval_that_holds_the_bound_excuses_a_cell() -> None:
    wide = summary(Cell("cnn", "wine", "relu"), [fold(90, 90 + d) for d in (-9, -2, 5)])
    assert wide["difference"] < report.CELL_BOUND
    assert not report.misses(wide)


def test_the_picture_is_drawn(tmp_path) -> None:
    pytest.importorskip("matplotlib")
    report.plot(rows(-0.5), tmp_path / "table.png")
    assert (tmp_path / "table.png").stat().st_size > 20_000


def test_finished_jobs_are_kept_and_not_repeated(tmp_path, monkeypatch) -> None:
    from rich.console import Console

    from bench.accuracy import work

    path, asked = tmp_path / "journal", []

    class Pool:
        """Runs jobs here."""

        def __init__(self, *_: object, **__: object) -> None: ...
        def __enter__(self) -> Pool:
            return self

        def __exit__(self, *_: object) -> None: ...
        def shutdown(self, **_: object) -> None: ...
        def submit(self, _: object, job: Job) -> Future[list[dict[str, object]]]:
            asked.append(job)
            done: Future[list[dict[str, object]]] = Future()
            done.set_result([fold(90, 91) | {"repetition": job.repetition, "fold": 0}])
            return done

    monkeypatch.setattr(work, "ProcessPoolExecutor", Pool)
    cells, quiet = [Cell("mlp", "wine", "relu")], Console(quiet=True)
    work.measure(work.jobs(cells, False, 2), 1, quiet, path)
    with open(path, "a", encoding="utf-8") as lines:
        lines.write('{"job": cut o')
    found = work.measure(work.jobs(cells, False, 3), 1, quiet, path)
    assert [job.repetition for job in asked] == [0, 1, 2]
    assert [f["repetition"] for f in found[cells[0]]] == [0, 1, 2]
    assert len(work.read_journal(path)) == 3
    path.write_text("no json\n")
    with pytest.raises(FormatError, match=r"journal, line 1, is not a finished job"):
        work.read_journal(path)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--json", "FOLDER/none/x.json"], "there is no folder FOLDER/none"),
        (["--markdown", "FOLDER"], "it is a folder; name a file"),
        (["--journal", "FOLDER/none/x"], "there is no folder FOLDER/none"),
        (["--journal", "FOLDER/junk"], "junk is no journal"),
        (["--plot", "FOLDER/x.nonsense"], "its name must end in one of"),
        (["--data", "ovarian"], "cannot be fetched"),
    ],
)
def test_mistakes_are_told_before_the_work(tmp_path, monkeypatch, capsys, options, said) -> None:
    from bench.accuracy import __main__, work

    pytest.importorskip("matplotlib")
    (tmp_path / "junk").write_bytes(b"\xff\xfe")
    monkeypatch.delenv("SECUREDL_DATA", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(__main__, "warm_up", lambda: None)
    monkeypatch.setattr(work, "ProcessPoolExecutor", None)  # nothing is to run
    given = [option.replace("FOLDER", str(tmp_path)) for option in options]
    assert __main__.main(given if "--data" in given else ["--data", "wine", *given]) == 1
    said, err = said.replace("FOLDER", str(tmp_path)), capsys.readouterr().err
    assert err.startswith("error: ")
    assert said in err
    assert err.count("\n") == 1


def test_a_run_writes_what_was_asked(tmp_path, monkeypatch) -> None:
    """Options that are repeated count once; the page names no folder of this machine."""
    from bench.accuracy import __main__

    asked = []

    def measure(work: list[Job], *_: object) -> dict[Cell, list[dict[str, object]]]:
        asked.extend(work)
        return {job.cell: [fold(90, 90), fold(90, 91)] for job in work}

    monkeypatch.setattr(__main__, "warm_up", lambda: None)
    monkeypatch.setattr(__main__, "measure", measure)
    files = ["--json", str(tmp_path / "x.json"), "--markdown", str(tmp_path / "x.md")]
    cell = ["--data", "wine", "--network", "mlp", "--activation", "relu"]
    assert __main__.main([*cell, *cell, "--repetitions", "1", *files]) == 0
    assert asked == [Job(Cell("mlp", "wine", "relu"), 0, encrypt=True)]
    assert (tmp_path / "x.json").stat().st_size > 100
    page = (tmp_path / "x.md").read_text()
    assert "--repetitions 1 --json x.json --markdown x.md`" in page
    assert str(tmp_path) not in page
