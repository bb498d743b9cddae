"""The pages are true: their examples run, and the files, names and places that they point to are there."""

from __future__ import annotations

import ast
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch

from securedl.network import from_torch, operations
from securedl.program import kinds

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]
#: Where a path on a page may begin.
BEGINNINGS = (ROOT, ROOT / "securedl", ROOT / "protocol")
FILES = [
    path
    for folder in ("securedl", "protocol", "polyapprox", "tests", "bench", "examples", "docs")
    for path in (ROOT / folder).rglob("*")
    if path.suffix in (".py", ".md", ".proto")
]
CODE = re.compile(r"^```(\w*)\n(.*?)^```$", re.DOTALL | re.MULTILINE)
#: One thing in backticks: on one line, or broken once.
QUOTED = re.compile(r"`([^`\n]+(?:\n[^`\n]+)?)`")


def examples(text: str) -> Iterator[tuple[str, str]]:
    """Heading and source of each block of Python."""
    for block in CODE.finditer(text):
        if block[1] == "python":
            headings = re.findall(r"^#+ (.*)$", CODE.sub("", text[: block.start()]), re.MULTILINE)
            yield headings[-1] if headings else "", block[2]


def quoted(text: str) -> list[str]:
    """What stands in backticks outside blocks of code."""
    return QUOTED.findall(CODE.sub("", text))


def missing_paths(text: str) -> list[str]:
    """Files and folders in backticks that are not there. A name alone is that of any file of ours."""
    names = {path.name for path in FILES}
    words = [word for part in quoted(text) for word in part.split()]
    found = [
        word for word in words if re.fullmatch(r"(\w[\w.-]*/)*\w[\w-]*\.(py|md|proto)|(\w[\w.-]*/)+", word)
    ]
    return [
        word
        for word in found
        if not any((start / word).exists() for start in BEGINNINGS) and ("/" in word or word not in names)
    ]


def unknown_names(text: str) -> list[str]:
    """Identifiers in backticks whose last part stands in no file of ours."""
    found = [word for word in quoted(text) if re.fullmatch(r"[A-Za-z_][\w.]*\w(\(\))?", word)]
    found = [word for word in found if not re.search(r"\.(py|md|proto|txt|json|bin|toml)$", word)]
    last = [(word, re.split(r"\W", word.removesuffix("()"))[-1]) for word in found]
    return [word for word, name in last if name not in WORDS | FOREIGN]


def texts(path: Path) -> Iterator[str]:
    """Every text in a file of Python, with a NUL for each value that is put into it."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            yield node.value
        elif isinstance(node, ast.JoinedStr):
            yield "".join(p.value if isinstance(p, ast.Constant) else "\0" for p in node.values)  # type: ignore[misc]


def unknown_messages(text: str) -> list[str]:
    """Messages in the first column of a table of which no half, in one piece, is a text of ours.

    The rest may be what is put in: numbers, names, other sentences.
    """
    ours = [p for p in FILES if p.suffix == ".py" and p.relative_to(ROOT).parts[0] not in ("tests", "bench")]
    whole = "\n".join(known for path in ours for known in texts(path))

    def known(message: str) -> bool:
        words = PUT_IN.sub("\0", message).split()
        half = max(-(-len(words) // 2), min(len(words), 2))
        return any(" ".join(words[at : at + half]) in whole for at in range(len(words) - half + 1))

    rows = re.findall(r"^\| (`.*?) \| ", text, re.MULTILINE)
    messages = [message for row in rows for message in QUOTED.findall(row)]
    return [message for message in messages if not known(message)]


def broken_links(page: Path, text: str) -> list[str]:
    """Links to files or headings that are not there; those to other sites are not followed."""
    broken = []
    for target in re.findall(r"\]\(([^)\s]+)\)", CODE.sub("", text)):
        if "://" in target:
            continue
        name, _, anchor = target.partition("#")
        file = (page.parent / name).resolve() if name else page
        if not file.exists() or (anchor and anchor not in anchors(file.read_text())):
            broken.append(target)
    return broken


def anchors(text: str) -> set[str]:
    """What a heading is called in a link."""
    headings = re.findall(r"^#+ (.*)$", CODE.sub("", text), re.MULTILINE)
    return {re.sub(r"[^\w -]", "", heading).strip().lower().replace(" ", "-") for heading in headings}


#: Every word of the code, and of what builds and tests it.
WORDS = {
    word
    for path in [*FILES, ROOT / "pyproject.toml", ROOT / "Makefile"]
    if path.suffix != ".md" and path != Path(__file__)
    for word in re.findall(r"\w+", path.read_text())
}
EXAMPLES = list(examples((ROOT / "docs/extending.md").read_text()))
#: What stands on the page of errors for what is put into a message.
PUT_IN = re.compile(r"\.\.\.|\b[A-Z]\b|\b\d+\b|'[^']*'|\b(x|x_train|y_train)\b")
#: Names on pages that are not ours, and that our code does not use.
FOREIGN = {"UNAVAILABLE"}  # of gRPC


def run(code: str, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Run a block as a module of its own; what it registers is forgotten afterwards."""
    module = ModuleType(name)
    monkeypatch.setitem(sys.modules, name, module)  # dataclasses look their module up
    assert from_torch  # which registers the rules of operations, before the tables are looked at
    tables: list[dict[Any, Any]] = [operations.OPERATIONS, kinds.STEPS]
    kept = [dict(table) for table in tables]
    try:
        with torch.random.fork_rng():
            exec(compile(code, name, "exec", dont_inherit=True), module.__dict__)
    finally:
        for table, before in zip(tables, kept, strict=True):
            table.clear()
            table.update(before)


