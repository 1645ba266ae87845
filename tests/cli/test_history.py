"""``eventbus history``, and ``eventbus tail --since``."""

from __future__ import annotations

import json
import uuid

import eventbus
from tests.cli.nodes import Place, end_of, error_line

RETAIN = "chat.>=5/600/8388608"


async def test_a_topic_is_shown_from_the_start_and_since_a_position(redis_uri: str) -> None:
    uri = f"{redis_uri}?namespace=cli-{uuid.uuid4().hex}&retain={RETAIN}"
    async with eventbus.connect(uri, node="server-1") as bus:
        place = Place(uri, bus, bus, [])
        for number in range(1, 8):
            await bus.publish("chat.x", {"n": number})
        await bus.flush()
        tokens = [event.position or "" for event in await bus.history("chat.x")]

        shown = await place.run("history", "chat.x", "--limit", "2", "--json")
        assert (shown.returncode, shown.stderr) == (0, "")
        lines = [json.loads(line) for line in shown.stdout.splitlines()]
        assert [(line["data"], line["position"], line["source"]) for line in lines] == [
            ({"n": 6}, tokens[-2], "@server-1"),
            ({"n": 7}, tokens[-1], "@server-1"),
        ]

        shown = await place.run("history", "chat.x", "--since", tokens[1])
        assert shown.stderr == "resumed: 3 events since\n"
        assert (await place.run("history", "chat.x", "--since", tokens[3])).stderr == "resumed: 1 event since\n"
        shown_tokens = [line.split()[0] for line in shown.stdout.splitlines()]
        assert [token.split(":")[:2] for token in shown_tokens] == [token.split(":") for token in tokens[2:]]

        for number in range(8, 11):
            await bus.publish("chat.x", {"n": number})
        await bus.flush()
        shown = await place.run("history", "chat.x", "--since", tokens[0])
        assert shown.stderr == "gap: 2 events are gone (trimmed)\n"
        assert len(shown.stdout.splitlines()) == 5
        shown = await place.run("history", "chat.x", "--since", "rubbish", "--limit", "1")
        assert shown.stderr == "gap: some events may be gone (unknown_position)\n"
        assert shown.stdout.endswith('{"n":6}\n')

        assert (await place.run("history", "chat.none")).stdout == ""
        assert (await place.run("history", "chat.none", "--since", "rubbish")).returncode == 0
        for arguments in (("history", "plain"), ("tail", "plain", "--since", "")):
            refused = await place.run(*arguments)
            assert (refused.returncode, refused.stdout) == (2, "")
            assert refused.stderr.startswith("error: topic 'plain' is not retained in namespace 'cli-")
            assert refused.stderr.endswith("; give every node a URI whose retain= has a pattern that matches it\n")


async def test_tail_goes_on_from_a_position(redis_uri: str) -> None:
    uri = f"{redis_uri}?namespace=cli-{uuid.uuid4().hex}&retain={RETAIN}"
    async with eventbus.connect(uri, node="server-1") as bus:
        place = Place(uri, bus, bus, [])
        for number in range(3):
            await bus.publish("chat.x", number, durable=True)
        (first, *_) = await bus.history("chat.x")
        with place.start("tail", "chat.x", "--since", first.position or "", "--count", "3", "--json") as process:
            assert await error_line(process) == "resumed: 2 events since\n"
            await bus.publish("chat.x", 3)
            out, _ = await end_of(process)
        assert [json.loads(line)["data"] for line in out.splitlines()] == [1, 2, 3]
        wrong = await place.run("tail", "--since", "x")
        assert wrong.returncode == 2
        assert "--since resumes one retained topic" in wrong.stderr


async def test_a_command_takes_lanes_and_retention_from_the_namespace(redis_uri: str) -> None:
    """Unless its URI names them; then the error shows what is right, to paste into the URI."""
    uri = f"{redis_uri}?namespace=cli-{uuid.uuid4().hex}"
    retained = f"retain={RETAIN}&retain_clients=acme/*=200/300/1024&retain_queues=jobs=100/60/1024"
    async with eventbus.connect(f"{uri}&lanes=8&{retained}", node="server-1") as bus:
        shown = await Place(uri, bus, bus, []).run("nodes")
        assert (shown.returncode, shown.stderr) == (0, "")
        assert "server-1" in shown.stdout
        refused = await Place(uri, bus, bus, []).run("nodes", f"{uri}&lanes=8&retain=other=1/1/1024")
        assert refused.returncode == 2
        assert f"the retention '{retained}'" in refused.stderr
