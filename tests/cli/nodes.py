"""A bus of two nodes, and functions that run the command line on it."""

from __future__ import annotations

import subprocess
import uuid
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from functools import partial
from typing import IO, TypeAlias

import anyio
import attrs

import eventbus
from eventbus_core.testing import until
from tests.cli.programs import COMMAND, TIMEOUT, environment

Process: TypeAlias = "subprocess.Popen[str]"


@attrs.frozen
class Place:
    """
    A namespace of its own with ``server-1``, which holds ``acme/alice``, and ``server-2``, which holds ``acme/bob``.

    Attributes:
        uri: its address.
        one, two: the buses.
        handled: the events that server-2 has handled; it has a handler for ``order.*``.
    """

    uri: str
    one: eventbus.Bus
    two: eventbus.Bus
    handled: list[eventbus.Event]

    async def run(
        self, *arguments: str, stdin: bytes | None = None, **variables: str
    ) -> subprocess.CompletedProcess[str]:
        """Run a command to its end, with the bus as ``EVENTBUS_URI``."""
        env = environment(None, **{"EVENTBUS_URI": self.uri, **variables})
        done = await anyio.run_process([*COMMAND, *arguments], input=stdin, check=False, env=env)
        return subprocess.CompletedProcess(done.args, done.returncode, done.stdout.decode(), done.stderr.decode())

    @contextmanager
    def start(self, *arguments: str, stdin: int | IO[bytes] | None = None, uri: str = "") -> Iterator[Process]:
        """Start a command in the same way; kill it at the end if it still runs."""
        command = [*COMMAND, *arguments]
        env = environment(EVENTBUS_URI=uri or self.uri)
        pipe = subprocess.PIPE
        with subprocess.Popen(command, stdin=stdin, stdout=pipe, stderr=pipe, text=True, bufsize=1, env=env) as process:
            try:
                yield process
            finally:
                process.kill()

    async def has_handled(self, count: int) -> list[object]:
        """Wait for *count* handled events, and return their data."""
        await until(lambda: len(self.handled) >= count, f"{count} events are handled", times=4)
        return [event.data for event in self.handled]


async def has_nodes(place: Place, count: int) -> bool:
    """Return whether so many nodes are on the bus."""
    return len(await place.one.nodes()) >= count


async def end_of(process: Process) -> tuple[str, str]:
    """Wait for the end of *process*, and return its output."""
    return await anyio.to_thread.run_sync(partial(process.communicate, timeout=TIMEOUT))


async def error_line(process: Process) -> str:
    """Return the next line of *process* on stderr."""
    assert process.stderr is not None
    with anyio.fail_after(TIMEOUT):
        return await anyio.to_thread.run_sync(process.stderr.readline)


@asynccontextmanager
async def two_nodes(server: str, *options: str) -> AsyncIterator[Place]:
    """Yield them on *server*, with *options* of their URI."""
    uri = "&".join((f"{server}?namespace=cli-{uuid.uuid4().hex}", *options))
    handled: list[eventbus.Event] = []
    async with eventbus.connect(uri, node="server-1") as one, eventbus.connect(uri, node="server-2") as two:
        two.on("order.*")(handled.append)
        await two.ready()
        async with one.client("acme/alice", handler=handled.append), two.client("acme/bob", handler=handled.append):
            yield Place(uri, one, two, handled)
