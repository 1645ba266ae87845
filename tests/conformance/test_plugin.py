"""The pytest plugin for applications, as its page shows it."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path

import pytest

from tests.docs.test_docs import files_of, run


def test_the_application_of_the_page_passes_its_tests(tmp_path: Path) -> None:
    for path, text in files_of("docs/testing-your-application.md").items():
        file = tmp_path / path
        file.parent.mkdir(exist_ok=True)
        file.write_text(text, encoding="utf-8")
    options = ["-q", "-p", "no:cacheprovider", "-p", "no:asyncio"]
    start = f"import os, sys, pytest; sys.path[0] = os.getcwd(); sys.exit(pytest.main({options}))"
    assert "3 passed" in run("-c", start, cwd=tmp_path / "shop")


def test_without_the_extra_the_error_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in [name for name in sys.modules if name.startswith("eventbus_core.testing")]:
        monkeypatch.delitem(sys.modules, module)
    monkeypatch.setitem(sys.modules, "hypothesis", None)
    with pytest.raises(ImportError, match=r"pip install 'eventbus-core\[testing\]'"):
        importlib.import_module("eventbus_core.testing")
