"""``eventbus publish``, ``send`` and ``broadcast``: the events that arrive, and the errors about those that cannot."""

from __future__ import annotations

import json
import os
import signal
import subprocess
from contextlib import suppress
from pathlib import Path

import anyio
import pytest

from eventbus_core.cli.stdin_lines import read_lines
from tests.cli.nodes import end_of, two_nodes
from tests.cli.programs import TIMEOUT
from tests.servers import RedisServer

MIXED = b'{"id": 1}\n\n{"id":\n{"id": 3}\r\n{"id": 4}'


async def test_the_data_of_one_event_is_an_argument(redis_uri: str) -> None:
    async with two_nodes(redis_uri) as place:
        for arguments in (
            ("publish", "order.created", '{"id": 1}'),
            ("send", "acme/alice", "chat.message", "hello there", "--text"),
            ("send", "@server-2", "order.cancel", "2"),
            ("broadcast", "order.rules"),
        ):
            done = await place.run(*arguments)
            assert (done.returncode, done.stdout, done.stderr) == (0, "", "1 sent\n")
        await place.has_handled(4)
        kinds = {(event.type, event.target, json.dumps(event.data)) for event in place.handled}
    assert kinds == {
        ("order.created", "#order.created", '{"id": 1}'),
        ("chat.message", "acme/alice", '"hello there"'),
        ("order.cancel", "@server-2", "2"),
        ("order.rules", "*", "null"),
    }


async def test_each_line_of_standard_input_is_an_event(redis_uri: str, tmp_path: Path) -> None:
    async with two_nodes(redis_uri) as place:
        lines = "".join(f"{number}\n" for number in range(5000))
        piped = await place.run("publish", "order.number", "-", "--json", stdin=lines.encode())
        assert json.loads(piped.stdout) == {"sent": 5000, "failed": 0}
        assert await place.has_handled(5000) == list(range(5000))


async def test_a_file_is_read_too(redis_uri: str, tmp_path: Path) -> None:
    file = tmp_path / "events"
    file.write_bytes(b"1\n2\n")
    async with two_nodes(redis_uri) as place:
        with file.open("rb") as opened, place.start("publish", "order.x", "-", stdin=opened) as process:
            assert await end_of(process) == ("", "2 sent\n")
        assert await place.has_handled(2) == [1, 2]


async def test_a_bad_line_ends_it_and_its_number_is_shown(redis_uri: str) -> None:
    async with two_nodes(redis_uri) as place:
        done = await place.run("publish", "order.x", "-", stdin=MIXED)
        assert done.returncode == 1
        assert done.stderr.startswith("error: line 3: '{\"id\":' is not JSON: ")
        assert done.stderr.endswith("\n1 sent, 1 failed\n")
        assert await place.has_handled(1) == [{"id": 1}]


async def test_keep_going_sends_the_lines_after_a_bad_one(redis_uri: str) -> None:
    async with two_nodes(redis_uri) as place:
        done = await place.run("send", "acme/bob", "a", "-", "--keep-going", stdin=MIXED)
        assert done.returncode == 1
        assert "error: line 3: " in done.stderr
        assert done.stderr.endswith("\n3 sent, 1 failed\n")
        assert await place.has_handled(3) == [{"id": 1}, {"id": 3}, {"id": 4}]


async def test_lines_can_be_text(redis_uri: str) -> None:
    async with two_nodes(redis_uri) as place:
        done = await place.run("publish", "order.x", "-", "--text", "--keep-going", stdin=b"one\r\n\n\xff\nlast")
        assert done.stderr.startswith(r"error: line 3: b'\xff' is not UTF-8: ")
        assert await place.has_handled(3) == ["one", "", "last"]


