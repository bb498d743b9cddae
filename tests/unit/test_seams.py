"""Seams: what only one room may know, enforced on the sources."""

from __future__ import annotations

import ast
import functools
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SOURCES = [p for room in ("securedl", "protocol", "polyapprox") for p in sorted((ROOT / room).rglob("*.py"))]
STEPS = {"Step", "Matvec", "Multiply", "AddWeight", "Refresh", "Tap"}
FORMS = {"none", "square", "cubic", "powers"}


@functools.cache
def parsed(path: Path) -> ast.Module:
    return ast.parse(path.read_text())


def named(node: ast.AST) -> set[str]:
    return {n.id for n in ast.walk(node) if isinstance(n, ast.Name)} | {
        n.attr for n in ast.walk(node) if isinstance(n, ast.Attribute)
    }


def kinds_of_step_tested(tree: ast.AST) -> Iterator[int]:
    """Lines with isinstance(x, Matvec), type(x) is Matvec, or `case Matvec(...)`."""
    for node in ast.walk(tree):
        call = isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "isinstance"
        kind = isinstance(node, ast.Compare) and "type" in named(node)
        if (call or kind) and named(node) & STEPS:
            yield node.lineno  # type: ignore[attr-defined]
        if isinstance(node, ast.MatchClass) and named(node.cls) & STEPS:
            yield node.lineno


def probed(tree: ast.AST) -> Iterator[int]:
    """Lines with getattr or hasattr of an evaluator: a typo would silently mean "slow"."""
    for node in ast.walk(tree):
        call = node.func.id if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) else ""
        if call in ("getattr", "hasattr") and any("evaluator" in n for n in named(node.args[0])):  # type: ignore[attr-defined]
            yield node.lineno  # type: ignore[attr-defined]


def forms_compared(tree: ast.AST) -> Iterator[int]:
    """Lines where a form is compared with a name, or something is looked up by one."""
    for node in ast.walk(tree):
        if not isinstance(node, ast.Compare | ast.Subscript | ast.Match):
            continue
        about_form = any("form" in name.split("_") for name in named(node))
        texts = {n.value for n in ast.walk(node) if isinstance(n, ast.Constant) and isinstance(n.value, str)}
        if about_form and texts & FORMS:
            yield node.lineno


def found(search, *homes: str) -> list[str]:
    return [
        f"{path.relative_to(ROOT)}:{line}"
        for path in SOURCES
        if not str(path.relative_to(ROOT)).startswith(homes)
        for line in search(parsed(path))
    ]


def test_only_programs_know_the_kinds_of_step():
    assert not found(kinds_of_step_tested, "securedl/program/")


def test_no_evaluator_is_probed():
    assert not found(probed)


def test_only_forms_know_their_names():
    assert not found(forms_compared, "securedl/plan/forms.py", "polyapprox/")


@pytest.mark.parametrize(
    ("search", "text"),
    [
        (kinds_of_step_tested, "x = [s for s in steps if isinstance(s, program.Matvec | Refresh)]"),
        (kinds_of_step_tested, "x = type(step) is Multiply"),
        (kinds_of_step_tested, "match step:\n    case AddWeight(): pass"),
        (probed, "own = getattr(self._evaluator, 'giant_steps', None)"),
        (probed, "if hasattr(evaluator, 'rotate_sum'): pass"),
        (forms_compared, "if layer.form == 'square': pass"),
        (forms_compared, "n = {'none': 0, 'square': 1}[layer.form]"),
        (forms_compared, "if layer.form.name != 'powers': pass"),
    ],
)
def test_the_searches_find(search, text):
    assert list(search(ast.parse(text)))


# --- who may know what by name -----------------------------------------------------------------------

#: Names that few files import, whatever they do with them, and these.
KNOWN_BY = {
    "securedl.program.steps": (
        STEPS,
        {"securedl/compiler/lower.py", "securedl/plan/diagonals.py"},
    ),
    "securedl.plan.forms": (
        {"Straight", "Square", "Cubic", "Powers", "Form"},
        {"securedl/compiler/forms.py"},
    ),
    "securedl.he": ({"VectorEvaluator", "SealEvaluator"}, set()),
}


def imported(tree: ast.AST) -> Iterator[tuple[str, str]]:
    """Modules and what is imported from them."""
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom):
            yield from ((node.module or "", alias.name) for alias in node.names)
        elif isinstance(node, ast.Import):
            yield from (tuple(alias.name.rpartition(".")[::2]) for alias in node.names)  # type: ignore[misc]


@pytest.mark.parametrize("home", KNOWN_BY)
def test_few_import_what_only_rooms_may_know(home):
    names, allowed = KNOWN_BY[home]
    own = home.replace(".", "/").rpartition("/")[0] if home != "securedl.he" else "securedl/he"
    for path in SOURCES:
        relative = str(path.relative_to(ROOT))
        if relative.startswith(own) or relative in allowed:
            continue
        for module, name in imported(parsed(path)):
            assert not (module.startswith(home) and name in names), f"{relative} imports {name}"
            whole = f"{module}.{name}"
            assert whole != home or home == "securedl.he", f"{relative} imports {home} whole"


def named_at_run_time(tree: ast.AST) -> Iterator[int]:
    """Lines that import by a text: no search of imports sees what."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and named(node.func) & {"import_module", "__import__"}:
            yield node.lineno


def test_few_import_by_a_text():
    files = {line.partition(":")[0] for line in found(named_at_run_time)}
    lazy = {"securedl/__init__.py", "protocol/__init__.py"}
    assert files == lazy | {"securedl/he/backends.py", "securedl/datasets/tables.py"}


# --- one name for one thing ------------------------------------------------------------------------

#: What a file is started with.
ENTRY_POINTS = {"main"}


def public_names(tree: ast.Module) -> set[str]:
    """What a module itself defines, not what it imports."""
    names = set()
    for node in tree.body:
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            names.add(node.name)
        targets = node.targets if isinstance(node, ast.Assign) else [getattr(node, "target", None)]
        names |= {n.id for target in targets if target for n in ast.walk(target) if isinstance(n, ast.Name)}
    return {name for name in names if not name.startswith("_")} - ENTRY_POINTS


def defined_twice(modules: dict[str, str]) -> dict[str, list[str]]:
    """Public names of several of the sources, with these."""
    homes: dict[str, list[str]] = {}
    for home, source in modules.items():
        for name in public_names(ast.parse(source)):
            homes.setdefault(name, []).append(home)
    return {name: some for name, some in homes.items() if len(some) > 1}


def test_no_public_name_is_defined_twice():
    generated = ("_pb2.py", "_pb2_grpc.py")
    sources = {
        str(path.relative_to(ROOT)): path.read_text() for path in SOURCES if not path.name.endswith(generated)
    }
    assert len(sources) > 100
    assert defined_twice(sources) == {}


@pytest.mark.parametrize(
    "line", ["class Batch: ...", "def Batch(): ...", "Batch = 1", "A, Batch = 1, 2", "Batch: int = 1"]
)
def test_the_search_for_names_finds_them(line):
    assert defined_twice({"one": "class Batch: ...", "two": line}) == {"Batch": ["one", "two"]}
    assert defined_twice({"one": "class Batch: ...", "two": "from one import Batch\n_Batch = 1"}) == {}
