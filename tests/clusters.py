"""A Redis or Valkey cluster of the tests' own, on loopback only."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from functools import cached_property, partial
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self

from redis import Redis
from redis.exceptions import RedisError

from tests.bus_proxy import BusProxy
from tests.servers import HOST, RedisServer, ServerError, free_port

SLOTS: Final = 16384
FORM_TIMEOUT: Final = 60.0
AGREEMENT_TIMEOUT: Final = 5.0  # well over a round of gossip
CONNECTED: Final = "connected"
TLS_PORT: Final = "{tls-port}"
FAILOVER_TIMEOUT: Final = 6.0  # a server gives up after 5
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
        lines = self.call("CLUSTER", "INFO").splitlines()
        return dict(line.split(":", 1) for line in lines if ":" in line)


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
        _wait(
            lambda: replica.primary,
            f"{replica!r} is a primary",
            again=lambda: replica.call("CLUSTER", "FAILOVER"),
            every=FAILOVER_TIMEOUT,
        )
        return replica

    def owner(self, slot: int) -> ClusterServer:
        """Return the server that owns *slot*, as most of the servers say."""
        views = [_owners(server.call("CLUSTER", "SLOTS"))[slot] for server in self.running]
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
        """
        Return once all running servers agree that the cluster is well.

        Gossip sent before a slot moved may arrive after that, and leave servers in disagreement over it for good. Then
        this does what ``redis-cli --cluster fix`` does.
        """
        what = f"the servers of {self._directory} agree"
        _wait(lambda: self._settled(), what, again=self._fix, every=AGREEMENT_TIMEOUT)

    def _fix(self) -> None:
        """Have all primaries agree on each slot with most servers, and let its owner's word count the most."""
        views = [_owners(server.call("CLUSTER", "SLOTS")) for server in self.running]
        by_port = {server.port: server for server in self.running if server.primary}
        for slot, named in enumerate(zip(*views, strict=True)):
            owner = by_port.get(max(named, key=named.count))
            if owner is None or len(set(named)) == 1:
                continue
            for server in by_port.values():
                server.call("CLUSTER", "SETSLOT", slot, "NODE", owner.id)
            owner.call("CLUSTER", "BUMPEPOCH")

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
        epochs = []  # who knows an older one may yet take a slot from its owner
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
            epochs.append(_epochs(server.call("CLUSTER", "NODES")))
        shown = {port for _, _, _, *others in views[0] for port in others}
        same = all(view == views[0] for view in views) and all(view == epochs[0] for view in epochs)
        return same and replicas <= shown


def ranges(primaries: int) -> Iterator[tuple[int, int]]:
    """Yield the first and the last slot of each of so many primaries."""
    for number in range(primaries):
        yield number * SLOTS // primaries, (number + 1) * SLOTS // primaries - 1


def _view(entries: Sequence[Any]) -> list[tuple[int, ...]]:
    """Return the first slot, the last, the port of the primary and those of replicas, for each range."""
    return sorted(
        (start, end, primary[1], *sorted(entry[1] for entry in others)) for start, end, primary, *others in entries
    )


def _epochs(nodes: str) -> dict[str, str]:
    """Return the configuration epoch of each primary, from the reply to CLUSTER NODES."""
    fields = (line.split() for line in nodes.splitlines())
    return {node: epoch for node, _, flags, _, _, _, epoch, *_ in fields if "master" in flags and "fail" not in flags}


def _owners(entries: Sequence[Any]) -> list[int]:
    """Return the port of the primary of each slot; 0 if it has none."""
    owners = [0] * SLOTS
    for start, end, primary, *_ in entries:
        owners[start : end + 1] = [primary[1]] * (end + 1 - start)
    return owners


def _replicate(server: ClusterServer, primary: str) -> bool:
    try:
        server.call("CLUSTER", "REPLICATE", primary)
    except RedisError:
        return False
    return True


def _wait(
    reached: Callable[[], bool], what: str, *, again: Callable[[], object] | None = None, every: float = FORM_TIMEOUT
) -> None:
    """Return once *reached* returns true; call *again* after *every* seconds of waiting for it."""
    start = last = time.monotonic()
    while not reached():
        now = time.monotonic()
        if now - start > FORM_TIMEOUT:
            raise ServerError(f"not within {FORM_TIMEOUT:g} s: {what}")
        if again is not None and now - last > every:
            again()
            last = now
        time.sleep(0.05)
