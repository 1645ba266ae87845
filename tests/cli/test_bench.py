"""``eventbus bench``: its output and its exit status."""

from __future__ import annotations

import json
import signal
import subprocess
from pathlib import Path
from typing import Any

import pytest

from eventbus_core.cli.bench.bench_result import BenchResult
from eventbus_core.cli.demo.summary import Latency, Summary
from tests.cli.programs import TIMEOUT, install, run, start

KEYS = ["saturated", "unloaded", "versions"]
SHORT = ("--seconds", "1")

BACKENDS = """
import os

from eventbus_core.backend import Capabilities
from eventbus_core.errors import TransportUnavailable
from eventbus_memory import MemoryTransport


class Apart(MemoryTransport):
    capabilities = Capabilities(ordered=True, counts_receivers=True, cross_process=True)

    async def open(self):
        print("opening", flush=True)  # which must not be taken for a result
        await super().open()


class Dying(Apart):
    async def open(self):
        os._exit(7)


class Down(Apart):
    async def open(self):
        raise TransportUnavailable(f"no broker listens at {self.uri}")
"""


@pytest.fixture
def backends(tmp_path: Path) -> Path:
    names = ("Apart", "Dying", "Down")
    install(tmp_path, "several", {name.lower(): f"several_backend:{name}" for name in names}, BACKENDS)
    return tmp_path


def flawless(ended: subprocess.CompletedProcess[str], stderr: str = "") -> dict[str, Any]:
    """Return the result that a bench printed, if it is flawless."""
    assert ended.stderr == stderr, ended.stderr
    assert ended.returncode == 0
    result: dict[str, Any] = json.loads(ended.stdout)
    assert list(result) == KEYS
    for load in ("saturated", "unloaded"):
        summary = result[load]
        assert summary["delivered"] == summary["expected"] > 0
        assert [summary[fault] for fault in ("lost", "duplicated", "misrouted", "reordered")] == [0, 0, 0, 0]
        assert 0 < summary["latency_ms"]["p50"] <= summary["latency_ms"]["p99"]
    return result


def test_both_loads_are_measured_in_one_process() -> None:
    result = flawless(run("bench", *SHORT, "--json"))
    assert [result["saturated"][key] for key in ("uri", "nodes", "clients")] == ["memory://", 3, 15]
    assert {"python", "eventbus", "msgspec"} <= result["versions"].keys()


def test_an_unloaded_bus_gets_one_event_at_a_time() -> None:
    """With an event every 2 ms, a second holds 500 of them, and one is sent before, which looks up the receiver."""
    result = flawless(run("bench", *SHORT, "--json"))
    assert result["unloaded"]["sent"] <= 501


@pytest.mark.parametrize(("nodes", "clients"), [(1, 1), (3, 1), (4, 9)])
def test_other_sizes(nodes: int, clients: int) -> None:
    result = flawless(run("bench", "--nodes", str(nodes), "--clients", str(clients), *SHORT, "--json"))
    assert [result["unloaded"][key] for key in ("nodes", "clients")] == [nodes, clients]


def test_nodes_share_a_broker_from_processes_of_their_own(redis_uri: str) -> None:
    flawless(run("bench", "--nodes", "2", *SHORT, "--json", EVENTBUS_URI=redis_uri))


def test_nodes_run_in_processes_of_their_own_where_the_backend_can(backends: Path) -> None:
    flawless(run("bench", "apart://", "--nodes", "1", *SHORT, "--json", path=backends), "opening\n" * 2)


def test_a_table_shows_both_loads() -> None:
    ended = run("bench", *SHORT)
    assert (ended.returncode, ended.stderr) == (0, "")
    first_words = [line.split()[0] for line in ended.stdout.splitlines() if line.strip()]
    assert first_words == ["memory://:", "p50", "load", "saturated", "unloaded", "python"]


def test_a_node_that_dies_ends_the_bench(backends: Path) -> None:
    ended = run("bench", "dying://", *SHORT, path=backends)
    assert ended.returncode == 1
    assert ended.stderr.splitlines()[-1].startswith("error: the process of node-")
    assert ended.stdout == ""


def test_a_broker_that_is_down_is_an_error_in_a_line(backends: Path) -> None:
    ended = run("bench", "down://", *SHORT, path=backends)
    assert (ended.returncode, ended.stdout, ended.stderr) == (2, "", "error: no broker listens at down://\n")


def test_a_password_shows_nowhere(backends: Path) -> None:
    ended = run("bench", "down://user:secret@host", *SHORT, path=backends)
    assert ended.returncode == 2
    assert "secret" not in ended.stderr


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_it_without_a_result(backends: Path, number: signal.Signals) -> None:
    with start("bench", "apart://", "--nodes", "1", "--seconds", "60", path=backends) as process:
        assert process.stderr is not None
        assert process.stderr.readline() == "opening\n"
        process.send_signal(number)
        output, _ = process.communicate(timeout=TIMEOUT)
    assert (process.returncode, output) == (128 + number, "")


def test_a_fault_in_either_run_is_a_fault() -> None:
    fine = Summary("memory://", 1, 1, 1.0, 9, 9, 9, 0, 0, 0, 0, 9.0, Latency(1.0, 1.0))
    lossy = Summary("memory://", 1, 1, 1.0, 9, 8, 9, 1, 0, 0, 0, 8.0, Latency(1.0, 1.0))
    assert BenchResult(fine, fine, {}).flawless
    assert not BenchResult(lossy, fine, {}).flawless
    assert not BenchResult(fine, lossy, {}).flawless
