"""How far long work is: one argument, one kind of bar and one kind of call, wherever something takes long.

Functions that may take over a second have an argument `progress`:

    None        a bar on standard error where that is a terminal or a notebook, from half a second on
    False       nothing
    True        a bar, wherever standard error leads
    a function  called as progress(stage, done, total)

A stage is one of `STAGE_NAMES`. It is told first with done = 0, then at most ten times a second with a done
that never falls, and last, unless it fails, with done = total. total is 0 while it is unknown. Units are the
stage's own; those of "upload" and "download" are bytes.

The function is called where the work is done. Only where nothing was told for half a second, as in one long
step, another thread repeats what was told last, never at the same time. What the function raises ends the
work, with that exception.

    >>> def progress(stage: str, done: int, total: int) -> None:
    ...     print(stage, done, total)
    >>> with stage("compile", progress) as told:
    ...     told(1, 2)
    compile 0 0
    compile 2 2
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any, TypeAlias

from securedl.arguments import kind
from securedl.errors import InputError

#: What is done in them: activations replaced, a plan made, a secret key made, probes and tolerances made, a
#: kit made, samples simulated, files fetched, a model sent, a file of samples read, queries answered.
STAGE_NAMES = (
    "approximate", "compile", "keys", "probes", "grant", "simulate", "download", "upload", "read", "predict",
)  # fmt: skip

#: stage, done, total
Callback: TypeAlias = Callable[[str, int, int], object]
#: What is given as an argument.
Progress: TypeAlias = Callback | bool | None
#: What a step of a stage is told with: done, total.
Steps: TypeAlias = Callable[[int, int], object]

#: Seconds: between two calls at least, before a call is repeated, and before there is a bar.
LEAST_S, REPEAT_S, BAR_S = 0.1, 0.5, 0.5
#: Of each part of a stage whose parts count in units of their own.
UNITS = 100


def check_progress(progress: Any) -> None:
    """Refuse what cannot be told.

    Raises:
        InputError: so it is.
    """
    if progress is not None and not isinstance(progress, bool) and not callable(progress):
        raise InputError(
            "progress is None (a bar on terminals), False (nothing), True (a bar) or a function, which is "
            f"called as progress(stage, done, total); {kind(progress)} is none of them"
        )


class StageProgress:
    """One stage of work, of which nothing is shown."""

    _counted = _of = 0

    def __call__(self, done: int, total: int) -> None:
        """So much is done, of so much."""

    def count(self, done: int, total: int) -> None:
        """From here on `tick` counts."""
        self._counted, self._of = done, total

    def tick(self) -> None:
        """One more is done."""
        self._counted += 1
        self(self._counted, self._of)

    def part(self, number: int, of: int) -> Steps:
        """What the part of that number, from 0, is told with, which counts in its own units."""

        def steps(done: int, total: int) -> None:
            self(number * UNITS + (UNITS * done // total if total else 0), of * UNITS)

        return steps

    @contextlib.contextmanager
    def outside(self) -> Iterator[None]:
        """Inside, other work than the stage's is done: nothing is shown meanwhile."""
        yield


#: Where nobody wants to know.
SILENT = StageProgress()


@contextlib.contextmanager
def stage(name: str, progress: Progress) -> Iterator[StageProgress]:
    """Tell a stage of work: its beginning, what the block tells, and its end.

    Raises:
        InputError: `progress` cannot be told.
    """
    check_progress(progress)
    bar = None
    if progress is False:
        yield SILENT
        return
    if progress is None or progress is True:
        bar = _bar(always=progress is True)
        if bar is None:
            yield SILENT
            return
        progress = bar
    told = _Told(name, progress, (lambda: None) if bar is None else bar.close)
    try:
        told.begin()
        yield told
        told.end()
    finally:
        told.close()


class _Told(StageProgress):
    """A stage that is told to a function, by the one that works and by a thread that repeats it."""

    def __init__(self, name: str, tell: Callback, hide: Callable[[], object]) -> None:
        self._name, self._tell, self._hide = name, tell, hide
        self._done = self._total = 0
        self._at = 0.0
        self._failure: BaseException | None = None
        self._lock, self._ended, self._away = threading.RLock(), threading.Event(), False
        self._thread = threading.Thread(target=self._repeat, name="securedl-progress", daemon=True)

    def begin(self) -> None:
        self._say()
        self._thread.start()

    def __call__(self, done: int, total: int) -> None:
        with self._lock:
            self._raise()
            self._done = max(done, self._done)
            self._total = max(total, self._done) if total else 0
            if time.monotonic() - self._at >= LEAST_S:
                self._say()

    def end(self) -> None:
        """All is done."""
        with self._lock:
            self._raise()
            self._done = self._total = max(self._total, self._done, 1)
            self._say()

    def close(self) -> None:
        """Nothing is told any more."""
        self._ended.set()
        if self._thread.ident is not None and self._thread is not threading.current_thread():
            self._thread.join()
        self._hide()

    @contextlib.contextmanager
    def outside(self) -> Iterator[None]:
        with self._lock:
            self._away = True
            self._hide()
        try:
            yield
        finally:
            self._away = False

    def _say(self) -> None:
        self._tell(self._name, self._done, self._total)
        self._at = time.monotonic()

    def _raise(self) -> None:
        if self._failure is not None:
            raise self._failure

    def _repeat(self) -> None:
        while not self._ended.wait(REPEAT_S / 2):
            with self._lock:
                silent = time.monotonic() - self._at >= REPEAT_S
                if self._ended.is_set() or self._away or self._failure is not None or not silent:
                    continue
                try:
                    self._say()
                except BaseException as error:  # raised again where the work is done
                    self._failure = error


class _Bar:
    """A bar on standard error that goes away with its stage."""

    def __init__(self, console: Any) -> None:
        self._console, self._began = console, time.monotonic()
        self._shown: Any = None
        self._refused = False

    def __call__(self, name: str, done: int, total: int) -> None:
        if self._refused or time.monotonic() - self._began < BAR_S:
            return
        if self._shown is None:
            self._show(name)
        if self._shown is not None:
            self._shown.update(self._task, completed=done, total=total or None)

    def _show(self, name: str) -> None:
        from rich.errors import LiveError
        from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeElapsedColumn

        columns = (TextColumn("{task.description}"), BarColumn(), TaskProgressColumn(), TimeElapsedColumn())
        # What the program prints goes where it would without a bar.
        console = self._console
        bar = Progress(*columns, console=console, transient=console.is_terminal, redirect_stdout=False)
        self._task = bar.add_task(name, total=None)
        try:
            bar.start()
        except LiveError:  # the program shows one of its own
            self._refused = True
        else:
            self._shown = bar

    def close(self) -> None:
        """Leave nothing of it."""
        shown, self._shown = self._shown, None
        if shown is not None:
            shown.stop()


def _bar(always: bool) -> _Bar | None:
    """One, where it can be seen."""
    from rich.console import Console

    console = Console(stderr=True)
    return _Bar(console) if always or console.is_terminal or console.is_jupyter else None
