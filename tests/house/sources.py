"""The sources that the tests in this folder read."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).parents[2]
CORE: Final = ROOT / "eventbus_core/src/eventbus_core"
BACKENDS: Final = (
    ROOT / "eventbus_memory/src/eventbus_memory",
    ROOT / "eventbus_redis/src/eventbus_redis",
    ROOT / "examples/nats_backend/eventbus_nats",
)


def files(*folders: Path) -> list[Path]:
    """Return the Python files in *folders*, at any depth."""
    return sorted(path for folder in folders for path in folder.rglob("*.py"))


def shown(path: Path) -> str:
    """Return *path* as an error shows it."""
    return str(path.relative_to(ROOT))


def parsed(path: Path) -> ast.Module:
    """Return the syntax tree of a file."""
    return ast.parse(path.read_text(encoding="utf-8"), str(path))


def module_name(path: Path) -> str:
    """Return the dotted name of a core module."""
    parts = path.relative_to(CORE.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def imports(tree: ast.AST, known: frozenset[str]) -> Iterator[str]:
    """Yield the *known* modules that a syntax tree imports, at any level and for types alone too."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name in known)
        elif isinstance(node, ast.ImportFrom) and node.module:
            for alias in node.names:
                inner = f"{node.module}.{alias.name}"
                if inner in known:
                    yield inner
                elif node.module in known:
                    yield node.module
