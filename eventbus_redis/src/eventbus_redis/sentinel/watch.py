"""Which server is the primary of a service, as its sentinels say, and when that changes."""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Final, NamedTuple

import anyio
import attrs
from hiredis import PushNotification
from redis.exceptions import InvalidResponse, ResponseError

from eventbus_core.backend import Address, TransportURI
from eventbus_core.errors import ConfigurationError, EventBusError, TransportUnavailable
from eventbus_redis.connection import Connection
from eventbus_redis.errors import redis_errors
from eventbus_redis.options import SentinelOptions
from eventbus_redis.packing import pack
from eventbus_redis.server import SENTINEL, Server

SENTINEL_PORT: Final = 26379
POLL: Final = 1.0
"""Seconds from an answer of a sentinel to the next question, and until one that does not answer counts as lost."""
RETRY_PAUSE: Final = 0.5
HELLO_3: Final = pack("HELLO", 3)
LISTEN: Final = pack("SUBSCRIBE", "+switch-master")


class Choice(NamedTuple):
    """A primary, and the epoch in which the sentinels chose it."""

    epoch: int
    primary: Address


class Report(NamedTuple):
    """What a sentinel says: the choice that it knows of, and its facts about the service."""

    choice: Choice
    facts: Mapping[bytes, bytes]


def choose(reports: Iterable[Report], before: Choice | None, majority: int) -> Choice | None:
    """
    Return the latest choice that a sentinel reports; of two in one epoch, the one that more of them report.

    A choice that is older than the one *before* counts only if so many as a *majority* report it: the sentinel that
    knew of the later one may be down.
    """
    votes = Counter(report.choice for report in reports)
    if not votes:
        return before
    latest = max(votes, key=lambda choice: (choice.epoch, votes[choice], choice == before))
    if before is not None and latest.epoch < before.epoch and votes[latest] < majority:
        return before
    return latest


class Sentinels:
    """
    Follows all sentinels of a service at once, in a task of its own, from the first question until :meth:`aclose`.

    Args:
        uri: names the sentinels.
        service: the name under which they monitor the primary.
        moved: called with the address of the primary when it is another than before.

    Attributes:
        servers: the sentinels.
        reports: the last answer of each sentinel that answers.
        faults: why each of the others does not.
    """

    def __init__(
        self, uri: TransportURI, service: str, options: SentinelOptions, moved: Callable[[Address], None]
    ) -> None:
        self.servers = [_sentinel(uri, options, address) for address in uri.hosts]
        self.reports: dict[Address, Report] = {}
        self.faults: dict[Address, EventBusError] = {}
        self._uri = uri
        self._service = service
        self._moved = moved
        self._choice: Choice | None = None
        self._concluded = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self._closed = False

    async def primary(self) -> Address:
        """
        Return the address of the primary; if no sentinel answers any more, the last one that was known.

        Raises:
            TransportUnavailable: no sentinel has answered so far, or they are not followed any more.
            ConfigurationError: each of them refuses to, or monitors no such service.
        """
        if self._task is None and not self._closed:
            self._task = asyncio.create_task(self._follow_all())
            self._task.add_done_callback(lambda _: self._concluded.set())
        if not self._closed:
            await self._concluded.wait()
        if self._task is None or self._task.done():
            raise self._ended()
        if self._choice is None:
            refused = all(isinstance(fault, ConfigurationError) for fault in self.faults.values())
            kind = ConfigurationError if refused else TransportUnavailable
            raise kind(f"no sentinel of {self._uri} names a primary: {'; '.join(map(str, self.faults.values()))}")
        return self._choice.primary

    async def aclose(self) -> None:
        """Leave all sentinels."""
        self._closed = True
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait([self._task])

    def _ended(self) -> TransportUnavailable:
        fault = None if self._task is None or self._task.cancelled() else self._task.exception()
        ended = TransportUnavailable(
            f"the sentinels of {self._uri} are not followed any more: {repr(fault) if fault else 'closed'}"
        )
        ended.__cause__ = fault
        return ended

    async def _follow_all(self) -> None:
        async with anyio.create_task_group() as group:
            for server in self.servers:
                group.start_soon(self._follow, server)

    async def _follow(self, server: Server) -> None:
        while True:
            try:
                connection = await server.connect(POLL, hello=HELLO_3)
                try:
                    with redis_errors(server.uri):
                        await self._listen(server, connection)
                finally:
                    connection.close()
            except EventBusError as error:
                self.reports.pop(server.address, None)
                self.faults[server.address] = error
                self._conclude()
            await anyio.sleep(RETRY_PAUSE * random.uniform(0.5, 1.0))

    async def _listen(self, server: Server, connection: Connection) -> None:
        """Ask the sentinel at once, when it says that a primary has changed, and after a silence."""
        question = [
            pack("SENTINEL", "GET-MASTER-ADDR-BY-NAME", self._service),
            pack("SENTINEL", "MASTER", self._service),
        ]
        connection.write([LISTEN])
        answers: list[Any] | None = None  # to a question that was asked
        ask = True
        while True:
            if ask and answers is None:
                connection.write(question)
                answers, ask = [], False
            arrived = await connection.read()
            if arrived is None and answers is not None:
                raise TimeoutError("no answer in time")
            ask = ask or arrived is None
            for reply in arrived or ():
                if isinstance(reply, PushNotification):
                    ask = ask or reply[0] == b"message"
                elif answers is not None:
                    answers.append(reply)
            if answers is not None and len(answers) == len(question):
                self._take(server, *answers)
                answers = None

    def _take(self, server: Server, place: Any, facts: Any) -> None:
        if place is None:
            raise ConfigurationError(f"the sentinel {server.uri} monitors no service {self._service!r}")
        for answer in (place, facts):
            if isinstance(answer, ResponseError):
                raise answer
        try:
            host, port = place
            choice = Choice(int(facts[b"config-epoch"]), Address(host.decode(), int(port)))
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            raise InvalidResponse(f"SENTINEL was answered with {place!r:.80} and {facts!r:.80}") from error
        self.reports[server.address] = Report(choice, facts)
        self.faults.pop(server.address, None)
        self._conclude()

    def _conclude(self) -> None:
        """Choose, once enough is known: at the start, the first sentinel to answer may be behind the others."""
        known, majority = len(self.reports), len(self.servers) // 2 + 1
        if self._choice is None and known < majority and known + len(self.faults) < len(self.servers):
            return
        before, self._choice = self._choice, choose(self.reports.values(), self._choice, majority)
        self._concluded.set()
        if before is not None and self._choice is not None and before.primary != self._choice.primary:
            self._moved(self._choice.primary)


def _sentinel(uri: TransportURI, options: SentinelOptions, address: Address) -> Server:
    place = Address(address.host, address.port or SENTINEL_PORT)
    bare = attrs.evolve(
        uri,
        scheme=uri.scheme.partition("+")[0],
        hosts=(place,),
        path="",
        username=options.sentinel_username,
        password=options.sentinel_password,
    )
    return Server(bare, attrs.evolve(options, db=0), any_role=True, mode=SENTINEL)
