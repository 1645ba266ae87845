"""``eventbus drain``, and SIGTERM for a command that holds a client."""

from __future__ import annotations

import json
import signal
import sys
from functools import partial

import anyio
import pytest

import eventbus
from eventbus_core.node import client_lifecycle
from tests.cli.nodes import Place, end_of, error_line, two_nodes
from tests.cli.programs import TIMEOUT, run


async def move(place: Place, client: eventbus.Client) -> None:
    """Have *client* of server-1 go to server-2 when it is told to."""
    reason = await client.ended()
    assert isinstance(reason, eventbus.NodeDraining), reason
    await client.aclose()
    await place.two.client(client.name).open()


async def test_a_node_is_drained_and_its_progress_is_shown(redis_uri: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client_lifecycle, "MOVING_TIME", 10 * TIMEOUT)  # two commands must see that alice waits
    async with two_nodes(redis_uri) as place, anyio.create_task_group() as tasks:
        for number in range(4):
            tasks.start_soon(move, place, await place.one.client(f"acme/{number}").open())
        alice = place.one.client("acme/alice")
        tasks.start_soon((await alice.open()).ended)
        with anyio.fail_after(TIMEOUT):
            shown = await place.run("drain", "server-1", place.uri, "--over", "1")
        assert place.one.state == "drained"
        assert shown.returncode == 0, shown.stderr
        lines = shown.stdout.splitlines()
        assert lines[0].startswith("server-1 is draining: ")
        assert lines[-1] == "server-1 has drained: 1 waits for its next claim; its process can be stopped"
        again = await place.run("drain", "server-1", "--json")
        assert [json.loads(line) for line in again.stdout.splitlines()] == [
            {"node": "server-1", "state": "drained", "to_move": 0, "waiting": 1}
        ]


async def test_a_node_that_leaves_while_it_drains_is_said_to_have_left(redis_uri: str) -> None:
    async with two_nodes(redis_uri) as place:
        three = await eventbus.connect(place.uri, node="server-3").open()
        await three.client("acme/carol").open()
        with place.start("drain", "server-3", "--over", "3600") as command:
            assert command.stdout is not None
            first = await anyio.to_thread.run_sync(command.stdout.readline)
            assert first == "server-3 is draining: 1 client to move, 0 wait for their next claim\n"
            await three.aclose()
            out, error = await end_of(command)
    *before, last = out.splitlines()
    assert (command.returncode, last, error) == (0, "server-3 has left the bus", "")
    assert all(line.startswith("server-3 is ") for line in before)


async def test_a_drain_that_does_not_go_on_shows_that_it_waits(redis_uri: str) -> None:
    async with two_nodes(redis_uri) as place:
        with place.start("drain", "server-1", "--over", "3600") as command:
            assert command.stdout is not None
            read = partial(anyio.to_thread.run_sync, command.stdout.readline, abandon_on_cancel=True)
            with anyio.fail_after(TIMEOUT):
                lines = [await read(), await read()]
            command.send_signal(signal.SIGINT)
            await end_of(command)
    assert lines == ["server-1 is draining: 1 client to move, 0 wait for their next claim\n"] * 2


async def test_a_node_that_is_killed_while_it_drains_is_a_fault(redis_uri: str) -> None:
    async with two_nodes(redis_uri) as place:
        program = f"""
import anyio, eventbus
async def main():
    async with eventbus.connect({place.uri!r}, node="server-3", lease=3.0) as bus, bus.client("acme/carol"):
        print("ready", flush=True)
        await anyio.sleep_forever()
anyio.run(main)
"""
        async with await anyio.open_process([sys.executable, "-c", program]) as killed:
            assert killed.stdout is not None
            await killed.stdout.receive()
            with place.start("drain", "server-3", "--over", "3600") as command:
                assert command.stdout is not None
                await anyio.to_thread.run_sync(command.stdout.readline)
                killed.kill()
                out, error = await end_of(command)
    assert (command.returncode, out) == (1, "")
    assert error.startswith("error: node 'server-3' does not answer any more: node ")


@pytest.mark.parametrize(
    ("arguments", "status", "text"),
    [
        (("drain", "server-9"), 1, "no live node has the id 'server-9' in namespace 'cli-"),
        (
            ("drain", "server-1", "--over", "-1"),
            2,
            "option 'over' is -1.0; it must be a number of seconds from 0 to 3600",
        ),
        (("drain", "server-1", "--over", "nan"), 2, "option 'over' is nan"),
        (("drain", "a/b"), 2, "'a/b' is not a valid node"),
        (("drain",), 2, "missing argument 'NODE'"),
    ],
)
async def test_a_mistake_is_one_line(redis_uri: str, arguments: tuple[str, ...], status: int, text: str) -> None:
    async with two_nodes(redis_uri) as place:
        shown = await place.run(*arguments)
    assert (shown.returncode, shown.stdout) == (status, "")
    assert len(shown.stderr.splitlines()) == 1
    assert text in shown.stderr


async def test_a_uri_alone_is_not_taken_for_a_node(redis_uri: str) -> None:
    shown = await anyio.to_thread.run_sync(run, "drain", redis_uri)
    assert shown.returncode == 2
    assert "a NODE must stand there" in shown.stderr


async def test_a_client_of_a_command_keeps_its_events_after_sigterm(redis_uri: str) -> None:
    async with two_nodes(redis_uri) as place:
        lost: list[eventbus.Undeliverable] = []
        place.one.on_undeliverable(lost.append)
        with place.start("tail", "--client", "acme/carol", "--json") as command:
            assert await error_line(command) == "listening as acme/carol\n"
            await place.one.send("acme/carol", "first")
            assert command.stdout is not None
            line = await anyio.to_thread.run_sync(command.stdout.readline)
            assert json.loads(line)["type"] == "first"
            command.send_signal(signal.SIGTERM)
            out, error = await end_of(command)
        assert (command.returncode, out, error) == (143, "", "")
        await place.one.send("acme/carol", "second")
        async with place.two.client("acme/carol") as carol:
            with anyio.fail_after(TIMEOUT):
                assert (await carol.receive()).type == "second"
        assert lost == []
