"""Runs a node of a demo or bench in this process or in a child process."""

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

from eventbus_core.cli.demo.demo_messages import Begin, Commands, Ended, Report, Tell
from eventbus_core.cli.demo.demo_node import run_node
from eventbus_core.cli.demo.plan import Plan

RunNode: TypeAlias = Callable[[str, Plan, int, Commands, Tell], Coroutine[Any, Any, None]]

CHILD: Final = "eventbus_core.cli.demo.child_program"
MAX_LINE: Final = 256 * 1024 * 1024
EXIT_TIMEOUT: Final = 10.0

in_this_process: RunNode = run_node

_encode = msgspec.json.Encoder().encode
_decode_report = msgspec.json.Decoder(Report).decode


async def in_child_process(uri: str, plan: Plan, node: int, commands: Commands, tell: Tell) -> None:
    """
    Do the work of :func:`run_node` in a child process, whose stderr is passed on to ours.

    The child gets its commands on stdin, as lines of JSON, and reports on stdout; it ends when its stdin ends.
    """
    process = await _start()
    try:
        async with anyio.create_task_group() as writing:
            writing.start_soon(_pass_on, Begin(uri, plan, node), commands, process.stdin)
            async with anyio.create_task_group() as reading:
                reading.start_soon(_pass_errors_on, process)
                reading.start_soon(_read_reports, process, tell)
            tell(Ended(await process.wait()))
            writing.cancel_scope.cancel()
    finally:
        with anyio.CancelScope(shield=True):
            await _end(process)


async def _start() -> Process:
    # The child gets our sys.path, as the children of multiprocessing do; and a session of its own,
    # since a Ctrl-C in the terminal must reach the parent alone.
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
        pass  # the child has ended; its exit status says why


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


async def _pass_errors_on(process: Process) -> None:
    if process.stderr is not None:
        async for text in TextReceiveStream(process.stderr, errors="replace"):
            sys.stderr.write(text)


async def _end(process: Process) -> None:
    """Wait for the end of *process*; kill it after EXIT_TIMEOUT seconds."""
    if process.stdin is not None:
        await process.stdin.aclose()
    with anyio.move_on_after(EXIT_TIMEOUT):
        await process.wait()
    if process.returncode is None:
        process.kill()
    await process.aclose()