@pytest.mark.parametrize(
    ("arguments", "status", "said"),
    [
        (("send", "acme/carol", "a"), 1, "error: no node holds client 'acme/carol'"),
        (("send", "@server-2", "unheard.of"), 1, "unheard.of for @server-2 was not handled: no handler"),
        (("publish", "order.x", "{"), 2, "error: '{' is not JSON: "),
        (("publish", "order.x", "x" * 100, "--text", "--uri", "{uri}&max_event_size=64"), 1, "the limit is 64"),
        (("publish", "order.*", "1"), 2, "error: 'order.*' is not a valid topic or event type"),
        (("send", "acme/", "a"), 2, "is not a valid client"),
    ],
)
async def test_an_event_that_cannot_be_sent_is_an_error(
    redis_uri: str, arguments: tuple[str, ...], status: int, said: str
) -> None:
    async with two_nodes(redis_uri) as place:
        done = await place.run(*(argument.replace("{uri}", place.uri) for argument in arguments))
    assert done.returncode == status
    assert said in done.stderr
    assert "Traceback" not in done.stderr


async def test_it_reads_no_faster_than_the_broker_accepts(redis_server: RedisServer) -> None:
    lines = [f'"{number:01000}"' for number in range(4000)]
    rest = "\n".join(lines[1:]).encode()
    async with two_nodes(redis_server.uri) as place:
        uri = f"{place.uri}&outbox_size=1024"
        with place.start("publish", "order.x", "-", stdin=subprocess.PIPE, uri=uri) as process:
            assert process.stdin is not None
            process.stdin.write(f"{lines[0]}\n")
            await place.has_handled(1)
            redis_server.pause()
            written = await write_until_full(process.stdin.fileno(), rest)
            redis_server.resume()
            assert written < len(rest) / 4
            await anyio.to_thread.run_sync(process.stdin.write, rest[written:].decode())
            assert await end_of(process) == ("", "4,000 sent\n")
        assert await place.has_handled(4000) == [line.strip('"') for line in lines]


async def write_until_full(pipe: int, data: bytes) -> int:
    """Write to *pipe* until it accepts nothing for half a second; return how much it accepted."""
    os.set_blocking(pipe, False)
    written = 0
    with suppress(TimeoutError):
        while written < len(data):
            with anyio.fail_after(0.5):
                await anyio.wait_writable(pipe)
            written += os.write(pipe, data[written : written + 4096])
    os.set_blocking(pipe, True)
    return written


async def test_accepted_events_are_drained_after_a_signal(redis_uri: str) -> None:
    async with two_nodes(redis_uri) as place:
        with place.start("publish", "order.x", "-", stdin=subprocess.PIPE) as process:
            assert process.stdin is not None
            process.stdin.write("1\n")
            await place.has_handled(1)
            process.terminate()
            assert await end_of(process) == ("", "1 sent\n")
        assert process.returncode == 143


@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
async def test_a_signal_during_a_stream_loses_no_accepted_event(
    redis_uri: str, number: signal.Signals, status: int
) -> None:
    async with two_nodes(redis_uri) as place:
        with place.start("publish", "order.x", "-", stdin=subprocess.PIPE) as process:
            assert process.stdin is not None
            pipe = process.stdin.fileno()

            async def write() -> None:
                with suppress(OSError):  # it has ended
                    for line in range(1_000_000):
                        await anyio.to_thread.run_sync(os.write, pipe, b"%d\n" % line)

            async with anyio.create_task_group() as group:
                group.start_soon(write)
                await place.has_handled(100)
                process.send_signal(number)
                with anyio.fail_after(TIMEOUT):
                    await anyio.to_thread.run_sync(process.wait)
            assert process.stderr is not None
            sent = int(process.stderr.read().removesuffix(" sent\n").replace(",", ""))
        assert process.returncode == status
        assert await place.has_handled(sent) == list(range(sent))


async def test_of_an_endless_line_only_a_part_is_kept(tmp_path: Path) -> None:
    file = tmp_path / "endless"
    file.write_bytes(b"a\n" + b"b" * 1_000_000 + b"\n\nc")
    with file.open("rb") as opened:
        lines = [line async for line in read_lines(opened.fileno(), longest=1000)]
    assert [line[:1] for line in lines] == [b"a", b"b", b"", b"c"]
    assert 1000 < len(lines[1]) < 200_000
