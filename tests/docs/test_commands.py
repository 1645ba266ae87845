"""The commands that the pages show, and no test runs: what they name is there."""

from __future__ import annotations

import re
import shlex
import tomllib
from importlib.util import find_spec
from itertools import dropwhile
from pathlib import Path
from typing import Final

import pytest
import typer

from eventbus_core.cli.app import app
from tests.docs.test_docs import PAGES, ROOT, blocks_of

PROJECT: Final = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
SHOWN: Final = [*PAGES, ROOT / ".github/CONTRIBUTING.md", ROOT / "examples/gateway/README.md"]
OURS: Final = {"eventbus", "eventbus-core", "eventbus-memory", "eventbus-redis"}
Command = tuple[Path, list[str]]


def commands() -> list[Command]:
    """Each command without what stands before its name: the folder that it is run from, and its words."""
    found: list[Command] = []
    for page in SHOWN:
        folder = ROOT / "examples/gateway" if "gateway" in page.parts else ROOT
        for block in blocks_of(page):
            for line in block.text.splitlines() if block.language == "sh" else ():
                for part in re.split(r" (?:&&|\|\|?) ", line.partition("  #")[0]):
                    words = list(dropwhile(lambda word: re.match(r"[A-Z_]+=", word), shlex.split(part)))
                    if words:
                        found.append((folder, [words[0].removeprefix(".venv/bin/"), *words[1:]]))
    return found


COMMANDS: Final = commands()


def named(*beginnings: list[str]) -> list[tuple[Path, list[str]]]:
    """Those that begin so, without that."""
    return [
        (folder, words[len(begin) :])
        for folder, words in COMMANDS
        for begin in beginnings
        if words[: len(begin)] == begin
    ]


def test_no_command_is_of_a_kind_that_nobody_looks_at() -> None:
    looked_at = {"eventbus", "pip", "python", "python3", "bash"}
    plain = {
        ".",
        "curl",
        "echo",
        "export",
        "gunicorn",
        "lint-imports",
        "mypy",
        "printf",
        "ruff",
        "seq",
        "uvicorn",
        "zensical",
    }
    assert {words[0] for _, words in COMMANDS} == looked_at | plain


def test_the_command_line_takes_its_arguments(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EVENTBUS_URI", "redis://localhost:6379/0")
    group = typer.main.get_command(app)
    assert isinstance(group, typer.core.TyperGroup)
    for _, words in named(["eventbus"]):
        name, *arguments = words
        group.commands[name].make_context(name, arguments)  # raises what is wrong with them


def test_pip_is_given_folders_groups_and_extras_that_there_are() -> None:
    installs = named(["pip", "install"])
    assert installs
    for folder, words in installs:
        for before, word in zip(["", *words], words, strict=False):
            name, _, extras = word.rstrip("]").partition("[")
            if before == "--group":
                assert word in PROJECT["dependency-groups"], words
            elif name.startswith("."):
                assert (folder / name / "pyproject.toml").exists() or "sqlite" in name, words
            elif extras and name in OURS:
                path = {"eventbus": "pyproject.toml"}.get(name, f"{name.replace('-', '_')}/pyproject.toml")
                project = tomllib.loads((ROOT / path).read_text(encoding="utf-8"))["project"]
                assert set(extras.split(",")) <= set(project["optional-dependencies"]), words


def test_modules_and_files_are_there() -> None:
    for folder, words in named(["python"], ["python3"]):
        if words[0] == "-m":
            assert find_spec(words[1]) or (folder / words[1]).is_dir(), words
        elif words[0] != "-c":
            assert (folder / words[0]).exists(), words
    for folder, words in named(["bash"]):
        assert (folder / words[0]).exists(), words
