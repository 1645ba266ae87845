"""A Redis or Valkey cluster of the tests' own, on loopback only."""

from __future__ import annotations

import socket
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, suppress
from functools import cached_property, partial
from pathlib import Path
from threading import Thread
from types import TracebackType
from typing import Any, Final, Self

from redis import Redis
from redis.exceptions import RedisError

from tests.servers import HOST, RedisServer, ServerError, free_port

SLOTS: Final = 16384
FORM_TIMEOUT: Final = 30.0
CONNECTED: Final = "connected"
TLS_PORT: Final = "{tls-port}"
NODE_TIMEOUT: Final = 2000  # milliseconds


class ClusterServer(RedisServer):
    """
    One server of a cluster.

    Attributes:
        source: the address from which it connects to others; not that at which it listens.
        bus: what stands before its port for the other servers.
        tls_port: a port of its own, which stands for :data:`TLS_PORT` in the options.
    """

    def __init__(self, directory: Path, number: int, *options: str, program: str | None = None) -> None:
        self.source = f"127.0.0.{2 + number}"
        own_port = free_port()
        self.bus = BusProxy(own_port)
        cluster = (
            *("--cluster-enabled", "yes"),
            *("--cluster-port", str(own_port)),
            *("--cluster-announce-bus-port", str(self.bus.port)),
            *("--cluster-announce-ip", HOST),
            *("--bind-source-addr", self.source),
            *("--protected-mode", "no"),  # or only 127.0.0.1 may connect
            *("--cluster-config-file", "nodes.conf"),
            *("--cluster-node-timeout", str(NODE_TIMEOUT)),
            *("--repl-diskless-sync-delay", "0"),
        )
        self.tls_port = free_port()
        filled = (option.replace(TLS_PORT, str(self.tls_port)) for option in options)
        super().__init__(directory, *cluster, *filled, program=program)
        self._commands = Redis(HOST, self.port, socket_timeout=5.0, decode_responses=True)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        super().__exit__(kind, error, trace)
        self._commands.close()
        self.bus.close()

    def call(self, *command: str | bytes | int) -> Any:
        """Return the reply to *command*, in text where it is bytes."""
        return self._commands.execute_command(*command)  # type: ignore[no-untyped-call]

    @cached_property
    def id(self) -> str:
        """The id of the server in its cluster."""
        found: str = self.call("CLUSTER", "MYID")
        return found

    @property
    def primary(self) -> bool:
        """Whether the server takes itself for a primary."""
        return bool(self.call("ROLE")[0] in ("master", "primary"))

    def facts(self) -> dict[str, str]:
        """Return the fields of CLUSTER INFO."""
        reply = self.call("CLUSTER", "INFO")
        if isinstance(reply, dict):
            return reply
        return dict(line.split(":", 1) for line in reply.splitlines() if ":" in line)


class BusProxy:
    """
    Passes on connections of other servers to one server's *target* port, or swallows what comes.

    Attributes:
        port: where it listens.
    """

    def __init__(self, target: int) -> None:
        self._target = target
        self._listener = socket.create_server((HOST, 0))
        self.port: int = self._listener.getsockname()[1]
        self._swallows: Callable[[str], bool] = lambda source: False
        self._open: set[socket.socket] = set()
        Thread(target=self._accept, daemon=True).start()

    def swallow(self, swallows: Callable[[str], bool]) -> None:
        """From now on, pass nothing on from or to the addresses for which *swallows* returns true."""
        self._swallows = swallows

    def cut(self) -> None:
        """Close all connections, so that new ones are made."""
        for end in list(self._open):
            _shut(end)

    def close(self) -> None:
        """Close all connections, and the port."""
        _shut(self._listener)
        self.cut()

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                near, (source, _) = self._listener.accept()
                Thread(target=self._serve, args=(near, source), daemon=True).start()

    def _serve(self, near: socket.socket, source: str) -> None:
        with suppress(OSError):
            far = socket.create_connection((HOST, self._target))
            self._open |= {near, far}
            Thread(target=self._pump, args=(far, near, source), daemon=True).start()
            self._pump(near, far, source)
        _shut(near)

    def _pump(self, one: socket.socket, other: socket.socket, source: str) -> None:
        with suppress(OSError):
            while data := one.recv(65_536):
                if not self._swallows(source):
                    other.sendall(data)
        _shut(one)
        _shut(other)
        self._open -= {one, other}


