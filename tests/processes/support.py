"""Nodes in processes of their own, and the signals that processes get."""

from __future__ import annotations

import itertools
import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from pathlib import Path
from time import monotonic
from typing import Any, TypeAlias
from urllib.parse import urlencode

import anyio

from tests.support import DEADLINE, fresh_namespace, until

Record: TypeAlias = dict[str, Any]
Start: TypeAlias = "Callable[[str], Coroutine[Any, Any, NodeProcess]]"

LAST_WORDS = 60
"""How many records of each process are shown with a failure."""


class Refused(Exception):
    """Raised when a node answers a command with an error; ``name`` is that of its class."""

    def __init__(self, name: str, text: str = "") -> None:
        super().__init__(f"{name}: {text}" if text else name)
        self.name = name


class NodeProcess:
    """
    One process that runs ``tests.processes.node``, or another *program* that obeys as that does.

    Attributes:
        said: all that it has said so far.
    """

    def __init__(self, uri: str, node: str, *, program: str = "tests.processes.node") -> None:
        self.node = node
        self.said: list[Record] = []
        self._answers: dict[int, Record] = {}
        self._numbers = itertools.count(1)
        command = [sys.executable, "-m", program, uri, node]
        pipe = subprocess.PIPE
        self._process = subprocess.Popen(
            command, stdin=pipe, stdout=pipe, stderr=pipe, text=True, bufsize=1, cwd=Path(__file__).parents[2]
        )
        self._errors: list[str] = []
        self._readers = [threading.Thread(target=self._read), threading.Thread(target=self._read_errors)]
        for reader in self._readers:
            reader.start()

    def __repr__(self) -> str:
        return f"<NodeProcess {self.node} {self._process.poll()} {''.join(self._errors)[-2000:]}>"

    @property
    def pid(self) -> int:
        """The number of the process."""
        return self._process.pid

    async def opened(self) -> None:
        """
        Return once it is on the bus.

        Raises:
            Refused: it could not enter.
        """
        await until(lambda: bool(self.all("open", "failed")) or self.ended, f"{self!r} is on the bus")
        for record in self.all("failed"):
            raise Refused(record["error"])
        assert self.all("open"), repr(self)

    async def ask(self, do: str, **arguments: object) -> Any:
        """
        Return what it answers to a command.

        Raises:
            Refused: it answers with an error.
        """
        number = self.tell(do, **arguments)
        await until(lambda: number in self._answers or self.ended, f"{self!r} answers {do} {arguments}")
        answer = self._answers.pop(number, None)
        assert answer is not None, f"{self!r} ended before it answered {do}"
        if "error" in answer:
            raise Refused(answer["error"], answer["text"])
        return answer["value"]

    def tell(self, do: str, **arguments: object) -> int:
        """Give it a command; return the number of the answer."""
        number = next(self._numbers)
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps({"id": number, "do": do, **arguments}) + "\n")
        return number

    async def claim(self, client: str, **options: bool) -> None:
        """Have it claim *client*."""
        await self.ask("claim", client=client, **options)

    async def send(self, client: str, numbers: range) -> dict[int, str]:
        """Have it send *numbers* to *client*; return those that were refused, and why."""
        return dict(await self.ask("send", client=client, first=numbers.start, end=numbers.stop))

    def all(self, *what: str, client: str | None = None, since: float = 0.0) -> list[Record]:
        """Return what it has said of *what*, of *client* alone if one is given."""
        return [
            record
            for record in list(self.said)
            if record["say"] in what and record["at"] >= since and (client is None or record["client"] == client)
        ]

    def handled(self, client: str, since: float = 0.0) -> list[int]:
        """Return the numbers that *client* has handled there."""
        return [record["number"] for record in self.all("handled", client=client, since=since)]

    def reported(self, client: str) -> dict[int, str]:
        """Return the numbers of those sent from there to *client* that were reported, and why."""
        return {record["number"]: record["reason"] for record in self.all("undeliverable", client=client)}

    def kill(self) -> float:
        """End it as ``kill -9`` does; return when."""
        now = monotonic()
        self._process.kill()
        return now

    def terminate(self) -> float:
        """Send SIGTERM; return when."""
        now = monotonic()
        self._process.terminate()
        return now

    def end(self) -> None:
        """Have it leave the bus and end, of its own accord."""
        assert self._process.stdin is not None
        self._process.stdin.close()

    def pause(self) -> None:
        """Stop it in its tracks (SIGSTOP), connections open."""
        self._process.send_signal(signal.SIGSTOP)
        os.waitid(os.P_PID, self._process.pid, os.WSTOPPED | os.WNOWAIT)

    def resume(self) -> float:
        """Let it go on (SIGCONT); return when."""
        now = monotonic()
        self._process.send_signal(signal.SIGCONT)
        return now

    @property
    def ended(self) -> bool:
        """Whether the process has ended, and all that it said is in ``said``."""
        return self._process.poll() is not None and not any(reader.is_alive() for reader in self._readers)

    async def exit(self) -> int:
        """Return its exit code once it has ended."""
        await until(lambda: self.ended, f"{self!r} ends")
        code = self._process.returncode
        assert code is not None
        return code

    def close(self) -> None:
        """Make an end of it."""
        self._process.kill()
        self._process.wait(DEADLINE)
        for reader in self._readers:
            reader.join(DEADLINE)
        for pipe in (self._process.stdin, self._process.stdout, self._process.stderr):
            assert pipe is not None
            pipe.close()

    def _read(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            record: Record = json.loads(line)
            if record["say"] == "answer":
                self._answers[record["id"]] = record
            else:
                self.said.append(record)

    def _read_errors(self) -> None:
        assert self._process.stderr is not None
        self._errors.extend(self._process.stderr)


class Place:
    """A namespace of its own at a server, and the processes that are started there."""

    def __init__(self, uri: str) -> None:
        self.uri = uri
        self.processes: list[NodeProcess] = []

    async def start(self, *names: str) -> list[NodeProcess]:
        """Start a node of each name; return once all are on the bus."""
        started = [NodeProcess(self.uri, name) for name in names]
        self.processes += started
        for process in started:
            await process.opened()
        return started


@asynccontextmanager
async def place(server: str, lease: float, **options: str) -> AsyncIterator[Place]:
    """Have a place at *server* where nodes have so long a *lease*; no process survives it. If it fails, all tell."""
    query = urlencode({"namespace": fresh_namespace(), "lease": lease, **options})
    found = Place(f"{server}?{query}")
    try:
        yield found
    except BaseException:
        for process in found.processes:
            print(process, *process.said[-LAST_WORDS:], sep="\n  ")
        raise
    finally:
        with anyio.CancelScope(shield=True):
            for process in found.processes:
                await anyio.to_thread.run_sync(process.close)


async def gone(node: str, witness: NodeProcess) -> float:
    """Return when *witness* saw *node* on the bus no more."""

    async def is_gone() -> bool:
        return node not in await witness.ask("nodes")

    await until(is_gone, f"{node} is off the bus")
    return monotonic()
