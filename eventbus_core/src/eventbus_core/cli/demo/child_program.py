"""The program of a child process that is one node of a run; started by :mod:`eventbus_core.cli.demo.node_process`."""

from __future__ import annotations

import math
import os
import signal
from threading import Thread
from typing import BinaryIO, Final

import anyio
import msgspec
from anyio import from_thread
from anyio.lowlevel import EventLoopToken, current_token
from anyio.streams.memory import MemoryObjectSendStream

from eventbus_core.cli.demo.demo_messages import Begin, Command, Report
from eventbus_core.cli.demo.demo_node import run_node

STDIN: Final = 0
STDOUT: Final = 1
STDERR: Final = 2
READ_SIZE: Final = 65_536

_encode = msgspec.json.Encoder().encode
_decode_command = msgspec.json.Decoder(Command).decode


def run_child() -> None:
    """Run one node until the conductor ends it, or until stdin ends."""
    for number in (signal.SIGINT, signal.SIGTERM):  # the parent handles signals; if it dies, stdin ends
        signal.signal(number, signal.SIG_IGN)
    with os.fdopen(os.dup(STDOUT), "wb", buffering=0) as reports:
        os.dup2(STDERR, STDOUT)  # stdout carries reports alone, whatever a backend prints
        anyio.run(_serve, reports)


async def _serve(reports: BinaryIO) -> None:
    def tell(report: Report) -> None:
        reports.write(_encode(report) + b"\n")

    sender, commands = anyio.create_memory_object_stream[Command](math.inf)
    with commands:
        Thread(target=_read_commands, args=(sender, current_token()), daemon=True).start()
        begin = await commands.receive()
        if isinstance(begin, Begin):
            await run_node(begin.uri, begin.plan, begin.node, commands, tell)


def _read_commands(commands: MemoryObjectSendStream[Command], token: EventLoopToken) -> None:
    """Pass on the commands from stdin; runs in a thread, since some systems cannot wait for a pipe otherwise."""
    rest = b""
    try:
        while data := os.read(STDIN, READ_SIZE):
            *lines, rest = (rest + data).split(b"\n")
            for line in lines:
                from_thread.run_sync(commands.send_nowait, _decode_command(line), token=token)
        from_thread.run_sync(commands.close, token=token)
    except (anyio.RunFinishedError, anyio.BrokenResourceError):
        pass  # the node has ended


if __name__ == "__main__":
    run_child()
