"""Progress: what a function is told, when, and by whom; who sees a bar; and that both end with the work."""

from __future__ import annotations

import io
import sys
import threading
import time

import pytest
from rich.console import Console
from rich.progress import Progress as RichProgress

from securedl import progress as module
from securedl.errors import InputError
from securedl.progress import SILENT, STAGE_NAMES, stage


class Told(list[tuple[str, int, int]]):
    """Remembers what it is told, and the threads that did."""

    def __init__(self) -> None:
        self.threads = list[threading.Thread]()

    def __call__(self, name: str, done: int, total: int) -> None:
        self.append((name, done, total))
        self.threads.append(threading.current_thread())


@pytest.fixture
def quick(monkeypatch) -> None:
    """No call is held back."""
    monkeypatch.setattr(module, "LEAST_S", 0.0)


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def a_terminal(monkeypatch) -> Terminal:
    """On standard error, with no wait for a bar; not a fixture: between them and tests it is set anew."""
    for name in ("FORCE_COLOR", "TTY_COMPATIBLE", "TTY_INTERACTIVE", "NO_COLOR"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setattr(module, "BAR_S", 0.0)
    stream = Terminal()
    monkeypatch.setattr(sys, "stderr", stream)
    return stream


def test_from_the_beginning_to_the_end(quick) -> None:
    told = Told()
    with stage("compile", told) as steps:
        steps(1, 3)
        steps(2, 3)
        steps(1, 3)  # never falls
    assert told == [("compile", done, total) for done, total in [(0, 0), (1, 3), (2, 3), (2, 3), (3, 3)]]
    assert set(told.threads) == {threading.current_thread()}


def test_a_stage_that_counts_nothing_ends_too(quick) -> None:
    told = Told()
    with stage("keys", told):
        pass
    assert told == [("keys", 0, 0), ("keys", 1, 1)]


def test_parts_and_counts(quick) -> None:
    told = Told()
    with stage("probes", told) as steps:
        steps.part(0, 2)(5, 10)
        steps.part(1, 2)(0, 0)
        steps.part(1, 2)(1, 4)
    assert [done for _, done, _ in told] == [0, 50, 100, 125, 200]
    told.clear()
    with stage("simulate", told) as steps:
        steps.count(1, 3)
        steps.tick()
    assert told[1:] == [("simulate", 2, 3), ("simulate", 3, 3)]


def test_at_most_ten_calls_a_second() -> None:
    told, began = Told(), time.monotonic()
    with stage("upload", told) as steps:
        while (spent := time.monotonic() - began) < 0.5:
            steps(int(1e6 * spent), 1_000_000)
    assert 3 <= len(told) <= 10 * (time.monotonic() - began) + 3


def test_a_long_step_is_told_again_and_never_at_the_same_time(monkeypatch) -> None:
    monkeypatch.setattr(module, "REPEAT_S", 0.05)
    inside = list[str]()

    def progress(name: str, done: int, total: int) -> None:
        assert not inside
        inside.append(threading.current_thread().name)
        time.sleep(0.01)
        seen.append((inside.pop(), done))

    seen = list[tuple[str, int]]()
    with stage("compile", progress) as steps:
        steps(1, 2)
        time.sleep(0.4)
        with steps.outside():
            time.sleep(0.1)
            before = len(seen)
            time.sleep(0.3)
            assert len(seen) == before
        count = len(seen)
        time.sleep(0.2)
        assert len(seen) > count
    repeated = [done for thread, done in seen if thread == "securedl-progress"]
    assert len(repeated) >= 4
    assert set(repeated) == {1}
    assert seen[-1] == (threading.current_thread().name, 2)
    assert not [one for one in threading.enumerate() if one.name == "securedl-progress"]


def test_what_the_function_raises_ends_the_work(quick) -> None:
    def progress(name: str, done: int, total: int) -> None:
        if done == 2:
            raise KeyError("enough")

    reached = list[int]()

    def work() -> None:
        with stage("compile", progress) as steps:
            for number in range(5):
                reached.append(number)
                steps(number, 5)

    with pytest.raises(KeyError, match="enough"):
        work()
    assert reached == [0, 1, 2]


def test_what_it_raises_in_the_other_thread_too(monkeypatch) -> None:
    monkeypatch.setattr(module, "REPEAT_S", 0.02)

    def progress(name: str, done: int, total: int) -> None:
        if threading.current_thread().name == "securedl-progress":
            raise KeyboardInterrupt

    def work() -> None:
        with stage("compile", progress) as steps:
            time.sleep(0.3)
            steps(1, 2)
            raise AssertionError("went on")

    with pytest.raises(KeyboardInterrupt):
        work()
    with pytest.raises(KeyboardInterrupt), stage("compile", progress):
        time.sleep(0.3)  # the end notices


def test_the_works_own_error_is_not_told_as_an_end(quick) -> None:
    told = Told()

    def work() -> None:
        with stage("compile", told) as steps:
            steps(1, 2)
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        work()
    assert told[-1] == ("compile", 1, 2)
    assert not [one for one in threading.enumerate() if one.name == "securedl-progress"]


@pytest.mark.parametrize("wrong", [5, "bar", []])
def test_what_cannot_be_told(wrong) -> None:
    with pytest.raises(InputError, match=r"progress is None .* a function"), stage("compile", wrong):
        raise AssertionError("began")


def test_nothing_where_nobody_looks(monkeypatch) -> None:
    stream = io.StringIO()
    monkeypatch.setattr(sys, "stderr", stream)
    for progress in (None, False):
        with stage("compile", progress) as steps:
            assert steps is SILENT
            steps(1, 2)
    assert stream.getvalue() == ""


@pytest.mark.parametrize("error", [None, ZeroDivisionError, KeyboardInterrupt])
def test_a_bar_goes_away(monkeypatch, error) -> None:
    terminal = a_terminal(monkeypatch)
    try:
        with stage("compile", None) as steps:
            steps(1, 2)
            time.sleep(0.3)
            assert "compile" in terminal.getvalue()
            if error:
                raise error
    except (ZeroDivisionError, KeyboardInterrupt):
        pass
    assert "\x1b[?25l" in terminal.getvalue()
    assert terminal.getvalue().endswith("\x1b[2K")  # the line is erased,
    assert terminal.getvalue().rindex("\x1b[?25h") > terminal.getvalue().rindex("\x1b[?25l")  # a cursor shown


def test_short_work_shows_no_bar(monkeypatch) -> None:
    terminal = a_terminal(monkeypatch)
    monkeypatch.setattr(module, "BAR_S", 0.5)
    with stage("compile", None) as steps:
        steps(1, 2)
    assert terminal.getvalue() == ""


def test_a_bar_where_it_is_asked_for(monkeypatch) -> None:
    monkeypatch.setattr(module, "BAR_S", 0.0)
    stream = io.StringIO()
    monkeypatch.setattr(sys, "stderr", stream)
    with stage("compile", True) as steps:
        steps(1, 2)
    assert "compile" in stream.getvalue()


def test_beside_a_bar_of_the_programs_own(monkeypatch, capsys) -> None:
    terminal = a_terminal(monkeypatch)
    with RichProgress(console=Console(file=io.StringIO(), force_terminal=True)) as own:
        own.add_task("mine")
        with stage("compile", None) as steps:
            steps(1, 2)
            print("to standard output")
    assert "to standard output" not in terminal.getvalue()


def test_what_the_program_prints_goes_where_it_would(monkeypatch, capsys) -> None:
    terminal = a_terminal(monkeypatch)
    with stage("compile", None) as steps:
        time.sleep(0.2)
        steps(1, 2)
        print("to standard output")
    assert "compile" in terminal.getvalue()
    assert capsys.readouterr().out == "to standard output\n"


def test_stages_are_documented() -> None:
    assert len(set(STAGE_NAMES)) == len(STAGE_NAMES)
