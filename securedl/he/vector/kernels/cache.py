"""Compiled kernels on disk: one folder for each state of the kernel sources.

Numba's own cache notices an edit of the file that holds a kernel, but not of the files it imports. Here
the folder's name is a hash of every source file of this package and of the versions of Numba, llvmlite
and Python, so nothing stale is ever loaded. The package folder is used where it is writable, otherwise
the user's cache folder; neither of them where somebody else could have put code there, for what is loaded
is run. Folders of other states that nothing was written to for a day are deleted when kernels have been
compiled.
"""

from __future__ import annotations

import hashlib
import logging
import os
import platform
import shutil
import stat
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from typing import Any

import llvmlite
import numba
from numba import types
from numba.core import caching, config, sigutils
from numba.extending import intrinsic

_log = logging.getLogger("securedl.he")
#: Seconds for which the folder of another state of the sources is kept: a process may still run from it.
KEEP_SECONDS = 86400.0

#: Held while the compiler's level is another.
_LEVEL = threading.RLock()

#: Every kernel with its signature, for `compile_all`.
_KERNELS: list[tuple[Any, str]] = []


def source_hash() -> str:
    """16 hexadecimal digits that change with any kernel source or compiler version."""
    digest = hashlib.sha256()
    root = Path(__file__).parents[1]
    for path in sorted(root.rglob("*.py")):
        digest.update(str(path.relative_to(root)).encode() + b"\0" + path.read_bytes() + b"\0")
    versions = (numba.__version__, llvmlite.__version__, platform.python_version(), platform.machine())
    digest.update(repr(versions).encode())
    return digest.hexdigest()[:16]


def _usable(folder: Path) -> bool:
    """Whether kernels can be kept there, and none but this user and root can have put any there."""
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        own = folder.lstat()
        others = own.st_mode & (stat.S_IWGRP | stat.S_IWOTH)
        with os.scandir(folder) as entries:
            found = [own, *(entry.stat(follow_symlinks=False) for entry in entries)]
        if others or not stat.S_ISDIR(own.st_mode) or {one.st_uid for one in found} - {0, os.geteuid()}:
            _log.warning("kernels are not kept in %s: others can write there, or have written", folder)
            return False
        with tempfile.TemporaryFile(dir=folder):
            return True
    except OSError:
        return False


@lru_cache(maxsize=1)
def kernel_folder() -> str | None:
    """Where compiled kernels are kept; None where that cannot be."""
    home = os.environ.get("XDG_CACHE_HOME") or os.path.join(os.path.expanduser("~"), ".cache")
    roots = (Path(__file__).parent / "__pycache__", Path(home) / "securedl")
    for root in roots:
        folder = root / f"kernels-{source_hash()}"
        if _usable(folder):
            return str(folder)
    return None


class _Locator(caching._CacheLocator):
    """Puts a kernel's code into `kernel_folder`, stamped with the hash of all sources."""

    def __init__(self, line: int, folder: str) -> None:
        self._line = line
        self._folder = folder

    def get_cache_path(self) -> str:
        return self._folder

    def get_source_stamp(self) -> str:
        return source_hash()

    def get_disambiguator(self) -> str:
        return str(self._line)

    @classmethod
    def from_function(cls, py_func: Any, py_file: str) -> _Locator | None:
        folder = kernel_folder()
        return None if folder is None else cls(py_func.__code__.co_firstlineno, folder)


class _Implementation(caching.CompileResultCacheImpl):
    _locator_classes = [_Locator]  # noqa: RUF012  # as in the base class


class _KernelCache(caching.FunctionCache):
    """Keyed by the types of the arguments.

    Numba's own key is the signature as it was given: the types where a call compiled the kernel, a string
    where `compile_all` did, and neither would find what the other kept.
    """

    _impl_class = _Implementation

    def _index_key(self, sig: Any, codegen: Any) -> Any:
        arguments, _ = sigutils.normalize_signature(sig)  # type: ignore[no-untyped-call]
        return super()._index_key(arguments, codegen)  # type: ignore[no-untyped-call]


