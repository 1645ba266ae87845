"""The command line as a whole: help, version, errors of one line, and missing extras."""

from __future__ import annotations

import subprocess
import sys

import pytest

import eventbus
from eventbus_core.cli.app import app
from tests.cli.programs import TIMEOUT, environment, run


def test_help_names_the_commands_and_gives_examples() -> None:
    shown = run("--help")
    assert shown.returncode == 0
    assert "backends" in shown.stdout
    assert "eventbus doctor redis://localhost:6379/0" in shown.stdout
    assert shown.stderr == ""


def test_help_of_the_demo_names_its_options_and_the_variable() -> None:
    shown = run("demo", "--help")
    assert shown.returncode == 0
    for text in ("EVENTBUS_URI", "--nodes", "--clients", "--seconds", "--json", "Examples"):
        assert text in shown.stdout


@pytest.mark.parametrize("command", [command.name for command in app.registered_commands])
def test_help_of_every_command_has_examples_and_the_exit_status(command: str) -> None:
    shown = " ".join(run(command, "--help").stdout.split())
    assert f"Examples: eventbus {command}" in shown
    assert "Exit status: 0 on success" in shown


def test_shows_its_version() -> None:
    assert run("--version").stdout == f"eventbus {eventbus.__version__}\n"


@pytest.mark.parametrize(
    ("uri", "said"),
    [
        ("nowhere://host", "no backend for 'nowhere://'"),
        ("memori://", "did you mean 'memory://'?"),
        ("nonsense", "is not a URI"),
        ("memory://?bogus=1", "unknown option 'bogus'"),
        ("memory://?lanes=many", "option 'lanes' is 'many'"),
    ],
)
def test_an_error_is_one_line_and_status_2(uri: str, said: str) -> None:
    ended = run("demo", uri)
    assert ended.returncode == 2
    assert ended.stdout == ""
    assert ended.stderr.count("\n") == 1
    assert ended.stderr.startswith("error: ")
    assert said in ended.stderr


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--nodes", "0"], "--nodes"),
        (["--clients", "-1"], "--clients"),
        (["--seconds", "soon"], "--seconds"),
        (["--colour"], "--colour"),
    ],
)
def test_a_bad_value_is_refused_by_its_name(arguments: list[str], said: str) -> None:
    ended = run("demo", *arguments)
    assert ended.returncode == 2
    assert said in ended.stderr
    assert "Traceback" not in ended.stderr


def test_the_uri_can_come_from_the_environment() -> None:
    ended = run("demo", EVENTBUS_URI="nowhere://user:secret@host")
    assert ended.returncode == 2
    assert "no backend for 'nowhere://'" in ended.stderr
    assert "secret" not in ended.stderr


@pytest.mark.parametrize("missing", ["typer", "rich"])
def test_names_the_package_to_install_when_its_extra_is_missing(missing: str) -> None:
    code = f"import sys, runpy; sys.modules[{missing!r}] = None; runpy.run_module('eventbus', run_name='__main__')"
    ended = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=TIMEOUT, env=environment(), check=False
    )
    assert ended.returncode == 2
    assert ended.stderr.count("\n") == 1
    assert "pip install 'eventbus-core[cli]'" in ended.stderr


@pytest.mark.skipif(sys.platform == "win32", reason="there a process cannot send itself SIGINT")
def test_ctrl_c_while_it_starts_is_no_traceback() -> None:
    find = "lambda _, name, *rest: name == 'typer' and signal.raise_signal(2) or None"
    finder = f"type('Finder', (), {{'find_spec': {find}}})"
    start = "runpy.run_module('eventbus', run_name='__main__')"
    heed = "signal.signal(2, signal.default_int_handler)"  # what runs in the background of a shell ignores it
    code = f"import runpy, signal, sys; {heed}; sys.meta_path.insert(0, {finder}()); {start}"
    ended = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=TIMEOUT, env=environment(), check=False
    )
    assert (ended.returncode, ended.stdout, ended.stderr) == (130, "", "")


def test_without_a_command_it_shows_the_help() -> None:
    ended = run()
    assert ended.returncode == 2
    assert "Examples" in ended.stderr


@pytest.mark.parametrize("command", ["nodes", "doctor", "tail", "explain acme/alice", "publish order.created"])
def test_a_command_without_a_bus_says_how_to_name_one(command: str) -> None:
    ended = run(*command.split())
    assert (ended.returncode, ended.stdout) == (2, "")
    assert ended.stderr.startswith("error: no bus is named: give its URI")
    assert "EVENTBUS_URI" in ended.stderr


def test_a_shell_completes_without_a_bus() -> None:
    shown = run(_EVENTBUS_COMPLETE="complete_bash", COMP_WORDS="eventbus nodes --", COMP_CWORD="2")
    assert "--json" in shown.stdout
    assert shown.stderr == ""


def test_count_is_of_what_the_command_shows() -> None:
    for command, shown in (("tail", "events"), ("top", "readings")):
        assert f"End after N {shown}." in run(command, "--help").stdout
