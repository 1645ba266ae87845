"""Commands that join a bus: their output, their exit status, and no password in either."""

from __future__ import annotations

import json
import logging
import signal
import subprocess
from functools import partial

import anyio
import pytest

from eventbus import Bus, RequestTimeout, Stats
from eventbus_core.cli import top, visit
from eventbus_core.testing import until
from eventbus_core.testing.hosts import buses
from tests.cli.nodes import end_of, error_line, has_nodes, two_nodes
from tests.cli.programs import TIMEOUT, run

VISITS = (
    "nodes",
    "clients",
    "top",
    "explain acme/alice",
    "tail",
    "publish order.x",
    "send acme/alice a",
    "broadcast a",
)


def test_the_warnings_of_a_later_outage_are_printed_too(capsys: pytest.CaptureFixture[str]) -> None:
    """A command such as tail may run for weeks."""
    warnings = visit._Warnings()
    for at in (0.0, 30.0, 59.0, 60.0, 90.0):
        record = logging.LogRecord("eventbus", logging.WARNING, "", 0, "node %s: no broker", ("cli-1",), None)
        record.created = at
        warnings.emit(record)
    assert capsys.readouterr().err == "warning: node cli-1: no broker\n" * 2


async def test_nodes_are_shown_without_the_command_itself(redis_uri: str) -> None:
    async with two_nodes(redis_uri) as place:
        shown = await place.run("nodes", "--json")
        assert (await place.run("nodes")).stdout.split()[:4] == ["node", "incarnation", "lease", "left"]
    assert [node["id"] for node in json.loads(shown.stdout)] == ["server-1", "server-2"]
    assert shown.stderr == ""


@pytest.mark.parametrize(
    ("options", "names"),
    [
        ((), ["acme/alice", "acme/bob"]),
        (("--prefix", "acme/a"), ["acme/alice"]),
        (("--node", "server-2"), ["acme/bob"]),
        (("--prefix", "other/"), []),
    ],
)
async def test_clients_are_shown_with_their_nodes(redis_uri: str, options: tuple[str, ...], names: list[str]) -> None:
    async with two_nodes(redis_uri) as place:
        found = json.loads((await place.run("clients", *options, "--json")).stdout)
    assert [held["client"] for held in found] == names
    assert {held["client"]: held["node"] for held in found}.items() <= {
        "acme/alice": "server-1",
        "acme/bob": "server-2",
    }.items()


async def test_explains_where_a_client_is(redis_uri: str) -> None:
    async with two_nodes(redis_uri) as place:
        shown = await place.run("explain", "acme/alice")
        unheld = await place.run("explain", "acme/carol", "--json")
    assert shown.returncode == 0
    assert "holds acme/alice with epoch" in shown.stdout
    assert "partition n:server-1" in shown.stdout
    assert unheld.returncode == 1
    assert json.loads(unheld.stdout)["owner"] is None


async def test_top_shows_the_counters_of_all_nodes(redis_uri: str) -> None:
    async with two_nodes(redis_uri) as place:
        shown = await place.run("top", "--interval", "0.1", "--count", "2", "--json")
        for row in json.loads(shown.stdout.splitlines()[-1]):
            bus = place.one if row["node"] == "server-1" else place.two
            assert row["stats"]["incarnation"] == bus.stats().incarnation
            assert row["stats"]["clients"] == 1
            assert row["out_per_second"] >= 0
            assert row["answer_ms"] > 0
            assert 0 < row["send_ms"][0] <= row["send_ms"][1]  # its answer, if nothing else
        table = (await place.run("top", "--interval", "0.1", "--count", "1")).stdout.splitlines()
    assert table[1].split()[:4] == ["node", "clients", "out/s", "in/s"]
    assert [line.split()[0] for line in table[2:]] == ["server-1", "server-2"]
    assert [line.split()[-1] for line in table[2:]] == ["none", "none"]


