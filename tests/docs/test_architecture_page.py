"""Every path, class, function and attribute that docs/architecture.md names exists in the code."""

from __future__ import annotations

import ast
import re
import tomllib
from collections import defaultdict
from collections.abc import Iterator
from typing import Final

import pytest

from tests.house.sources import BACKENDS, CORE, ROOT, files, parsed

PAGE: Final = (ROOT / "docs/architecture.md").read_text(encoding="utf-8")
NAMES: Final = sorted(set(re.findall(r"`([^`]+)`", PAGE)))
NO_NAMES_OF_CODE: Final = {"eventbus", "eventbus_memory", "eventbus_redis", "lint-imports", "_suite", "$sys."}
INVARIANTS: Final = re.search(r"^## Invariants$(.*?)^## ", PAGE, re.MULTILINE | re.DOTALL)


def _members(kind: ast.ClassDef) -> Iterator[str]:
    """The methods and attributes that a class defines."""
    for node in ast.walk(kind):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            yield node.name
        elif isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
            yield node.target.id
        elif isinstance(node, ast.Name | ast.Attribute) and isinstance(node.ctx, ast.Store):
            yield node.id if isinstance(node, ast.Name) else node.attr


def _definitions() -> dict[str, set[str]]:
    """Each class, function and constant of the code, with the members of the classes of that name."""
    found: defaultdict[str, set[str]] = defaultdict(set)
    for path in files(CORE, *BACKENDS):
        for node in ast.walk(parsed(path)):
            if isinstance(node, ast.ClassDef):
                found[node.name].update(_members(node))
            elif isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                found[node.name].update()
            elif isinstance(node, ast.Name | ast.Attribute) and isinstance(node.ctx, ast.Store):
                found[node.id if isinstance(node, ast.Name) else node.attr].update()
    return found


DEFINITIONS: Final = _definitions()


def _exists(name: str) -> bool:
    if "/" in name or name.endswith((".py", ".toml")):
        return any((folder / name).exists() for folder in (CORE, ROOT))
    owner, _, member = name.partition(".")
    if member:
        return member in DEFINITIONS.get(owner, ())
    return name in DEFINITIONS or (CORE / name).is_dir() or (CORE / f"{name}.py").exists()


@pytest.mark.parametrize("name", [name for name in NAMES if name not in NO_NAMES_OF_CODE])
def test_a_name_on_the_page_exists_in_the_code(name: str) -> None:
    assert _exists(name), f"docs/architecture.md names {name!r}, which is not in the code any more"


@pytest.mark.parametrize(
    "name", ["routing/missing.py", "Outbox.no_such", "NoSuch.run", "NO_SUCH_CONSTANT", "no_such_name"]
)
def test_a_name_that_the_code_does_not_have_is_found_missing(name: str) -> None:
    assert not _exists(name)


def test_the_page_lists_the_layers_in_the_order_that_the_import_linter_checks() -> None:
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    layers = settings["tool"]["importlinter"]["contracts"][0]["layers"]
    packages = [package for layer in layers for package in layer.split(" | ") if not package.startswith("_")]
    table = PAGE.partition("| package |")[2].partition("\n\n")[0]
    assert re.findall(r"^\| `(\w+)` \|", table, re.MULTILINE) == packages


def test_the_classes_in_the_table_of_invariants_have_a_docstring_that_says_more_than_a_line() -> None:
    assert INVARIANTS is not None
    places = re.findall(r"\| (`[^|]+`) \|$", INVARIANTS[1], re.MULTILINE)
    classes = {name for place in places for name in re.findall(r"`([A-Z][a-z]\w+)`", place)}
    docstrings = {
        node.name: ast.get_docstring(node) or ""
        for path in files(CORE)
        for node in ast.walk(parsed(path))
        if isinstance(node, ast.ClassDef) and node.name in classes
    }
    assert len(classes) >= 10
    assert {name for name in classes if docstrings[name].count("\n") < 3} == set()
