"""The pytest plugin for applications, as its page shows it."""

from __future__ import annotations

from pathlib import Path

from tests.docs.test_docs import files_of, run


def test_the_application_of_the_page_passes_its_tests(tmp_path: Path) -> None:
    for path, text in files_of("docs/testing-your-application.md").items():
        file = tmp_path / path
        file.parent.mkdir(exist_ok=True)
        file.write_text(text, encoding="utf-8")
    start = "import os, sys, pytest; sys.path[0] = os.getcwd(); sys.exit(pytest.main(['-q', '-p', 'no:cacheprovider']))"
    assert "3 passed" in run("-c", start, cwd=tmp_path / "shop")
