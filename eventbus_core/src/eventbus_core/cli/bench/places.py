"""Where a node of a bench runs: in this process, or in one of its own."""

from __future__ import annotations

import math
import multiprocessing
import os
import signal
from functools import partial
from multiprocessing.connection import Connection
from threading import Thread
from typing import Final

import anyio
from anyio import from_thread, to_thread
from anyio.lowlevel import EventLoopToken, current_token
from anyio.streams.memory import MemoryObjectSendStream

from eventbus_core.cli.bench.loads import Load
from eventbus_core.cli.bench.node import run_node
from eventbus_core.cli.demo.messages import Command, Commands, Ended, Tell
from eventbus_core.cli.demo.places import Place
from eventbus_core.cli.demo.plan import Plan

GRACE: Final = 10.0
STDOUT: Final = 1
STDERR: Final = 2


def place_for(load: Load, *, apart: bool) -> Place:
    """Return the place of a node that sends *load*: a process of its own if *apart*."""
    return partial(_in_child if apart else run_node, load)


async def _in_child(load: Load, uri: str, plan: Plan, node: int, commands: Commands, tell: Tell) -> None:
    """Do what :func:`run_node` does in a process of its own, which ends itself when we are gone."""
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    process = context.Process(target=_child, args=(theirs, load, uri, plan, node), daemon=True)
    with ours:
        process.start()
        theirs.close()
        try:
            async with anyio.create_task_group() as writing:
                writing.start_soon(_pass_on, commands, ours)
                await _read_reports(ours, tell)
                await to_thread.run_sync(process.join, GRACE, abandon_on_cancel=True)
                tell(Ended(process.exitcode or 0))
                writing.cancel_scope.cancel()
        finally:
            process.kill()


async def _pass_on(commands: Commands, connection: Connection) -> None:
    try:
        async for command in commands:
            connection.send(command)
    except OSError:
        pass  # it has ended; its exit status tells the rest


async def _read_reports(connection: Connection, tell: Tell) -> None:
    threads = anyio.CapacityLimiter(1)  # of each node's own: there may be more nodes than anyio has threads
    try:
        while True:
            tell(await to_thread.run_sync(connection.recv, abandon_on_cancel=True, limiter=threads))
    except (EOFError, OSError):
        return


def _child(connection: Connection, load: Load, uri: str, plan: Plan, node: int) -> None:
    """Be the program of a child process."""
    for ours in (signal.SIGINT, signal.SIGTERM):  # the parent decides
        signal.signal(ours, signal.SIG_IGN)
    os.dup2(STDERR, STDOUT)  # whatever someone's backend prints is no result
    anyio.run(_serve, connection, load, uri, plan, node)


async def _serve(connection: Connection, load: Load, uri: str, plan: Plan, node: int) -> None:
    sender, commands = anyio.create_memory_object_stream[Command](math.inf)
    with commands:
        Thread(target=_read_commands, args=(connection, sender, current_token()), daemon=True).start()
        await run_node(load, uri, plan, node, commands, connection.send)


def _read_commands(connection: Connection, commands: MemoryObjectSendStream[Command], token: EventLoopToken) -> None:
    """Pass on what the parent says; in a thread, as not every system can wait for a pipe otherwise."""
    try:
        while True:
            from_thread.run_sync(commands.send_nowait, connection.recv(), token=token)
    except (EOFError, OSError):
        from_thread.run_sync(commands.close, token=token)
    except (anyio.RunFinishedError, anyio.BrokenResourceError):
        pass  # the node has finished
