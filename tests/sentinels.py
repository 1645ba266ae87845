"""A primary, its replicas and the sentinels that watch them: processes of the tests' own, on loopback only."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from contextlib import ExitStack, suppress
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self

from redis import Redis
from redis.exceptions import RedisError, ResponseError

from tests.servers import HOST, RedisServer, ServerError

SERVICE: Final = "bus"
WATCHER: Final = "watcher"
"""The user of sentinels and replicas at each server: without it, they are cut off and clients are not."""
DOWN_AFTER: Final = 500
"""Milliseconds until a sentinel takes a silent server for dead."""
PATIENCE: Final = 120.0
"""Seconds; a sentinel that stood still for 2 s does nothing for 30 s ("tilt")."""


class Sentinel(RedisServer):
    """A sentinel process that watches *primary*; it keeps its state in a file, as sentinels do, with *lines* more."""

    def __init__(self, directory: Path, primary: int, quorum: int, *, lines: Iterable[str] = ()) -> None:
        super().__init__(directory)
        self._file = directory / "sentinel.conf"
        self._file.write_text(
            f"bind {HOST}\nport {self.port}\n"
            f"sentinel monitor {SERVICE} {HOST} {primary} {quorum}\n"
            f"sentinel auth-user {SERVICE} {WATCHER}\nsentinel auth-pass {SERVICE} {WATCHER}\n"
            f"sentinel down-after-milliseconds {SERVICE} {DOWN_AFTER}\n"
            f"sentinel failover-timeout {SERVICE} 3000\n" + "\n".join(lines)
        )

    def _command(self) -> list[str]:
        return [self.program, str(self._file), "--sentinel"]

    def _answers(self, pid: int) -> bool:
        try:
            return bool(command(self, "INFO", "server")["process_id"] == pid)
        except RedisError:
            return False


class Service:
    """
    A primary with two replicas and three sentinels, each a process that a test may do anything to.

    The methods block. As a context manager it starts on entry and stops on exit.

    Attributes:
        servers: the primary at the start, and its replicas.
        sentinels: the sentinels.
    """

    def __init__(self, folder: Path, *options: str, replicas: int = 2, sentinels: int = 3) -> None:
        self._folder = folder
        common = (
            *("--repl-diskless-sync-delay", "0"),
            *("--repl-ping-replica-period", "1"),
            *("--user", WATCHER, "on", f">{WATCHER}", "~*", "&*", "+@all"),
            *("--masteruser", WATCHER),
            *("--masterauth", WATCHER),
            *options,
        )
        first = RedisServer(self._place("server-0"), *common)
        following = ("--replicaof", f"{HOST} {first.port}")
        self.servers = [
            first,
            *(RedisServer(self._place(f"server-{n}"), *common, *following) for n in range(1, replicas + 1)),
        ]
        quorum = sentinels // 2 + 1
        self.sentinels = [Sentinel(self._place(f"sentinel-{n}"), first.port, quorum) for n in range(sentinels)]
        self._stack = ExitStack()

    def __enter__(self) -> Self:
        with ExitStack() as stack:
            for server in self.servers:
                stack.enter_context(server)
            self.wait(lambda: self._followers(self.servers[0]) == len(self.servers) - 1, "the replicas are in step")
            for sentinel in self.sentinels:
                stack.enter_context(sentinel)
            self.wait(self.settled, "the sentinels know each other and the replicas")
            self._stack = stack.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.close()

    @property
    def uri(self) -> str:
        places = ",".join(f"{HOST}:{sentinel.port}" for sentinel in self.sentinels)
        return f"redis+sentinel://{places}/{SERVICE}/0"

    @property
    def primary(self) -> RedisServer:
        """The server that the first sentinel names."""
        _, port = command(self.sentinels[0], "SENTINEL", "GET-MASTER-ADDR-BY-NAME", SERVICE)
        return next(server for server in self.servers if server.port == int(port))

    def fail_over(self) -> None:
        """Have another server take over in good order; return once every sentinel names it."""
        former = self.primary

        def over() -> bool:
            if self.primary is former:  # a sentinel gives a fail-over up if no replica is ready in time
                with suppress(ResponseError):  # one is in progress, or no replica is ready
                    command(self.sentinels[0], "SENTINEL", "FAILOVER", SERVICE)
            return self.taken_over(former)

        self.wait(over, "another server is the primary")

    def cut_off(self, server: RedisServer) -> None:
        """Cut *server* off from sentinels and other servers, but not from clients."""
        command(server, "ACL", "SETUSER", "default", "-ping")  # else sentinels are content without their login
        command(server, "ACL", "SETUSER", WATCHER, "off")
        command(server, "CLIENT", "KILL", "USER", WATCHER)

    def reconnect(self, server: RedisServer) -> None:
        """End what :meth:`cut_off` began."""
        command(server, "ACL", "SETUSER", WATCHER, "on")
        command(server, "ACL", "SETUSER", "default", "+ping")

    def taken_over(self, former: RedisServer) -> bool:
        """Return whether every sentinel that runs names another primary than *former*."""
        return all(self._facts(sentinel).get("port") != former.port for sentinel in self.sentinels if sentinel.running)

    def settled(self) -> bool:
        """Return whether all sentinels agree, know each other, and see every server in its place."""
        facts = [self._facts(sentinel) for sentinel in self.sentinels]
        ports = {known.get("port") for known in facts}
        if len(ports) > 1 or None in ports:
            return False
        return (
            all(
                known["num-other-sentinels"] == len(self.sentinels) - 1
                and known["num-slaves"] == len(self.servers) - 1
                and known["flags"] == "master"
                for known in facts
            )
            and self._followers(self.primary) == len(self.servers) - 1
        )

    def wait(self, condition: Callable[[], bool], what: str) -> None:
        """
        Return once *condition* is true.

        Raises:
            ServerError: it is still not so after a long time.
        """
        deadline = time.monotonic() + PATIENCE
        while not condition():
            if time.monotonic() > deadline:
                raise ServerError(f"still not so after {PATIENCE:g} s: {what}")
            time.sleep(0.02)

    def _place(self, name: str) -> Path:
        place = self._folder / name
        place.mkdir()
        return place

    def _facts(self, sentinel: RedisServer) -> dict[str, Any]:
        try:
            with Redis(HOST, sentinel.port, decode_responses=True) as connection:
                found: dict[str, Any] = connection.sentinel_master(SERVICE)
                return found
        except RedisError:
            return {}

    def _followers(self, server: RedisServer) -> int:
        try:
            facts = command(server, "INFO", "replication")
        except RedisError:
            return 0
        return sum(isinstance(fact, dict) and fact.get("state") == "online" for fact in facts.values())


def command(server: RedisServer, *words: str | int) -> Any:
    """Return the reply of *server* to a command."""
    with Redis(HOST, server.port, decode_responses=True, socket_timeout=5.0) as connection:
        return connection.execute_command(*words)
