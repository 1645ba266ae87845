"""What a backend may import of the core: ours are held by import-linter, the one in the docs here."""

from __future__ import annotations

import ast
import re
from typing import Final

from tests.house.sources import BACKENDS, ROOT, files, parsed, shown

ALLOWED: Final = {"eventbus_core.backend", "eventbus_core.errors", "eventbus_core.testing"}
BLOCK: Final = re.compile(r"<!-- file: (\S+\.py) -->\n```python\n(.*?)```", re.DOTALL)


def _core_imports(tree: ast.AST) -> set[str]:
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module:
            found.add(node.module)
        elif isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
    return {name for name in found if name.partition(".")[0] == "eventbus_core"}


def test_the_backend_in_the_docs_imports_only_the_contract() -> None:
    page = (ROOT / "docs/writing-a-backend.md").read_text(encoding="utf-8")
    found = {file: _core_imports(ast.parse(code)) for file, code in BLOCK.findall(page)}
    assert {name for names in found.values() for name in names} == ALLOWED
    assert {file: names - ALLOWED for file, names in found.items() if names - ALLOWED} == {}


def test_our_backends_import_only_the_contract() -> None:
    found = {shown(path): _core_imports(parsed(path)) - ALLOWED for path in files(*BACKENDS)}
    assert {path: names for path, names in found.items() if names} == {}
