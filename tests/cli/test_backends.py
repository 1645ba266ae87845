"""``eventbus backends``: the installed backends, the broken ones too."""

from __future__ import annotations

import json
from pathlib import Path

import eventbus
from tests.cli.programs import install, run


def test_lists_memory_with_its_capabilities() -> None:
    listed = run("backends", "--json")
    assert listed.returncode == 0
    row = next(row for row in json.loads(listed.stdout) if row["scheme"] == "memory")
    assert row["distribution"] == "eventbus-memory"
    assert row["version"] == eventbus.__version__
    assert row["capabilities"]["ordered"] is True
    assert row["capabilities"]["cross_process"] is False
    assert row["error"] is None


def test_shows_a_table() -> None:
    listed = run("backends")
    assert listed.returncode == 0
    row = next(line for line in listed.stdout.splitlines() if line.startswith("memory://"))
    assert "eventbus-memory" in row
    assert "ordered" in row
    assert "cross_process" not in row


def test_a_broken_backend_is_shown_with_its_error(tmp_path: Path) -> None:
    install(
        tmp_path,
        "broken",
        {
            "crooked": "broken_backend:NotThere",
            "wrong": "broken_backend:NUMBER",
            "gone": "broken_backend_of_old:Transport",
        },
        "NUMBER = 1",
    )
    listed = run("backends", "--json", path=tmp_path)
    assert listed.returncode == 0
    rows = {row["scheme"]: row for row in json.loads(listed.stdout)}
    assert "NotThere" in rows["crooked"]["error"]
    assert "is no Transport" in rows["wrong"]["error"]
    assert "No module named 'broken_backend_of_old'" in rows["gone"]["error"]
    for scheme in ("crooked", "wrong", "gone"):
        assert rows[scheme]["distribution"] == "broken"
        assert rows[scheme]["version"] == "1.2.3"
        assert rows[scheme]["capabilities"] is None
    assert rows["memory"]["error"] is None
    assert "NotThere" in run("backends", path=tmp_path).stdout


def test_two_owners_of_a_scheme_are_both_shown(tmp_path: Path) -> None:
    for name in ("one", "two"):
        install(tmp_path, name, {"shared": f"{name}_backend:Transport"})
    rows = json.loads(run("backends", "--json", path=tmp_path).stdout)
    owners = {row["distribution"]: row["error"] for row in rows if row["scheme"] == "shared"}
    assert owners.keys() == {"one", "two"}
    assert all("one, two" in error and "shared://" in error for error in owners.values())
