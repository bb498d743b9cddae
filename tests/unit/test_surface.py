"""What a user sees of the two packages: names, help, types, the release, and what objects show."""

from __future__ import annotations

import inspect
import pydoc
import re
import subprocess
import sys
from dataclasses import replace
from html.parser import HTMLParser
from importlib import metadata
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn

import protocol
import securedl
from securedl.client.display import answer_card, owner_card
from securedl.client.ledger import Ledger
from securedl.client.probes import Verification
from securedl.display import SCREEN_LINES, SCREEN_WIDTH, Card, middle_left_out
from securedl.plan.summary import plan_card
from securedl.verify.report import Blind, Report

ROOT = Path(__file__).parents[2]
#: Modules that are public beside the names in `__all__`.
MODULES = {"securedl": {"datasets", "errors"}, "protocol": set()}


def run(*command: str, code: int = 0) -> str:
    """Standard output of a command at the root of the checkout."""
    done = subprocess.run(
        [sys.executable, *command], cwd=ROOT, capture_output=True, text=True, timeout=250, check=False
    )
    assert done.returncode == code, done.stdout + done.stderr
    return done.stdout


class TestNames:
    @pytest.mark.parametrize("module", [securedl, protocol])
    def test_dir_is_the_public_names(self, module):
        shown = {name for name in dir(module) if not name.startswith("_")}
        assert shown == set(module.__all__) | MODULES[module.__name__]
        assert all(hasattr(module, name) for name in dir(module))

    @pytest.mark.parametrize("package", ["securedl", "protocol"])
    def test_dir_and_completion_before_anything_is_loaded(self, package):
        code = f"""
import rlcompleter, sys, {package}
names = [n for n in dir({package}) if not n.startswith("_")]
assert set(names) == {{*{package}.__all__, *{MODULES[package]!r}}}, names
assert not {{"numpy", "torch", "tenseal"}} & set(sys.modules)
complete = rlcompleter.Completer(dict(m={package})).complete
print(*(complete("m.", i) for i in range(len(names))))
"""
        completed = run("-c", code)
        for name in sys.modules[package].__all__:
            assert f"m.{name}" in completed

    @pytest.mark.parametrize("module", [securedl, protocol])
    def test_the_docstring_has_a_line_for_each_name(self, module):
        for name in [*module.__all__, *MODULES[module.__name__]]:
            assert re.search(rf"^    {name}  +\w.{{10,}}$", module.__doc__, re.MULTILINE), name

    @pytest.mark.parametrize("module", [securedl, protocol])
    def test_help_shows_every_name(self, module):
        text = pydoc.render_doc(module, renderer=pydoc.plaintext)
        for name in module.__all__:
            found = getattr(module, name)
            if inspect.isclass(found):
                assert f"class {name}(" in text, name
            elif inspect.isfunction(found):
                assert f"{name}(" in text, name

    @pytest.mark.parametrize("name", ["datasets", "errors"])
    def test_modules_load_on_first_use(self, name):
        assert run("-c", f"import securedl; print(securedl.{name}.__name__)") == f"securedl.{name}\n"

    def test_every_public_object_is_documented(self):
        for module in (securedl, protocol):
            for name in module.__all__:
                assert inspect.getdoc(getattr(module, name)), name


class TestVersion:
    def test_it_is_that_of_the_installation(self):
        assert securedl.__version__ == metadata.version("securedl")

    def test_it_loads_on_first_use(self):
        code = "import securedl, sys; assert not {'importlib.metadata'} & set(sys.modules)"
        code += "; print(securedl.__version__)"
        assert run("-c", code).strip() == securedl.__version__

    def test_a_checkout_that_was_never_installed(self, monkeypatch):
        from securedl import version

        def missing(name):
            raise metadata.PackageNotFoundError(name)

        monkeypatch.setattr(metadata, "version", missing)
        assert version._installed() == version.UNKNOWN == "0+unknown"

    def test_the_command_line_tells_it(self):
        assert run("-m", "securedl.cli", "--version") == f"securedl {securedl.__version__}\n"


@pytest.mark.slow  # as `make check` does
def test_types_of_the_public_names():
    """`client.predict` is an Answer, `compile` a Plan, and so on."""
    assert "Success" in run("-m", "mypy", "tests/unit/surface_types.py")


