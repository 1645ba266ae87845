"""``eventbus demo``: its counts, its output and its exit status."""

from __future__ import annotations

import json
import os
import select
import signal
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

import eventbus
from eventbus_core.backend import ALL_NODES, Frame
from eventbus_core.cli import main
from eventbus_core.cli.demo import conductor
from eventbus_core.cli.demo.demo_run import make_plan, prepare, run_demo
from eventbus_core.cli.demo.tally import add_tallies
from eventbus_memory import MemoryTransport
from tests.cli.programs import TIMEOUT, install, run, start

KEYS = [
    "uri",
    "nodes",
    "clients",
    "seconds",
    "sent",
    "delivered",
    "expected",
    "lost",
    "duplicated",
    "misrouted",
    "reordered",
    "events_per_second",
    "latency_ms",
]

# Nodes in several processes that cannot reach each other: enough for one node.
BACKENDS = """
import os, sys

from eventbus_core.backend import Capabilities
from eventbus_core.errors import TransportUnavailable
from eventbus_memory import MemoryTransport


class Apart(MemoryTransport):
    capabilities = Capabilities(ordered=True, counts_receivers=True, cross_process=True)


class Telling(Apart):
    async def publish(self, frames):
        print("publishing")  # which must not be taken for a report
        return await super().publish(frames)


class Present(Telling):
    async def open(self):
        self.liveness = os.open(os.environ["LIVENESS"], os.O_WRONLY)
        await super().open()


class Crashing(Apart):
    async def open(self):
        raise RuntimeError("the ceiling fell down")


class Dying(Apart):
    async def publish(self, frames):
        os._exit(7)


class Down(Apart):
    async def open(self):
        raise TransportUnavailable(f"no broker listens\\nat {self.uri}")
"""


@pytest.fixture
def backends(tmp_path: Path) -> Path:
    names = ("Apart", "Telling", "Present", "Crashing", "Dying", "Down")
    install(tmp_path, "several", {name.lower(): f"several_backend:{name}" for name in names}, BACKENDS)
    return tmp_path


def flawless(ended: subprocess.CompletedProcess[str]) -> dict[str, Any]:
    """Return the summary that a demo printed, if it is flawless."""
    assert ended.stderr == ""
    assert ended.returncode == 0
    summary: dict[str, Any] = json.loads(ended.stdout)
    assert list(summary) == KEYS
    assert summary["delivered"] == summary["expected"] > 0
    assert [summary[fault] for fault in ("lost", "duplicated", "misrouted", "reordered")] == [0, 0, 0, 0]
    assert summary["sent"] > 0
    assert 0 < summary["latency_ms"]["p50"] <= summary["latency_ms"]["p99"]
    assert summary["events_per_second"] > 0
    return summary


def test_a_demo_in_one_process_is_flawless() -> None:
    summary = flawless(run("demo", "--seconds", "1", "--json"))
    assert (summary["uri"], summary["nodes"], summary["clients"]) == ("memory://", 3, 15)


@pytest.mark.parametrize(("nodes", "clients"), [(1, 1), (1, 3), (4, 2)])
def test_demos_of_other_sizes_are_flawless(nodes: int, clients: int) -> None:
    arguments = ("--nodes", str(nodes), "--clients", str(clients), "--seconds", "0.2")
    summary = flawless(run("demo", *arguments, "--json"))
    assert (summary["nodes"], summary["clients"]) == (nodes, clients)


def test_options_in_the_uri_are_kept_but_for_those_that_a_demo_sets() -> None:
    uri = "memory://user:secret@hub?namespace=busy&node=someone&lease=5"
    summary = flawless(run("demo", "--seconds", "0.2", "--json", EVENTBUS_URI=uri))
    assert summary["uri"] == "memory://user:***@hub"
    assert run("demo", "memory://?namespace=busy&lease=never").returncode == 2


def test_a_table_shows_each_node_and_the_total() -> None:
    ended = run("demo", "--nodes", "2", "--seconds", "0.2")
    assert (ended.returncode, ended.stderr) == (0, "")
    first_words = [line.split()[0] for line in ended.stdout.splitlines() if line.strip()]
    assert first_words == ["memory://:", "p50", "node", "node-1", "node-2", "all", "expected"]
    assert "each once, in order" in ended.stdout