@pytest.mark.he
@pytest.mark.parametrize("code", [pytest.param(code, id=heading) for heading, code in EXAMPLES])
def test_an_example_runs(code: str, monkeypatch: pytest.MonkeyPatch) -> None:
    run(code, "example", monkeypatch)


def test_every_kind_of_extension_has_an_example() -> None:
    headings = re.findall(r"^## (.*)$", (ROOT / "docs/extending.md").read_text(), re.MULTILINE)
    assert [heading for heading, _ in EXAMPLES] == headings
    assert len(headings) == 5


@pytest.mark.he
def test_the_use_in_the_readme_runs(tmp_path: Path, monkeypatch, capsys) -> None:
    """All its lines, but for a shorter training and a server of this test's own."""
    import protocol

    ((_, code),) = examples((ROOT / "README.md").read_text())
    address = "127.0.0.1:7443"
    assert code.count("epochs=60") == code.count(address) == 1
    with protocol.Server(tmp_path / "store", "127.0.0.1:0") as server:
        code = code.replace("epochs=60", "epochs=1").replace(address, server.address)
        run(code, "readme", monkeypatch)
    printed = capsys.readouterr().out
    assert "verification: passed" in printed
    # The lines that do not depend on the training stand in the README as they are printed.
    for line in printed.splitlines()[:9]:
        assert line in (ROOT / "README.md").read_text()


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_what_a_page_points_to_is_there(page: Path) -> None:
    text = page.read_text()
    assert not missing_paths(text)
    assert not unknown_names(text)
    assert not broken_links(page, text)


def test_the_messages_are_those_of_the_code() -> None:
    page = (ROOT / "docs/errors.md").read_text()
    assert page.count("\n| `") > 100
    assert not unknown_messages(page)


def test_the_searches_find(tmp_path: Path) -> None:
    """What is wrong, among what is right."""
    text = (
        "See `he/params.py`, `securedl/he/params.py`, `client.py`, `verify/`, `he/nothing.py` and\n"
        "| `docs/nothing.md` | `nothing.py`, `python -m bench.load\nprotocol/nothing.proto` | `nothing/` |\n"
        "```python\nx = '`not/quoted.py`'\n```\n"
        "`Plan.checked`, `Plan.unheard_of()`, `securedl.client.keys`, `unheard.of`\n"
        "## A heading, with `code`\n"
        "[a](page.md) [b](page.md#a-heading-with-code) [c](page.md#other) [d](gone.md) [e](https://x.org/y)\n"
    )
    assert missing_paths(text) == [
        "he/nothing.py", "docs/nothing.md", "nothing.py", "protocol/nothing.proto", "nothing/"
    ]  # fmt: skip
    assert unknown_names(text) == ["Plan.unheard_of()"]
    page = tmp_path / "page.md"
    page.write_text(text)
    assert broken_links(page, text) == ["page.md#other", "gone.md"]
    messages = (
        "| `the servers overflow by a whim` | why | how |\n| `the passphrase is empty`, `too odd` | a | b |"
    )
    assert unknown_messages(messages) == ["the servers overflow by a whim", "too odd"]
    assert list(examples(text)) == [("", "x = '`not/quoted.py`'\n")]


def test_a_wrong_example_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    """And what it registered before it failed is gone."""
    before = dict(kinds.STEPS)
    code = "from securedl.program.kinds import STEPS\nSTEPS['odd'] = object\nassert False"
    with pytest.raises(AssertionError):
        run(code, "wrong", monkeypatch)
    assert before == kinds.STEPS