async def test_a_node_has_two_seconds_to_answer_or_the_interval_if_that_is_longer(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async with buses("memory://", 2) as (bus, _):
        timeouts: list[float] = []

        async def silent(_bus: Bus, node: str, timeout: float) -> Stats:
            timeouts.append(timeout)
            raise RequestTimeout(f"the answer of {node}", timeout)

        monkeypatch.setattr(Bus, "node_stats", silent)
        for interval in (0.1, 5.0):
            assert await top._samples(bus, interval) == {"n1": None}
        assert timeouts == [2.0, 5.0]


async def test_tail_shows_matching_events(redis_uri: str) -> None:
    async with two_nodes(redis_uri) as place:
        with place.start("tail", "order.*", "--count", "3", "--json") as process:
            assert (await error_line(process)).startswith("listening as @cli-")
            await place.one.publish("other.thing", 0)
            await place.one.publish("order.created", {"id": 1, "clear": "\x9b2J"}, headers={"h": "1"})
            await place.one.publish("order.data", b"\x00\x01")
            await place.one.publish("order.odd", {(1, 2): "no JSON has such a key"})
            out, _ = await end_of(process)
    first, second, third = map(json.loads, out.splitlines())
    assert (first["type"], first["source"], first["target"]) == ("order.created", "@server-1", "#order.created")
    assert first["data"] == {"id": 1, "clear": "\x9b2J"}
    assert "\x9b" not in out
    assert first["headers"] == {"h": "1"}
    assert second["data"] == "AAE="
    assert "data" not in third
    assert third["raw"]
    assert process.returncode == 0


async def test_tail_claims_a_client_but_takes_it_over_only_with_takeover(redis_uri: str) -> None:
    async with two_nodes(redis_uri) as place:
        refused = await place.run("tail", "--client", "acme/alice")
        assert refused.returncode == 2
        assert "node 'server-1' holds client 'acme/alice'; to take it over, add --takeover" in refused.stderr
        arguments = ("tail", "news.>", "--client", "acme/alice", "--takeover", "--count", "2")
        with place.start(*arguments) as process:
            assert await error_line(process) == "listening as acme/alice\n"
            await place.two.send("acme/alice", "chat.message", {"text": "hi"})
            await place.two.publish("news.today", [1])
            out, _ = await end_of(process)
    assert '@server-2 > acme/alice {"text":"hi"}' in out
    assert "@server-2 > #news.today [1]" in out


@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
@pytest.mark.parametrize(
    "arguments",
    [("tail",), ("tail", "--client", "acme/zoe"), ("publish", "order.x", "-"), ("top",), ("top", "--json")],
    ids=" ".join,
)
async def test_a_signal_ends_it_and_its_node_leaves(
    redis_uri: str, arguments: tuple[str, ...], number: signal.Signals, status: int
) -> None:
    async with two_nodes(redis_uri) as place:
        before = {node.id for node in await place.one.nodes()}
        with place.start(*arguments, stdin=subprocess.PIPE) as process:
            await until(partial(has_nodes, place, len(before) + 1), "the command is on the bus", times=4)
            process.send_signal(number)
            _, errors = await end_of(process)
        assert process.returncode == status
        assert "Traceback" not in errors
        assert {node.id for node in await place.one.nodes()} == before
        owner = await place.one.locate("acme/zoe")  # after SIGTERM another node keeps it, if the command had it by then
        assert owner is None or (number == signal.SIGTERM and owner.node in before)


async def test_ends_with_status_0_when_the_reader_of_its_output_has_gone(redis_uri: str) -> None:
    async with two_nodes(redis_uri) as place:
        with place.start("tail", "--json") as process:
            await error_line(process)
            assert process.stdout is not None
            process.stdout.close()
            with anyio.fail_after(TIMEOUT):
                while process.poll() is None:
                    await place.one.publish("order.created")
                    await anyio.sleep(0.01)
            assert process.returncode == 0
            assert await error_line(process) == ""


@pytest.mark.parametrize("visit", VISITS)
def test_a_password_is_never_shown(visit: str) -> None:
    ended = run(*visit.split(), EVENTBUS_URI="redis://user:secret@127.0.0.1:1/0")
    assert ended.returncode == 2
    assert "redis://user:***@127.0.0.1:1/0 cannot be reached" in ended.stderr
    assert "secret" not in ended.stderr + ended.stdout + run(visit.split()[0], "--help").stdout


def test_a_visitor_is_never_alone() -> None:
    ended = run("publish", "order.x", EVENTBUS_URI="redis://127.0.0.1:1/0?wait_for_broker=false")
    assert ended.returncode == 2
    assert "cannot be reached" in ended.stderr


@pytest.mark.parametrize("visit", VISITS)
def test_a_bus_within_one_process_is_refused(visit: str) -> None:
    ended = run(*visit.split(), EVENTBUS_URI="memory://")
    assert ended.returncode == 2
    assert "name a broker" in ended.stderr


@pytest.mark.parametrize("visit", [*VISITS, "doctor"])
def test_its_help_has_examples_and_names_the_variable(visit: str) -> None:
    name, *_ = visit.split()
    shown = run(name, "--help").stdout
    assert "EVENTBUS_URI" in shown
    assert f"eventbus {name}" in shown.partition("Examples")[2]
    without = run(*visit.split())
    assert without.returncode == 2
    assert "uri" in without.stderr.lower()


def test_a_shell_can_complete_the_commands() -> None:
    ended = run("do", _EVENTBUS_COMPLETE="complete_bash", COMP_WORDS="eventbus do", COMP_CWORD="1")
    assert ended.stdout.split() == ["doctor"]
