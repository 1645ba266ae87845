"""Closed, full, ended and ASCII streams of the process: one clear error or none, and the right exit status."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import anyio
import pytest
from anyio.from_thread import start_blocking_portal
from redis import Redis

from eventbus_core.testing import until
from tests.cli.nodes import Place, end_of, error_line, has_nodes, two_nodes
from tests.cli.programs import TIMEOUT, environment
from tests.servers import RedisServer

ASCII = {"PYTHONIOENCODING": "ascii", "PYTHONUTF8": "0"}
ASCII_LOCALE = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
FULL = pytest.mark.skipif(not Path("/dev/full").exists(), reason="this system has no /dev/full")


@pytest.fixture(scope="module")
def place(redis_uri: str) -> Iterator[Place]:
    with start_blocking_portal() as portal, portal.wrap_async_context_manager(two_nodes(redis_uri)) as place:
        yield place


def shell(place: Place, script: str, **variables: str) -> subprocess.CompletedProcess[str]:
    """Run *script* in bash, where ``eventbus`` is the command line and a pipe fails with its first part."""
    function = f'set -o pipefail\neventbus() {{ "{sys.executable}" -m eventbus "$@"; }}\n'
    env = environment(None, **{"EVENTBUS_URI": place.uri, **variables})
    command = ["bash", "-c", function + script]
    return subprocess.run(
        command, capture_output=True, text=True, encoding="utf-8", timeout=TIMEOUT, env=env, check=False
    )


@pytest.mark.parametrize(
    "script",
    [
        "eventbus clients | true",
        "eventbus nodes --json | true",
        "eventbus doctor | true",
        "eventbus demo --help | true",
        "eventbus top --count 2 --interval 0.1 | true",
        "eventbus demo memory:// --seconds 0.1 | true",
    ],
)
def test_a_reader_that_has_gone_is_no_error(place: Place, script: str) -> None:
    ended = shell(place, script)
    assert (ended.returncode, ended.stdout, ended.stderr) == (0, "", "")


@pytest.mark.parametrize("options", [(), ("--json",)])
async def test_tail_ends_with_the_reader_of_its_first_line(redis_uri: str, options: tuple[str, ...]) -> None:
    async with two_nodes(redis_uri) as place:
        with place.start("tail", *options) as process:
            await error_line(process)
            assert process.stdout is not None
            with anyio.fail_after(TIMEOUT):
                await place.one.publish("order.created", 1)
                assert "order.created" in await anyio.to_thread.run_sync(process.stdout.readline)
                process.stdout.close()
                while process.poll() is None:
                    await place.one.publish("order.created", 2)
                    await anyio.lowlevel.checkpoint()
            assert process.returncode == 0
            assert await error_line(process) == ""


@pytest.mark.parametrize(
    "script",
    ["eventbus nodes", "eventbus clients --json", "eventbus -h"],
)
@pytest.mark.parametrize(
    ("redirection", "words"),
    [
        (">&-", "error: standard output cannot be written: it is closed\n"),
        pytest.param(">/dev/full", "error: standard output cannot be written: No space left on device\n", marks=FULL),
    ],
)
def test_an_output_that_cannot_be_written_is_an_error(place: Place, script: str, redirection: str, words: str) -> None:
    ended = shell(place, f"{script} {redirection}")
    assert (ended.returncode, ended.stdout, ended.stderr) == (2, "", words)


@pytest.mark.parametrize("redirection", ["2>&-", pytest.param("2>/dev/full", marks=FULL)])
def test_an_unusable_standard_error_changes_no_status(place: Place, redirection: str) -> None:
    assert shell(place, f"eventbus nodes {redirection}").returncode == 0
    assert shell(place, f"eventbus explain acme/ {redirection}").returncode == 2
    assert shell(place, f"eventbus publish order.x 1 {redirection}").returncode == 0


def test_a_command_without_output_needs_no_standard_output(place: Place) -> None:
    assert shell(place, "eventbus publish order.x 1 >&-").returncode == 0


def test_all_streams_may_be_closed(place: Place) -> None:
    assert shell(place, "eventbus publish order.x 1 <&- >&- 2>&-").returncode == 0


def test_a_closed_input_that_is_needed_is_an_error(place: Place) -> None:
    ended = shell(place, "eventbus publish order.x - <&-")
    assert ended.returncode == 2
    assert ended.stderr.endswith(
        "error: standard input is closed; give the data as an argument, or connect a pipe or a file to it\n"
    )


def test_a_closed_input_does_not_matter_to_other_commands(place: Place) -> None:
    assert shell(place, "eventbus nodes <&-").returncode == 0


@pytest.mark.parametrize("variables", [ASCII, ASCII_LOCALE], ids=["encoding", "locale"])
def test_an_ascii_terminal_shows_other_letters_escaped(place: Place, variables: dict[str, str]) -> None:
    shown = shell(place, "eventbus explain acme/zoë", **variables)
    assert shown.returncode == 1
    assert shown.stdout.startswith(r"no node holds acme/zo\xeb in namespace")
    refused = shell(place, "eventbus explain 'zoë '", **variables)
    assert (refused.returncode, r"zo\xeb" in refused.stderr) == (2, True)
    found = shell(place, "eventbus explain acme/zoë --json", **variables)
    assert json.loads(found.stdout)["client"] == "acme/zoë"


def test_an_ascii_terminal_sends_utf8(place: Place) -> None:
    before = len(place.handled)
    assert shell(place, "eventbus send acme/bob 'zoë' '\"zoë\"'", **ASCII_LOCALE).returncode == 0
    assert [(event.type, event.data) for event in place.handled[before:]] == [("zoë", "zoë")]


@pytest.mark.parametrize("script", ["eventbus clients", "eventbus top --count 1 --interval 0.1", "eventbus nodes"])
def test_nothing_is_cut_off_in_a_terminal_of_40_columns(place: Place, script: str) -> None:
    shown = shell(place, f"script -qec '{sys.executable} -m eventbus {script[9:]}' /dev/null", COLUMNS="40")
    assert shown.returncode == 0
    assert "server-1" in shown.stdout
    assert "…" not in shown.stdout


async def test_top_goes_on_when_the_broker_is_away(redis_server: RedisServer) -> None:
    async with two_nodes(redis_server.uri) as place:
        with place.start("top", "--interval", "0.1", "--json") as process:
            assert process.stdout is not None
            line = await anyio.to_thread.run_sync(process.stdout.readline)
            assert [row["node"] for row in json.loads(line)] == ["server-1", "server-2"]
            redis_server.kill()
            with anyio.fail_after(TIMEOUT):
                while "trying again" not in await error_line(process):
                    pass
                while all(row["stats"] for row in json.loads(line)):
                    line = await anyio.to_thread.run_sync(process.stdout.readline)
            assert process.poll() is None
            process.terminate()
            await end_of(process)
        assert process.returncode == 143


async def test_a_first_event_that_the_broker_refuses_ends_the_command(redis_server: RedisServer) -> None:
    """A refusal of the broker ends the command soon, with the reason; it does not wait for ``send_timeout``."""
    with Redis(port=redis_server.port) as connection:
        connection.execute_command(*["ACL", "SETUSER", "app", "on", ">secret", "~eventbus:*", "&eventbus:*", "+@all"])
        async with two_nodes(redis_server.uri) as place:
            uri = place.uri.replace("//", "//app:secret@") + "&send_timeout=3600"
            with place.start("publish", "order.x", "-", stdin=subprocess.PIPE, uri=uri) as process:
                await until(partial(has_nodes, place, 3), "the command is on the bus", times=4)
                connection.execute_command(*["ACL", "SETUSER", "app", "-publish", "-spublish"])
                assert process.stdin is not None
                process.stdin.write("1\n")
                process.stdin.flush()
                _, errors = await end_of(process)
    assert process.returncode == 2
    assert "NOPERM" in errors
    assert "0 sent, 1 failed" in errors
    assert "Traceback" not in errors
    assert "secret" not in errors
