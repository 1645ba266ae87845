"""Runs tests of another project, unmodified, from its source distribution on the package index."""

from __future__ import annotations

import os
import subprocess
import sys
import tarfile
from collections.abc import Mapping
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import Final
from xml.etree import ElementTree

import attrs

STAND_INS: Final = Path(__file__).with_name("stand_ins")
TIMEOUT: Final = 240.0


@attrs.frozen
class Upstream:
    """
    Tests of a project, and the stand-in with which they test an adapter.

    Attributes:
        project: its name on the package index; the installed version counts.
        files: the test files, as paths in the source distribution.
        stand_in: the file in ``stand_ins`` that replaces the project's class; it is the conftest of the tests.
        options: those of pytest that the project itself uses.
        not_applicable: the tests that need not pass, ``file::test``, with the reason. A test that is named here and
            passes, or does not exist, makes the list stale.
        at_least: how many tests must pass, so that none are found is an error.
    """

    project: str
    files: tuple[str, ...]
    stand_in: str
    options: tuple[str, ...]
    not_applicable: Mapping[str, str] = attrs.field(factory=dict)
    at_least: int = attrs.field(kw_only=True)


@cache
def fetch(project: str, folder: Path) -> Path:
    """Download the source distribution of the installed version of *project*; return where it is unpacked."""
    folder = folder / project
    folder.mkdir()
    _run(
        [
            *(sys.executable, "-m", "pip", "download", "-q", "--no-deps"),
            *("--no-binary", project, "-d", str(folder), f"{project}=={version(project)}"),
        ],
        cwd=folder,
    )
    (archive,) = folder.glob("*.tar.gz")
    with tarfile.open(archive) as source:
        source.extractall(folder, filter="data")
    (unpacked,) = (path for path in folder.iterdir() if path.is_dir())
    return unpacked


def outcomes(upstream: Upstream, unpacked: Path, uri: str, folder: Path) -> tuple[set[str], dict[str, str]]:
    """
    Return the tests that passed, and the output of those that failed, on the bus at *uri*.

    The files are copied out of the *unpacked* project: its conftest and its settings are about its own class.
    """
    tests = folder / "upstream-tests"
    tests.mkdir()
    for file in upstream.files:
        (tests / Path(file).name).write_bytes((unpacked / file).read_bytes())
    (tests / "pytest.ini").write_text("[pytest]\n")  # else pytest looks for settings in the folders above
    (tests / "conftest.py").write_bytes((STAND_INS / f"{upstream.stand_in}.py").read_bytes())
    report = folder / "report.xml"
    command = [sys.executable, "-m", "pytest", "-q", f"--junitxml={report}", *upstream.options, "."]
    done = subprocess.run(
        command,
        cwd=tests,
        env={**os.environ, "EVENTBUS_URI": uri},
        timeout=TIMEOUT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert report.exists(), f"pytest ended with {done.returncode}\n{done.stdout}\n{done.stderr}"
    return _read(report)


def _read(report: Path) -> tuple[set[str], dict[str, str]]:
    passed: set[str] = set()
    failed: dict[str, str] = {}
    for case in ElementTree.parse(report).iter("testcase"):  # noqa: S314  # written by pytest a moment ago
        name = f"{case.get('classname', '').partition('.')[0]}.py::{case.get('name')}"
        bad = [element for element in case if element.tag in ("failure", "error")]
        if bad:
            failed[name] = (bad[0].text or "")[-2000:]
        elif case.find("skipped") is None:  # which the project's own xfail counts as
            passed.add(name)
    return passed, failed


def _run(command: list[str], cwd: Path) -> None:
    done = subprocess.run(command, cwd=cwd, timeout=TIMEOUT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"exit status {done.returncode} of {command}\n{done.stdout}\n{done.stderr}"
