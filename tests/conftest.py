"""Settings for all tests: hypothesis draws the same examples everywhere, and keeps no files; torch takes one
thread, here and in processes that tests start: on networks this small several only wait for each other.
"""

import gc
import os
import sys
from collections.abc import Callable

import pytest
from hypothesis import settings

os.environ.setdefault("OMP_NUM_THREADS", "1")  # read when torch is imported
gc.set_threshold(10_000, 20, 20)  # with Python's own an eighth of the time of tests/unit/network went to it
settings.register_profile("repeatable", derandomize=True, database=None, deadline=None)
settings.load_profile("repeatable")


@pytest.fixture
def command(monkeypatch, capsys) -> Callable[..., tuple[int, str, str]]:
    """`securedl ...`: exit status, stdout, stderr."""

    def run(*words: object) -> tuple[int, str, str]:
        from securedl import cli

        monkeypatch.setattr(sys, "argv", ["securedl", *map(str, words)])
        monkeypatch.setenv("COLUMNS", "80")
        status = 0
        try:
            cli.main()
        except SystemExit as ended:
            status = int(ended.code or 0)
        said = capsys.readouterr()
        return status, said.out, said.err

    return run
