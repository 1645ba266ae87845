"""Where a node of a demo runs: in this process, or in one of its own."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Coroutine
from typing import Any, Final, TypeAlias

import anyio
import msgspec
from anyio.abc import ByteSendStream, Process
from anyio.streams.buffered import BufferedByteReceiveStream
from anyio.streams.text import TextReceiveStream

from eventbus_core.cli.demo.messages import Begin, Commands, Ended, Report, Tell
from eventbus_core.cli.demo.node import run_node
from eventbus_core.cli.demo.plan import Plan

Place: TypeAlias = Callable[[str, Plan, int, Commands, Tell], Coroutine[Any, Any, None]]

CHILD: Final = "eventbus_core.cli.demo.child"
MAX_LINE: Final = 256 * 1024 * 1024
GRACE: Final = 10.0

here: Place = run_node

_encode = msgspec.json.Encoder().encode
_decode_report = msgspec.json.Decoder(Report).decode


async def in_child(uri: str, plan: Plan, node: int, commands: Commands, tell: Tell) -> None:
    """
    Do what :func:`run_node` does in a process of its own; what that writes to stderr goes to ours.

    It gets its commands on stdin, as lines of JSON, and reports on stdout; when its stdin ends it ends itself.
    """
    process = await _start()
    try:
        async with anyio.create_task_group() as writing:
            writing.start_soon(_pass_on, Begin(uri, plan, node), commands, process.stdin)
            async with anyio.create_task_group() as reading:
                reading.start_soon(_show_errors, process)
                reading.start_soon(_read_reports, process, tell)
            tell(Ended(await process.wait()))
            writing.cancel_scope.cancel()
    finally:
        with anyio.CancelScope(shield=True):
            await _end(process)


async def _start() -> Process:
    # The child finds the modules that we have found, like those of multiprocessing do; and a
    # Ctrl-C in the terminal is for us alone, hence the session of its own.
    path = os.pathsep.join(entry or os.getcwd() for entry in sys.path)
    return await anyio.open_process(
        [sys.executable, "-P", "-m", CHILD], env={**os.environ, "PYTHONPATH": path}, start_new_session=True
    )


async def _pass_on(begin: Begin, commands: Commands, stdin: ByteSendStream | None) -> None:
    if stdin is None:
        return
    try:
        await stdin.send(_encode(begin) + b"\n")
        async for command in commands:
            await stdin.send(_encode(command) + b"\n")
    except anyio.BrokenResourceError:
        pass  # it has ended; its exit status tells the rest


async def _read_reports(process: Process, tell: Tell) -> None:
    if process.stdout is None:
        return
    lines = BufferedByteReceiveStream(process.stdout)
    while True:
        try:
            line = await lines.receive_until(b"\n", MAX_LINE)
        except (anyio.EndOfStream, anyio.IncompleteRead):
            return
        tell(_decode_report(line))


async def _show_errors(process: Process) -> None:
    if process.stderr is not None:
        async for text in TextReceiveStream(process.stderr, errors="replace"):
            sys.stderr.write(text)


async def _end(process: Process) -> None:
    """Let *process* end, and kill it if it takes too long."""
    if process.stdin is not None:
        await process.stdin.aclose()
    with anyio.move_on_after(GRACE):
        await process.wait()
    if process.returncode is None:
        process.kill()
    await process.aclose()