def inner(function: Callable[..., Any]) -> Any:
    """A compiled function that only kernels call."""
    return numba.njit(nogil=True, error_model="numpy")(function)


def kernel(signature: str) -> Callable[[Callable[..., Any]], Any]:
    """A compiled function that runs without the interpreter's lock and is kept on disk."""

    def decorate(function: Callable[..., Any]) -> Any:
        dispatcher = inner(function)
        if kernel_folder() is not None:
            dispatcher._cache = _KernelCache(function)  # type: ignore[no-untyped-call]
        _KERNELS.append((dispatcher, signature))
        return dispatcher

    return decorate


def entry(dispatcher: Any) -> int:
    """Address of a kernel's code, for `caller`."""
    signature = next(written for known, written in _KERNELS if known is dispatcher)
    arguments, _ = sigutils.normalize_signature(signature)  # type: ignore[no-untyped-call]
    with _less_optimised():
        dispatcher.compile(signature)
    code = dispatcher.overloads[arguments]
    return int(code.library.get_pointer_to_function(code.fndesc.llvm_func_name))


def caller(signature: str) -> Any:
    """A function of kernels that calls another kernel by its address, and takes the address first.

    A kernel that is called by name is compiled again with each that calls it: with the transforms called by
    address everything is compiled in 14 s, before in 21.
    """
    arguments, _ = sigutils.normalize_signature(signature)  # type: ignore[no-untyped-call]

    def codegen(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        convention = context.call_conv
        kind = convention.get_function_type(types.none, arguments)
        function = builder.inttoptr(values[0], kind.as_pointer())
        convention.call_function(builder, function, types.none, arguments, values[1:])
        return context.get_dummy_value()

    names = ", ".join(f"a{i}" for i in range(1 + len(arguments)))
    scope: dict[str, Any] = {"result": (types.void(types.int64, *arguments), codegen)}
    exec(f"def typing(typingctx, {names}):\n    return result", scope)  # intrinsic() counts parameters
    return intrinsic(scope["typing"])


@contextmanager
def _less_optimised() -> Iterator[None]:
    """LLVM's second level in place of the third.

    Kernels write their vectors out: they are as fast and take an eighth less time to compile.
    """
    settings: Any = config
    with _LEVEL:
        level = settings.OPT
        settings.OPT = type(level)(min(2, level))
        try:
            yield
        finally:
            settings.OPT = level


def compile_all() -> None:
    """Load every registered kernel from the cache, or compile it."""
    folder, complete = kernel_folder(), compiled()
    with _less_optimised():
        for dispatcher, signature in _KERNELS:
            dispatcher.compile(signature)
    if folder is not None and not complete:
        forget_old(Path(folder))


def compiled() -> bool:
    """Whether `compile_all` would find every kernel on disk, compiled for this processor."""
    for dispatcher, signature in _KERNELS:
        cache = dispatcher._cache
        if not isinstance(cache, _KernelCache):
            return False
        if cache._index_key(signature, dispatcher.targetctx.codegen()) not in cache._cache_file._load_index():  # type: ignore[no-untyped-call]
            return False
    return True


def _newest(folder: Path) -> float:
    """When something in the folder was last written, in seconds; 0 if it is gone."""
    try:
        times = [folder.stat().st_mtime, *(entry.stat().st_mtime for entry in os.scandir(folder))]
    except FileNotFoundError:
        return 0.0
    return max(times)


def forget_old(current: Path) -> None:
    """Delete the folders of other states of the sources that nobody wrote to for a day."""
    for folder in current.parent.glob("kernels-*"):
        if folder != current and _newest(folder) < time.time() - KEEP_SECONDS:
            shutil.rmtree(folder, ignore_errors=True)  # another process may be deleting it too