class RedisCluster:
    """
    A cluster of *primaries*, each with *replicas*; slots are spread evenly.

    Attributes:
        servers: the primaries of the beginning, then their replicas in the same order.
    """

    def __init__(
        self, directory: Path, *options: str, primaries: int = 3, replicas: int = 0, program: str | None = None
    ) -> None:
        self.primaries = primaries
        self.servers: list[ClusterServer] = []
        self._directory = directory
        self._options = options
        self._program = program
        self._replicas = replicas
        self._stack = ExitStack()

    def __enter__(self) -> Self:
        try:
            for _ in range(self.primaries * (1 + self._replicas)):
                self.add()
            self._form()
        except BaseException:
            self._stack.close()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.close()

    @property
    def uri(self) -> str:
        """The URI of the cluster, with three of its servers as seeds."""
        return f"redis+cluster://{','.join(f'{HOST}:{server.port}' for server in self.servers[:3])}"

    @property
    def running(self) -> Sequence[ClusterServer]:
        """The servers whose processes live."""
        return [server for server in self.servers if server.running]

    def add(self) -> ClusterServer:
        """Start a server that knows of no other yet."""
        folder = self._directory / f"server-{len(self.servers)}"
        folder.mkdir()
        server = ClusterServer(folder, len(self.servers), *self._options, program=self._program)
        self.servers.append(self._stack.enter_context(server))
        return server

    def meet(self, server: ClusterServer) -> None:
        """Introduce *server* to the cluster; return once all servers know each other."""
        first = next(other for other in self.running if other is not server)
        server.call("CLUSTER", "MEET", HOST, first.port, first.bus.port)
        self.settle()

    def replica(self, primary: ClusterServer) -> ClusterServer:
        """Return a replica of *primary* that is in step with it."""
        found: list[ClusterServer] = []

        def in_step() -> bool:
            roles = [(server, server.call("ROLE")) for server in self.running if server is not primary]
            found[:] = [
                server for server, role in roles if role[0] == "slave" and role[2:4] == [primary.port, CONNECTED]
            ]
            return bool(found)

        _wait(in_step, f"a replica follows {primary!r}")
        return found[0]

    def fail_over(self, primary: ClusterServer) -> ClusterServer:
        """Have a replica of *primary* take over in good order; return it once it has."""
        replica = self.replica(primary)
        replica.call("CLUSTER", "FAILOVER")
        _wait(lambda: replica.primary, f"{replica!r} is a primary")
        return replica

    def owner(self, slot: int) -> ClusterServer:
        """Return the server that owns *slot*, as most of the servers say."""
        views = [_owner(server.call("CLUSTER", "SLOTS"), slot) for server in self.running]
        port = max(views, key=views.count)
        return next(server for server in self.servers if server.port == port)

    def migrate(self, slot: int, target: ClusterServer, *, source_first: bool = False) -> None:
        """Give *slot* to *target*, as redis-cli does: key by key, then SETSLOT NODE; return once all servers know."""
        self.settle()
        source = self.owner(slot)
        self.move_keys(slot, source, target)
        self.hand_over(slot, source, target, source_first=source_first)
        self.settle()

    def move_keys(self, slot: int, source: ClusterServer, target: ClusterServer) -> None:
        """Move all keys of *slot*, which is being migrated then."""
        target.call("CLUSTER", "SETSLOT", slot, "IMPORTING", source.id)
        source.call("CLUSTER", "SETSLOT", slot, "MIGRATING", target.id)
        while keys := source.call("CLUSTER", "GETKEYSINSLOT", slot, 100):
            source.call("MIGRATE", HOST, target.port, "", 0, 5000, "KEYS", *keys)

    def hand_over(self, slot: int, source: ClusterServer, target: ClusterServer, *, source_first: bool = False) -> None:
        """Make *target* the owner of *slot*, whose keys it has."""
        others = [server for server in self.running if server not in (source, target) and server.primary]
        for server in (*((source, target) if source_first else (target, source)), *others):
            server.call("CLUSTER", "SETSLOT", slot, "NODE", target.id)

    def migrate_atomically(self, start: int, end: int, source: ClusterServer, target: ClusterServer) -> None:
        """Give the slots from *start* to *end* to *target* by Valkey's MIGRATESLOTS; return once it has them."""
        source.call("CLUSTER", "MIGRATESLOTS", "SLOTSRANGE", start, end, "NODE", target.id)
        _wait(lambda: self.owner(start) is self.owner(end) is target, f"the slots are at {target!r}")

    def restart(self) -> None:
        """Stop all servers, and start them on the same ports; what they held is gone, but not their slots."""
        for server in self.servers:
            server.stop()
        for server in self.servers:
            server.start()
        self.settle()

    def pause(self) -> None:
        """Stop all servers in their tracks, connections open (SIGSTOP)."""
        for server in self.running:
            server.pause()

    def resume(self) -> None:
        """Let all servers go on (SIGCONT)."""
        for server in self.running:
            server.resume()

    def cut_off(self, server: ClusterServer) -> None:
        """Cut *server* off from all others; its clients still reach it, and its replicas."""
        for other in self.servers:
            other.bus.swallow(lambda source, other=other: other is server or source == server.source)  # type: ignore[misc]

    def heal(self) -> None:
        """Let all servers reach each other again."""
        for server in self.servers:
            server.bus.swallow(lambda source: False)
            server.bus.cut()

    def settle(self) -> None:
        """Return once all running servers agree that the cluster is well."""
        _wait(lambda: self._settled(), f"the servers of {self._directory} agree")

    def _form(self) -> None:
        for epoch, server in enumerate(self.servers, 1):
            server.call("CLUSTER", "SET-CONFIG-EPOCH", epoch)
        for number, (start, end) in enumerate(ranges(self.primaries)):
            self.servers[number].call("CLUSTER", "ADDSLOTSRANGE", start, end)
        first = self.servers[0]
        for server in self.servers[1:]:
            server.call("CLUSTER", "MEET", HOST, first.port, first.bus.port)
        _wait(lambda: all(int(s.facts()["cluster_known_nodes"]) == len(self.servers) for s in self.servers), "they met")
        for place, server in enumerate(self.servers[self.primaries :]):
            primary = self.servers[place % self.primaries].id
            _wait(partial(_replicate, server, primary), "a replica found its primary")
        self.settle()

    def _settled(self) -> bool:
        replicas: set[int] = set()
        views = []
        for server in self.running:
            facts = server.facts()
            if facts["cluster_state"] != "ok" or int(facts["cluster_known_nodes"]) < len(self.running):
                return False
            role = server.call("ROLE")
            if role[0] == "slave":
                if role[3] != CONNECTED:
                    return False
                replicas.add(server.port)
            views.append(_view(server.call("CLUSTER", "SLOTS")))
        shown = {port for _, _, _, *others in views[0] for port in others}
        return replicas <= shown and all(view == views[0] for view in views)


