"""The structure of the core: sizes, constructors, import circles, names and attributes."""

from __future__ import annotations

import ast
from collections import defaultdict
from collections.abc import Iterator
from graphlib import CycleError, TopologicalSorter
from typing import Final

import pytest

from tests.house.sources import BACKENDS, CORE, files, imports, module_name, parsed, shown

MAX_TOP_MODULES: Final = 6
MAX_LINES: Final = 400
MAX_PARAMETERS: Final = 8

SAME_NAME: Final[dict[str, str]] = {}
"""Names that two modules of the core may have, with the reason."""

OUTSIDE: Final[dict[str, str]] = {
    "cli/demo/demo_node.py: tasks.cancel_scope": "an object of anyio",
    "cli/demo/demo_run.py: outcome": "a record that this module alone fills",
    "cli/event_source.py: count": "a record that this module alone fills",
    "cli/standard_streams.py: sys": "a module of the standard library, whose streams a program may replace",
    "cli/top.py: table": "an object of rich",
    "concurrency/batcher.py: entry": "a slots class private to this module",
    "errors.py: _repr": "an object of reprlib",
    "mailbox/mailbox.py: chunk": "a slots class of this module, in the hot path",
    "mailbox/mailbox.py: chunks[0]": "a slots class of this module, in the hot path",
    "mailbox/mailbox.py: last": "a slots class of this module, in the hot path",
    "observability/log.py: record": "a filter of logging changes its records",
    "outbox/outbox.py: queue": "the outbox alone writes its queues, in the hot path: see PartitionQueue",
    "outbox/route_queue.py: queue": "a part of the outbox, in the hot path: see PartitionQueue",
    "session/incoming.py: ticket": "a slots class of this module, in the hot path",
}
"""Attributes that may be set on another object: "file: variable", with the reason."""


def test_few_modules_lie_directly_in_the_core() -> None:
    assert len(list(CORE.glob("*.py"))) <= MAX_TOP_MODULES


def test_no_module_is_too_long() -> None:
    long = {
        shown(path): lines
        for path in files(CORE, *BACKENDS)
        if (lines := len(path.read_text().splitlines())) > MAX_LINES
    }
    assert long == {}, f"over {MAX_LINES} lines: split by concept"


def test_no_constructor_takes_too_many_parameters() -> None:
    many = {
        f"{shown(path)}: {kind.name}": count
        for path in files(CORE, *BACKENDS)
        for kind in ast.walk(parsed(path))
        if isinstance(kind, ast.ClassDef)
        for method in kind.body
        if isinstance(method, ast.FunctionDef) and method.name == "__init__"
        if (count := len(method.args.posonlyargs + method.args.args + method.args.kwonlyargs) - 1) > MAX_PARAMETERS
    }
    assert many == {}, f"more than {MAX_PARAMETERS} parameters: the class has too many collaborators"


def test_no_modules_import_each_other_in_a_circle() -> None:
    modules = {module_name(path): path for path in files(CORE)}
    graph = {name: set(imports(parsed(path), frozenset(modules))) - {name} for name, path in modules.items()}
    assert sum(map(len, graph.values())) > len(modules), "the imports were not found"
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        pytest.fail(f"import circle: {' -> '.join(reversed(error.args[1]))}")


def test_no_two_modules_have_the_same_name() -> None:
    paths = defaultdict(list)
    for path in files(CORE):
        if not path.stem.startswith("_"):
            paths[path.stem].append(shown(path))
    assert _doubles(paths) == {}, "a file name is the answer to 'where is X?': give each its own"


def test_no_two_classes_or_public_constants_have_the_same_name() -> None:
    places = defaultdict(list)
    for path in files(CORE):
        for name in _definitions(parsed(path)):
            places[name].append(shown(path))
    assert _doubles(places) == {}, "one name for one thing: rename all but one"


def test_no_attribute_is_set_on_an_object_from_outside() -> None:
    found = {
        f"{path.relative_to(CORE)}: {owner}": line
        for path in files(CORE)
        for owner, line in _outside_assignments(parsed(path))
    }
    outside = {place: f"line {line}" for place, line in found.items() if place not in OUTSIDE}
    assert outside == {}, "pass it to the constructor, or give the object a method"
    assert set(OUTSIDE) <= set(found), "these are no longer needed: remove them from OUTSIDE"


def _doubles(places: dict[str, list[str]]) -> dict[str, list[str]]:
    return {name: found for name, found in places.items() if len(found) > 1 and name not in SAME_NAME}


def _definitions(tree: ast.Module) -> Iterator[str]:
    """The public classes and constants of a module."""
    for node in tree.body:
        value = getattr(node, "value", None)
        if isinstance(value, ast.Call) and ast.unparse(value.func) in ("TypeVar", "ParamSpec"):
            names = []
        elif isinstance(node, ast.ClassDef):
            names = [node.name]
        elif isinstance(node, ast.Assign):
            names = [target.id for target in node.targets if isinstance(target, ast.Name) and target.id.isupper()]
        elif isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name) and node.target.id.isupper():
            names = [node.target.id]
        else:
            names = []
        yield from (name for name in names if not name.startswith("_"))


def _outside_assignments(tree: ast.Module) -> Iterator[tuple[str, int]]:
    for node in ast.walk(tree):
        targets = node.targets if isinstance(node, ast.Assign) else [getattr(node, "target", None)]
        for target in targets:
            for part in ast.walk(target) if target is not None else ():
                if isinstance(part, ast.Attribute) and isinstance(part.ctx, ast.Store):
                    owner = ast.unparse(part.value)
                    if owner not in ("self", "cls"):
                        yield owner, part.lineno