def test_nodes_run_in_processes_of_their_own_where_the_backend_can(backends: Path) -> None:
    summary = flawless(run("demo", "apart://", "--nodes", "1", "--seconds", "0.2", "--json", path=backends))
    assert summary["uri"] == "apart://"


def test_a_node_that_crashes_shows_its_error(backends: Path) -> None:
    ended = run("demo", "crashing://", path=backends)
    assert ended.returncode == 1
    assert "RuntimeError: the ceiling fell down" in ended.stderr
    assert "error: the process of node-" in ended.stderr  # maybe between the lines of another node
    assert ended.stdout == ""


def test_a_node_that_dies_during_the_run_ends_the_demo(backends: Path) -> None:
    ended = run("demo", "dying://", "--nodes", "1", "--seconds", "30", path=backends)
    assert ended.returncode == 1
    assert "ended before the run was over, with exit status 7" in ended.stderr


def test_an_error_of_a_node_is_one_line_without_password(backends: Path) -> None:
    ended = run("demo", "down://user:secret@host", path=backends)
    assert ended.returncode == 2
    assert ended.stderr == "error: no broker listens at down://user:***@host\n"


def test_a_refused_send_makes_the_status_1(backends: Path) -> None:
    ended = run("demo", "apart://", "--nodes", "2", "--seconds", "0.2", "--json", path=backends)
    assert ended.returncode == 1
    assert "sends were refused" in ended.stderr
    assert "no node holds client 'demo/client-" in ended.stderr
    assert json.loads(ended.stdout)["lost"] > 0  # topics and broadcasts are accepted, and reach no node


@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_ends_the_sending_and_shows_the_result(backends: Path, number: signal.Signals, status: int) -> None:
    with start("demo", "telling://", "--nodes", "1", "--seconds", "60", "--json", path=backends) as process:
        assert process.stderr is not None
        assert process.stderr.readline() == "publishing\n"
        process.send_signal(number)
        out, _ = process.communicate(timeout=TIMEOUT)
    assert process.returncode == status
    summary = json.loads(out)
    assert summary["delivered"] == summary["expected"]


def test_nodes_end_when_the_process_that_started_them_is_gone(backends: Path) -> None:
    pipe = backends / "liveness"
    os.mkfifo(pipe)
    arguments = ("demo", "present://", "--nodes", "1", "--seconds", "60")
    with start(*arguments, path=backends, LIVENESS=str(pipe)) as process, pipe.open("rb", buffering=0) as life:
        assert process.stderr is not None
        assert process.stderr.readline() == "publishing\n"
        process.kill()
        ready, _, _ = select.select([life], [], [], TIMEOUT)
        assert ready
        assert life.read() == b""  # the node's end of it was closed


def test_demos_on_one_redis_do_not_disturb_each_other(redis_uri: str) -> None:
    both = [start("demo", redis_uri, "--seconds", "1", "--json") for _ in range(2)]
    for process in both:
        with process:
            out, errors = process.communicate(timeout=TIMEOUT)
        flawless(subprocess.CompletedProcess(process.args, process.returncode, out, errors))


class Forgetful(MemoryTransport):
    """Loses every broadcast, retransmissions included."""

    async def publish(self, frames: Sequence[Frame]) -> Sequence[int]:
        await super().publish([frame for frame in frames if frame.partition != ALL_NODES])
        return [1] * len(frames)


def test_a_lost_event_is_counted_and_makes_the_status_1(capsys: pytest.CaptureFixture[str]) -> None:
    eventbus.register("forgetful", Forgetful)
    with pytest.raises(SystemExit) as ended:
        main(["demo", "forgetful://", "--nodes", "2", "--seconds", "0.2", "--json"])
    assert ended.value.code == 1
    summary = json.loads(capsys.readouterr().out)
    assert summary["lost"] > 0
    assert summary["delivered"] + summary["lost"] == summary["expected"]
    assert [summary[fault] for fault in ("duplicated", "misrouted", "reordered")] == [0, 0, 0]


async def test_nodes_that_hear_late_when_to_begin_send_as_long_as_others(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(conductor, "HEAD_START", -10.0)
    address, run_node = prepare("memory://")
    outcome = await run_demo(address, run_node, make_plan(2, 2, 0.2, "mixed"), lambda *_: None)
    assert len(outcome.tallies) == 2
    assert add_tallies(outcome.tallies).sent > 0
