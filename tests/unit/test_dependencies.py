"""Imports flow one way, secrets stay in one file, and a server never loads what it must not hold."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
OURS = ("securedl", "polyapprox", "protocol")
SECRET_NAMES = {"SecretKey", "KeyGenerator", "Decryptor"}

#: From the bottom up. A module imports from rows above its own only; a package stands for its modules,
#: which may import each other. The longest name that fits a module is its row.
LAYERS = (
    ("polyapprox", "securedl.errors"),
    ("securedl.files", "securedl.arguments", "securedl.display", "securedl.settings", "securedl.version"),
    ("securedl.progress",),
    ("securedl.network", "securedl.he.params", "securedl.datasets"),
    ("securedl.he.record",),
    ("securedl.he.roots",),
    ("securedl.he.vector.kernels",),
    ("securedl.he",),
    ("securedl.program", "securedl.activations", "securedl.verify"),
    ("securedl.plan",),
    ("securedl.compiler",),
    ("securedl.client",),
    ("protocol",),
    ("protocol.jobs",),
    ("securedl.demo",),
    ("securedl.cli",),
)
ROOMS = ("activations", "client", "compiler", "demo", "he", "network", "plan", "program")
RANK = {name: rank for rank, row in enumerate(LAYERS) for name in row}
#: Their `__init__` files name what they give, for type checkers, and load it on first use.
LAZY = {"securedl", "protocol"}
#: They hold no code of their own.
EMPTY = {"securedl", *(f"securedl.{room}" for room in ROOMS)}


def modules() -> Iterator[tuple[str, Path]]:
    for package in OURS:
        for path in sorted((ROOT / package).rglob("*.py")):
            parts = path.relative_to(ROOT).with_suffix("").parts
            yield ".".join(parts[:-1] if parts[-1] == "__init__" else parts), path


MODULES = dict(modules())


def imports(name: str) -> set[str]:
    """Modules of ours that `name` imports: late imports too, and those for types alone."""
    path = MODULES[name]
    base = name.split(".") if path.name == "__init__.py" else name.split(".")[:-1]
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            above = base[: len(base) - node.level + 1] if node.level else []
            module = ".".join([*above, *([node.module] if node.module else [])])
            inner = {f"{module}.{alias.name}" for alias in node.names}
            found |= {i if i in MODULES else module for i in inner}
    return {module for module in found if module.split(".")[0] in OURS}


def row(module: str) -> str:
    fits = [name for name in RANK if module == name or module.startswith(name + ".")]
    assert fits, f"{module} has no place in LAYERS: give it one"
    return max(fits, key=len)


@pytest.mark.parametrize("module", sorted(set(MODULES) - EMPTY))
def test_imports_go_down(module):
    own = row(module)
    for other in imports(module) - EMPTY:
        if row(other) != own:
            assert RANK[row(other)] < RANK[own], f"{module} imports {other}, which stands above or beside it"


def circle(graph: dict[str, set[str]]) -> list[str]:
    """Names that lead back to themselves, in order, or nothing."""
    finished: set[str] = set()

    def walk(name: str, way: list[str]) -> list[str]:
        if name in way:
            return [*way[way.index(name) :], name]
        if name in finished:
            return []
        for other in sorted(graph.get(name, ())):
            if found := walk(other, [*way, name]):
                return found
        finished.add(name)
        return []

    return next((found for name in sorted(graph) if (found := walk(name, []))), [])


def test_no_circle_among_modules():
    graph = {module: (imports(module) & set(MODULES)) - LAZY - {module} for module in MODULES}
    assert not circle({module: others for module, others in graph.items() if module not in LAZY})


def test_no_circle_among_rooms():
    def room(module: str) -> str:
        return ".".join(MODULES[module].parent.relative_to(ROOT).parts)

    graph: dict[str, set[str]] = {}
    for module in set(MODULES) - LAZY:
        if room(module) == "securedl":
            continue  # errors and files below all rooms, cli above them
        others = (imports(module) & set(MODULES)) - LAZY
        found = {room(other) for other in others if room(other) != "securedl"}
        graph.setdefault(room(module), set()).update(found - {room(module)})
    assert {"securedl.he", "protocol"} <= set(graph)
    assert not circle(graph)


def test_the_search_finds_circles():
    assert circle({"a": {"b"}, "b": {"c"}, "c": {"b"}}) == ["b", "c", "b"]
    assert not circle({"a": {"b", "c"}, "b": {"c"}})


@pytest.mark.parametrize("module", sorted(EMPTY - LAZY))
def test_packages_import_nothing(module):
    assert not imports(module)


def test_the_walk_sees_imports():
    """The oracle of the tests above: imports that are known to be there."""
    assert {"securedl.client.keys", "securedl.client.verifier"} <= imports("securedl.client.inference")
    assert "securedl.network.from_torch" in imports("securedl.compiler.compile")  # inside a function
    assert "securedl.activations.replace" in imports("securedl")  # under TYPE_CHECKING


def test_polyapprox_knows_nothing_of_ours():
    for module in MODULES:
        if module.startswith("polyapprox"):
            assert all(i.startswith("polyapprox") for i in imports(module)), module


def test_verify_never_meets_encryption_or_the_network():
    for module in MODULES:
        if module.startswith("securedl.verify."):
            assert not {i for i in imports(module) if i.startswith(("securedl.he", "protocol"))}, module


def test_only_the_command_line_imports_protocol():
    for module in MODULES:
        if module.startswith("securedl") and module.split(".")[1:2] != ["cli"]:
            assert not {i for i in imports(module) if i.startswith("protocol")}, module


#: What only clients use.
CLIENTS = {f"protocol.{name}" for name in ("client", "async_client", "dialogues", "parts", "side")}


def test_only_the_client_of_protocol_reaches_the_owner():
    """The rest of protocol stands on the public half: parameters, bytes, programs, execution."""
    public = {
        "securedl.errors",
        "securedl.arguments",
        "securedl.files",
        "securedl.progress",
        "securedl.he",
        "securedl.he.params",
        "securedl.he.record",
    }
    public |= {"securedl.he.vector.kernels", "securedl.program"}
    for module in MODULES:
        if module.startswith("protocol"):
            found = {i for i in imports(module) if i.startswith("securedl") and row(i) not in public} - EMPTY
            allowed = {"securedl.client"} if module in CLIENTS else set()
            if module.startswith("protocol.jobs."):  # an owner's own work; no server imports it
                allowed = {"securedl.client", "securedl.network", "securedl.verify"}
            assert {row(i) for i in found} <= allowed, module


def test_only_the_command_line_knows_jobs():
    known = {m for m in MODULES if any(i.startswith("protocol.jobs") for i in imports(m))}
    assert {m for m in known if not m.startswith("protocol.jobs.")} == {"securedl.cli"}


def named(path: Path) -> set[str]:
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Name):
            found.add(node.id)
        elif isinstance(node, ast.Attribute):
            found.add(node.attr)
        elif isinstance(node, ast.ImportFrom | ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            found.add(node.value)  # getattr(seal, "SecretKey")
    return found


def test_only_one_file_names_secret_keys():
    holders = {module for module, path in MODULES.items() if named(path) & SECRET_NAMES}
    assert holders == {"securedl.client.keys"}


def loaded_by(code: str) -> set[str]:
    program = f"{code}\nimport sys\nprint('\\n'.join(sys.modules))"
    run = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, timeout=120, check=True
    )
    return set(run.stdout.split())


def test_a_server_loads_no_torch_no_seal_and_no_secrets():
    loaded = loaded_by("import protocol.server, securedl.program.execute")
    assert {"protocol.server", "securedl.program.execute"} <= loaded
    secret = {
        "securedl.client.owner",
        "securedl.plan.plan",
        "securedl.compiler.compile",
        "securedl.client.inference",
    }
    assert not loaded & ({"torch", "tenseal", "securedl.client.probes"} | secret)


def test_a_server_with_its_usual_evaluator_loads_neither():
    loaded = loaded_by("import protocol.server, securedl.he.vector")
    assert not loaded & {"torch", "tenseal", "securedl.client.owner", "securedl.plan.plan"}


#: Packages whose objects may be given, but that nothing of ours needs.
GUESTS = {"onnx", "pandas", "polars", "sklearn", "matplotlib"}


def test_importing_securedl_costs_nothing():
    assert not loaded_by("import securedl") & ({"numpy", "torch", "tenseal", "scipy"} | GUESTS)


def test_public_names_load_no_package_whose_objects_may_be_given():
    loaded = loaded_by("import securedl\nfor name in securedl.__all__: getattr(securedl, name)")
    assert {"torch", "securedl.network.from_onnx", "securedl.network.from_sklearn"} <= loaded
    assert not loaded & GUESTS


def test_every_public_name_resolves():
    import securedl

    for name in securedl.__all__:
        assert getattr(securedl, name) is not None
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        securedl.nothing  # noqa: B018