class Cells(HTMLParser):
    """The tags and the text of HTML."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: set[str] = set()
        self.words = ""
        self.feed(html)

    def handle_starttag(self, tag, attrs):
        self.tags.add(tag)

    def handle_data(self, data):
        self.words += data + "\n"


def fits(text: str) -> bool:
    lines = text.splitlines()
    return (
        len(lines) <= SCREEN_LINES
        and max(map(len, lines)) <= SCREEN_WIDTH
        and all(c.isprintable() for c in "".join(lines))
    )


@pytest.fixture(scope="module")
def plan():
    """6-8-3, squared."""
    x = np.random.default_rng(0).uniform(-1, 1, (64, 6))
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 3)).double()
    return securedl.compile(securedl.approximate(model, x), x, batch=16)


def numbers(*arrays) -> set[str]:
    """How values of arrays could be shown."""
    values = np.concatenate([np.asarray(a).ravel() for a in arrays])
    return {f"{abs(v):.3f}" for v in values if abs(v) > 0.01}


class TestPlan:
    def test_it_says_what_matters(self, plan):
        text = repr(plan)
        assert fits(text)
        title, *rows = text.splitlines()
        assert title == "Plan of 2 layers, 6 -> 3, CKKS"
        assert rows[:2] == ["  layers     1. 0: 6 -> 8, square (degree 2)", "             2. 2: 8 -> 3"]
        for words in (f"ring       {plan.program.params.ring},", "batch      16 samples", "refreshes  ",
                      "keys       ", "server ", f"program    {plan.program.id.hex()}"):  # fmt: skip
            assert f"\n  {words}" in text or words in text, words

    def test_it_shows_no_secret(self, plan):
        secrets = numbers(plan.samples, plan.network.layers[0].bias, plan.network.layers[0].matrices[0].data)
        secrets |= numbers(plan.graph.nodes[0].bias, plan.network.input_scale, plan.network.output_scale)
        for shown in (repr(plan), plan._repr_html_(), plan.summary()):
            assert not any(secret in shown for secret in secrets)
            assert "array" not in shown

    def test_no_part_of_it_shows_a_secret(self, plan):
        """A traceback with locals shows parts too."""
        probes = Verification(plan).probes
        parts = [plan.network, *plan.network.layers, plan.graph, *plan.graph.nodes]
        parts += [probes, probes.fingerprint]
        for part in parts:
            assert repr(part).startswith(f"<{type(part).__module__}.{type(part).__name__} object at ")

    def test_html_has_the_same_words(self, plan):
        html = Cells(plan._repr_html_())
        assert html.tags == {"b", "table", "tr", "td"}
        for line in repr(plan).splitlines():
            assert line.split("  ")[-1].strip() in html.words

    def test_many_layers_with_long_and_wicked_names(self, plan):
        names = ["x" * 200, "<script>alert(1)</script>", "a\nb\x1b[2J", *map(str, range(40))]
        rows = [f"{k + 1}. {name}: 6 -> 8; 3 diagonals" for k, name in enumerate(names)]
        network = SimpleNamespace(rows=lambda program: rows, sizes=(6, 8))
        card = plan_card(replace(plan.signature, checkpoints=plan.signature.checkpoints * 9), network)
        assert fits(card.text())
        assert "... 39 more ..." in card.text()
        assert "43. 39: 6 -> 8" in card.text()
        assert Cells(card.html()).tags == {"b", "table", "tr", "td"}
        assert "<script>alert(1)</script>" in Cells(card.html()).words

    def test_summary_lists_every_layer(self, plan):
        lines = plan.summary().splitlines()
        assert lines[0].startswith("CKKS, ring 8192, primes [")
        assert [line.split(":")[0] for line in lines[2:12]] == [
            "  1. 0", "  2. 2", "refreshes", "keys", "once", "server", "a query", "checks",
            "estimate for one batch", "simulated error",
        ]  # fmt: skip
        assert all(line.startswith("instead: ") for line in lines[12:])


class TestOwner:
    def test_it_names_model_and_plan_only(self, plan):
        card = owner_card(
            bytes(range(16)), plan, [Verification(plan, Ledger(checked=7, alarmed=2, batches=3))]
        )
        text = card.text()
        assert fits(text)
        assert text.splitlines()[0] == "Owner of model 000102030405060708090a0b0c0d0e0f"
        assert "2 layers, 6 -> 3, ring 8192, batch 16" in text
        assert "3 batches" in text
        assert "7 compared, 2 in batches with an alarm" in text

    def test_no_probes_are_made_for_it(self, plan):
        verification = Verification(plan)
        owner_card(bytes(16), plan, [verification]).text()
        assert "probes" not in vars(verification)

    @pytest.mark.he
    def test_an_owner_shows_no_key(self, plan):
        owner = securedl.Owner(plan)
        assert fits(repr(owner))
        assert owner.model_id.hex() in repr(owner)
        for shown in (repr(owner), owner._repr_html_()):
            assert owner._key_id.hex() not in shown
            assert not any(secret in shown for secret in numbers(plan.samples))
        assert repr(Verification(plan)).count("\n") < SCREEN_LINES


TIMINGS = {"encrypt": 2.04, "server": 80.2, "refresh": 0.0, "decrypt": 3.3, "total": 98.4}
TRAFFIC = {"query": 1_300_000, "answer": 400_000}
PASSED = Report(passed=True, probes=23, checkpoints=4, worst_ratio=0.104, detection={0.1: 0.9}, bound=0.12)


class TestAnswer:
    def test_it_says_what_matters(self):
        logits = np.random.default_rng(0).normal(size=(297, 10))
        answer = securedl.Answer(logits, logits.argmax(1), PASSED, TIMINGS, TRAFFIC)
        text = repr(answer)
        assert fits(text)
        assert text.splitlines()[0] == "Answer for 297 samples, 10 outputs each"
        assert " ".join(map(str, answer.labels[:10])) + " ..." in text
        assert "verification  passed\n" in text
        assert "23 probes and 4 checkpoints compared" in text
        assert "largest deviation 0.104 x its tolerance" in text
        assert "time          98 ms: encrypt 2, server 80, refresh 0, decrypt 3" in text
        assert "1.70 MB: query 1.30, answer 0.40" in text
        assert not any(number in text for number in numbers(logits[:5]))
        assert Cells(answer._repr_html_()).tags == {"b", "table", "tr", "td"}

    def test_every_answer_compared(self):
        blind = Blind(4.6e-06, 1e-6, "output 2, lane 0")
        report = Report(True, 23, 4, 0.104, checked=297, points=3, blind=blind)
        text = repr(securedl.Answer(np.zeros((297, 10)), np.zeros(297, int), report, TIMINGS, TRAFFIC))
        assert fits(text)
        assert "all 297 answers recomputed, every value at 3 checkpoints" in text

    def test_an_alarm_is_loud(self):
        report = Report(False, 3, 0, 1e6, ("2 probe(s) differ at the answer of batch 1", "another"))
        text = answer_card(np.zeros((1, 2)), np.zeros(1, int), report, TIMINGS, {}).text()
        assert fits(text)
        assert text.splitlines()[0] == "Answer for 1 sample, 2 outputs each"
        assert "verification  FAILED, 2 alarms\n" in text
        assert "2 probe(s) differ at the answer of batch 1" in text

    @pytest.mark.parametrize(
        ("labels", "words"),
        [
            (None, "none: the outputs are values"),
            (np.zeros((30, 4), int), "[0, 0, 0, 0] [0, 0, 0, 0]"),
            (np.zeros((30, 40, 50), int), "[[0, 0, 0, 0, 0, ..."),
            (np.array([3]), "labels        3\n"),
        ],
    )
    def test_labels_of_any_shape(self, labels, words):
        text = answer_card(np.zeros((30, 4)), labels, PASSED, {}, {}).text()
        assert fits(text)
        assert words in text

    def test_outliers_are_said(self):
        report = Report(True, 3, 0, 0.1, skipped=(7,), clipped=(2, 5))
        text = answer_card(np.zeros((9, 4)), np.zeros(9, int), report, TIMINGS, TRAFFIC).text()
        assert fits(text)
        assert "1 sample skipped, out of range: 7\n" in text
        assert "2 samples clipped, out of range: 2, 5\n" in text

    def test_nothing_checked_is_said(self):
        report = Report(passed=True, probes=0, checkpoints=0, worst_ratio=0.0)
        text = answer_card(np.zeros((3, 4)), None, report, TIMINGS, TRAFFIC).text()
        assert "verification  nothing was checked" in text


class TestCard:
    def test_a_text_has_an_end(self):
        text = Card("t" * 100, tuple((str(n), "v" * 100) for n in range(50))).text()
        assert fits(text)
        assert len(text.splitlines()) == SCREEN_LINES
        assert text.endswith("... 40 more")

    @pytest.mark.parametrize(("count", "shown"), [(0, 0), (4, 4), (5, 5), (6, 5), (99, 5)])
    def test_the_middle_is_left_out(self, count, shown):
        assert len(middle_left_out(map(str, range(count)))) == shown
