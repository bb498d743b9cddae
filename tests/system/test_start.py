"""The first start of a version compiles the kernels and says so; later ones load them, and only their own."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import NamedTuple

import numba
import pytest

import securedl
from securedl.demo.processes import running, serve_command
from securedl.he.vector.kernels import cache

pytestmark = pytest.mark.he

NOTICE = "compiling kernels, once for this version"
ASK = "from securedl.he import vector; from securedl.he.vector.kernels.cache import kernel_folder; "
ASK += "print(kernel_folder(), vector.compiled())"


class Start(NamedTuple):
    """A start of `securedl serve`: seconds until it served, and its log."""

    seconds: float
    log: str


@pytest.fixture
def fresh(tmp_path: Path) -> Path:
    """A folder with a copy of the packages and no compiled kernel."""
    root = Path(securedl.__file__).parents[1]
    for name in ("securedl", "protocol"):
        shutil.copytree(root / name, tmp_path / name, ignore=shutil.ignore_patterns("__pycache__"))
    return tmp_path


def start(folder: Path) -> Start:
    """Serve from the packages in `folder` until the server is ready, then stop it."""
    command = serve_command(Path("store"), "127.0.0.1:0")
    began = time.monotonic()
    with running(command, folder / "log", cwd=folder) as process:
        seconds = time.monotonic() - began
    return Start(seconds, process.logged())


def ask(folder: Path) -> list[str]:
    """Cache folder, and whether it holds every kernel, of the packages in `folder`."""
    done = subprocess.run(
        [sys.executable, "-c", ASK], cwd=folder, capture_output=True, text=True, check=True, timeout=60
    )
    return done.stdout.split()


@pytest.mark.slow
def test_only_a_first_start_compiles(fresh: Path) -> None:
    """Measured: 13 s, then 0.8 s with all imports."""
    first, second = start(fresh), start(fresh)
    print(f"first start {first.seconds:.1f} s, second {second.seconds:.2f} s")
    assert first.log.index(NOTICE) < first.log.index("kernels compiled s=") < first.log.index("listening")
    told = re.search(r"kernels compiled s=([\d.]+)", first.log)
    assert told is not None
    assert 0 < float(told[1]) < first.seconds
    assert "kernels" not in second.log
    assert second.seconds < first.seconds / 2
    folder, filled = ask(fresh)
    assert filled == "True"
    assert Path(folder).is_relative_to(fresh)
    # An upgrade: any kernel file with other bytes. Nothing of the old folder is used.
    with open(fresh / "securedl/he/vector/kernels/rows.py", "a") as file:
        file.write("# changed\n")
    assert ask(fresh)[0] != folder
    assert ask(fresh)[1] == "False"


def test_the_folder_follows_sources_and_compiler(fresh: Path, monkeypatch) -> None:
    """What a stale kernel could come from: an edit, a new file, another Numba, llvmlite or processor."""
    home = fresh / "securedl/he/vector/kernels"
    monkeypatch.setattr(cache, "__file__", str(home / "cache.py"))
    seen = [cache.source_hash()]
    assert cache.source_hash() == seen[0]
    (home / "arith.py").write_text((home / "arith.py").read_text() + "\n")
    seen.append(cache.source_hash())
    (home.parent / "engine.py").write_text((home.parent / "engine.py").read_text() + "\n")
    seen.append(cache.source_hash())
    (home / "more.py").touch()
    seen.append(cache.source_hash())
    (home / "more.py").rename(home / "renamed.py")
    seen.append(cache.source_hash())
    for module, name in ((numba, "__version__"), (cache.llvmlite, "__version__")):
        monkeypatch.setattr(module, name, "99")
        seen.append(cache.source_hash())
    for name in ("python_version", "machine"):
        monkeypatch.setattr(cache.platform, name, lambda: "other")
        seen.append(cache.source_hash())
    assert len(set(seen)) == len(seen)
    cache.kernel_folder.cache_clear()
    try:
        assert cache.kernel_folder() == str(home / "__pycache__" / f"kernels-{seen[-1]}")
    finally:
        cache.kernel_folder.cache_clear()


def test_a_kernel_of_another_processor_does_not_count(monkeypatch) -> None:
    """Compiled code is kept with the processor it was made for; a moved folder is compiled anew."""
    cache.compile_all()
    assert cache.compiled()
    dispatcher, _ = cache._KERNELS[0]
    codegen = type(dispatcher.targetctx.codegen())
    monkeypatch.setattr(codegen, "magic_tuple", lambda self: ("x86_64-unknown-linux-gnu", "other", ""))
    assert not cache.compiled()
