"""The report reads well and is valid JSON; checking answers loads no torch and no encryption."""

import json
import math
import subprocess
import sys
from dataclasses import replace

import pytest

from securedl.verify.report import Blind, Report

GOOD = Report(True, 8, 1, 0.031, (), {0.01: 0.08, 1.0: 1.0}, 0.31)
BAD = Report(False, 8, 16, float("inf"), tuple(f"probe {i} differs" for i in range(5)), {}, 1.0)


def test_summary():
    assert GOOD.summary().splitlines() == [
        "verification: passed",
        "  8 probes and 1 checkpoint compared; largest deviation 0.031 x its tolerance",
        "  tampered fraction -> chance to notice: 0.01 -> 8 %, 1 -> 100 %; "
        "at most 31 % tampered with (95 % confidence)",
    ]
    text = BAD.summary()
    assert "FAILED, 5 alarms" in text
    assert "probe 2 differs; and 2 more" in text
    assert len(text.splitlines()) == 4
    assert "nothing was checked" in Report(True, 0, 0, 0.0).summary()


EVERY = Report(
    True,
    8,
    1,
    0.031,
    checked=35,
    points=2,
    blind=Blind(4.6e-06, 1e-6, "output 2, lane 0"),
    detection={1.0: 1.0},
)


def test_a_report_on_every_answer():
    assert EVERY.summary().splitlines() == [
        "verification: passed",
        "  all 35 answers recomputed, every value at 2 checkpoints; largest deviation 0.031 x its tolerance",
        "  a change of more than 4.6e-06 of a value's reach is missed with a chance below 1 in 1,000,000 "
        "(worst: output 2, lane 0)",
        "  not covered: smaller changes, and what a server learns from how you react",
    ]
    assert EVERY.to_dict()["blind"] == {"change": 4.6e-06, "chance": 1e-6, "where": "output 2, lane 0"}


def test_how_many_answers_could_be_altered_is_told():
    text = Report(True, 8, 1, 0.031, (), {1.0: 1.0}, 0.31, alterable=120).summary()
    assert text.endswith("120 answers could be altered before 95 % notice it")


OUTLIERS = Report(True, 8, 1, 0.031, skipped=(3,), clipped=tuple(range(12)))


def test_outliers_are_listed():
    assert GOOD.outliers == []
    assert OUTLIERS.summary().splitlines()[-2:] == [
        "  1 sample skipped, out of range: 3",
        "  12 samples clipped, out of range: 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, ...",
    ]
    assert OUTLIERS.to_dict()["skipped"] == [3]
    assert OUTLIERS.to_dict()["clipped"] == list(range(12))


@pytest.mark.parametrize("report", [GOOD, BAD, OUTLIERS, EVERY])
def test_json(report):
    found = json.loads(json.dumps(report.to_dict(), allow_nan=False))
    assert found["passed"] == report.passed
    assert found["alarms"] == list(report.alarms)
    assert found["worst_ratio"] == (report.worst_ratio if report.passed else None)


def test_checking_is_light():
    code = (
        "import sys, securedl.verify, securedl.verify.report, securedl.verify.placement, "
        "securedl.verify.statistics, securedl.verify.fingerprint, "
        "securedl.verify.attacks; "
        "bad = [m for m in sys.modules if m.split('.')[0] in ('torch', 'tenseal', 'protocol') "
        "or m.startswith('securedl.he')]; sys.exit(str(bad) if bad else 0)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_a_report_in_json_has_no_infinity():
    report = replace(EVERY, blind=Blind(math.inf, 1e-6, "the answer"))
    assert json.loads(json.dumps(report.to_dict(), allow_nan=False))["blind"]["change"] is None
