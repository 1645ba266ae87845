"""The commands print what docs/cli.md shows, except for the numbers."""

from __future__ import annotations

import re
import shlex
import sys
from pathlib import Path

import anyio
import pytest

from eventbus_core.cli.app import app
from tests.cli.nodes import Place, two_nodes
from tests.cli.programs import TIMEOUT, environment

PAGE = Path(__file__).parents[2] / "docs" / "cli.md"
SHOWN = re.compile(r"^```sh\n([^`]+)```\n\n<!-- output -->\n```text\n([^`]*)```$", re.MULTILINE)
EXAMPLE_URI = re.compile(r"'redis://[^?]+\?(retain=[^']+)'")
POSITION = re.compile(r"\b[0-9a-z]+:\d+-[0-9a-z]+\b")
EXAMPLES = SHOWN.findall(PAGE.read_text(encoding="utf-8"))
VOLATILE = (
    (r"\bvalkey\b", "redis"),  # depends on the machine
    (r"redis://[^\s/]+", "redis://"),
    (r"cli-[0-9a-f]{32}", "default"),
    (r"cli-[0-9a-f]{8}", "cli"),
    (r'"id":"[^"]+"', "id"),
    (r"[\d.,:]*\d", "0"),
    ("ahead of|behind", "off"),
)


def normal(text: str) -> str:
    """*text* without the parts that differ from run to run."""
    for pattern, plain in VOLATILE:
        text = re.sub(pattern, plain, text)
    return " ".join(text.split())


async def printed(place: Place, script: str) -> str:
    """The output of the shell *script* on both streams, while server-1 publishes orders and server-2 handles them."""
    function = f'eventbus() {{ "{sys.executable}" -m eventbus "$@"; }}\n'
    env = environment(EVENTBUS_URI=place.uri, COLUMNS="120")
    with anyio.fail_after(TIMEOUT):
        async with anyio.create_task_group() as publishing:
            publishing.start_soon(publish, place)
            command = ["bash", "-c", f"exec 2>&1\n{function}{script}"]
            done = await anyio.run_process(command, env=env, check=False)
            publishing.cancel_scope.cancel()
    return done.stdout.decode()


async def publish(place: Place) -> None:
    while True:
        await place.one.publish("order.created", {"id": len(place.handled)})
        await anyio.sleep(0.02)


(RETAINED,) = [example for example in EXAMPLES if EXAMPLE_URI.search(example[0])]
EXAMPLES.remove(RETAINED)


@pytest.mark.parametrize(("script", "output"), EXAMPLES, ids=[script.partition("\n")[0] for script, _ in EXAMPLES])
async def test_a_command_prints_what_the_page_shows(redis_uri: str, script: str, output: str) -> None:
    async with two_nodes(redis_uri) as place:

        @place.two.on("order.count")
        def count(event: object) -> None:
            """Handle the event that the page sends to this node."""

        assert normal(await printed(place, script)) == normal(output)


async def test_the_history_is_printed_as_the_page_shows(redis_uri: str) -> None:
    script, output = RETAINED
    (retain,) = EXAMPLE_URI.findall(script)
    async with two_nodes(redis_uri, retain) as place:
        await place.one.publish("chat.room.42", {"text": "hi"}, durable=True)
        await place.two.publish("chat.room.42", {"text": "hello"}, durable=True)
        shown = dict.fromkeys(POSITION.findall(output))
        actual = [event.position or "" for event in await place.one.history("chat.room.42")]
        for position, own in zip(shown, actual, strict=True):
            for part, own_part in zip(position.split(":"), own.split(":"), strict=True):  # a later one may name it, too
                script, output = script.replace(part, own_part), output.replace(part, own_part)
        script = EXAMPLE_URI.sub(shlex.quote(place.uri), script)
        assert await printed(place, script) == output


def test_the_page_has_every_command() -> None:
    headings = " ".join(re.findall(r"^## (.+)$", PAGE.read_text(encoding="utf-8"), re.MULTILINE))
    assert {command.name for command in app.registered_commands} == set(headings.replace(",", "").split())