def ranges(primaries: int) -> Iterator[tuple[int, int]]:
    """Yield the first and the last slot of each of so many primaries."""
    for number in range(primaries):
        yield number * SLOTS // primaries, (number + 1) * SLOTS // primaries - 1


def _shut(end: socket.socket) -> None:
    with suppress(OSError):
        end.shutdown(socket.SHUT_RDWR)
    end.close()


def _view(entries: Sequence[Any]) -> list[tuple[int, ...]]:
    """Return the first slot, the last, the port of the primary and those of replicas, for each range."""
    return sorted(
        (start, end, primary[1], *sorted(entry[1] for entry in others)) for start, end, primary, *others in entries
    )


def _owner(entries: Sequence[Any], slot: int) -> int:
    return next((entry[2][1] for entry in entries if entry[0] <= slot <= entry[1]), 0)


def _replicate(server: ClusterServer, primary: str) -> bool:
    try:
        server.call("CLUSTER", "REPLICATE", primary)
    except RedisError:
        return False
    return True


def _wait(reached: Callable[[], bool], what: str) -> None:
    deadline = time.monotonic() + FORM_TIMEOUT
    while not reached():
        if time.monotonic() > deadline:
            raise ServerError(f"not within {FORM_TIMEOUT:g} s: {what}")
        time.sleep(0.05)
