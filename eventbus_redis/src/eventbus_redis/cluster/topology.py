"""The servers of a cluster: how to reach them, and which primary owns which slot."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Sequence
from time import monotonic
from typing import Final

from redis.exceptions import ResponseError

from eventbus_core.backend import Address, TransportURI
from eventbus_core.errors import ConfigurationError, EventBusError, TransportUnavailable
from eventbus_redis.cluster.slot_map import Redirection, SlotMap, View, most_credible, redirection
from eventbus_redis.errors import redis_errors
from eventbus_redis.options import RedisOptions
from eventbus_redis.packing import pack
from eventbus_redis.server import CLUSTER, DEFAULT_PORT, Server

ASKED: Final = 5
"""Servers that are asked for the owners of slots at a time."""
ANSWER_TIMEOUT: Final = 1.0
"""Seconds for which the answers are awaited, once an answer has come; before that, ``connect_timeout``."""
STRAGGLERS: Final = 0.2
"""Seconds for which other answers are awaited after that of a healthy server."""
REFRESH_PAUSE: Final = 0.1
"""Seconds from one refresh to the next."""
QUESTION: Final = (pack("CLUSTER", "INFO"), pack("CLUSTER", "SLOTS"))


class Topology:
    """
    The servers of a cluster, and the owner of each slot as far as known.

    Attributes:
        uri: the URI of the cluster, with its seeds, for errors.
        pattern: how to connect to its servers, whatever the address.
    """

    def __init__(self, uri: TransportURI, options: RedisOptions) -> None:
        self.uri = uri
        self._patience = options.connect_timeout
        self._slots = SlotMap()
        self._seeds = [Address(seed.host or "localhost", seed.port or DEFAULT_PORT) for seed in uri.hosts]
        self.pattern = Server(uri, options, mode=CLUSTER)
        if self.pattern.database:
            raise ConfigurationError(f"{uri}: a cluster has database 0 only, not {self.pattern.database}")
        self._anyone = Server(uri, options, mode=CLUSTER, any_role=True)
        self._servers: dict[Address, Server] = {}
        self._known: set[Address] = set()
        self._refreshed_at = -REFRESH_PAUSE

    def owner(self, slot: int) -> Address | None:
        """Return the address of the primary of *slot*; ``None`` if that is unknown."""
        return self._slots.owner(slot)

    @property
    def primaries(self) -> Sequence[Address]:
        """The addresses of all primaries with slots."""
        return self._slots.primaries

    def server(self, address: Address) -> Server:
        """Return the server at *address*, one object for each."""
        server = self._servers.get(address)
        if server is None:
            server = self._servers[address] = self.pattern.at(address)
        return server

    def knows(self, server: Server) -> bool:
        """Return whether *server* is still the object for its address."""
        return self._servers.get(server.address) is server

    def primary(self, slot: int) -> Server:
        """
        Return the primary of *slot*.

        Raises:
            TransportUnavailable: it is unknown.
        """
        owner = self.owner(slot)
        if owner is None:
            raise TransportUnavailable(f"slot {slot} of {self.uri} has no primary")
        return self.server(owner)

    def follow(self, asked: Address, error: ResponseError) -> Redirection | None:
        """Return where *error* of the server at *asked* leads to, if anywhere; what is said for good is noted."""
        found = redirection(asked, error)
        if found is not None and not found.once:
            self._slots.learn(found.slot, found.owner)
        return found

    async def refresh(self) -> None:
        """
        Ask several servers for the owners of all slots, and close all connections to servers that own none.

        One call at a time; it waits until ``REFRESH_PAUSE`` has passed since the one before.

        Raises:
            TransportUnavailable: no server answers, or the cluster does not serve.
            ConfigurationError: a server refuses this node until its configuration or the user's rights change.
        """
        await asyncio.sleep(max(0.0, self._refreshed_at + REFRESH_PAUSE - monotonic()))
        self._refreshed_at = monotonic()
        view = await self.look()
        self._slots.replace(view)
        self._known = view.servers
        primaries = set(self.primaries)
        for address in set(self._servers) - primaries:
            self._servers.pop(address).close(f"{address} is not the primary of any slot")

    async def look(self) -> View:
        """
        Return the view to believe among those of several servers, which are asked at once.

        Raises:
            TransportUnavailable, ConfigurationError: see :meth:`refresh`.
        """
        asked = self._some()
        tasks = {asyncio.create_task(self._answer(address)) for address in asked}
        answers: list[View | EventBusError] = []
        patience = min(self._patience, ANSWER_TIMEOUT) if self._known else self._patience
        pending, until = tasks, monotonic() + patience
        try:
            while pending and (left := until - monotonic()) > 0:
                done, pending = await asyncio.wait(pending, timeout=left, return_when=asyncio.FIRST_COMPLETED)
                answers += [task.result() for task in done]
                if most_credible(_views(answers)):
                    until = min(until, monotonic() + STRAGGLERS)
        finally:
            for task in tasks:
                task.cancel()
        view = most_credible(_views(answers))
        if view is None:
            raise self._no_view(answers)
        return view

    async def ask(self, address: Address) -> View:
        """
        Return what the server at *address* says of the cluster.

        Raises:
            TransportUnavailable, ConfigurationError: it does not answer, or refuses this node.
        """
        server = self._anyone.at(address)
        with redis_errors(server.uri):
            connection = await server.connect(self._patience)
            try:
                connection.write(QUESTION)
                info, slots = await connection.read_replies(len(QUESTION))
                for reply in (info, slots):
                    if isinstance(reply, ResponseError):
                        raise reply
                return View.parse(address, info, slots)
            finally:
                connection.close()

    async def _answer(self, address: Address) -> View | EventBusError:
        try:
            return await self.ask(address)
        except EventBusError as error:
            return error

    def _some(self) -> list[Address]:
        """Return the servers to ask: seeds and others, so that a seed that is gone for good does no harm."""
        known = list(self._known.difference(self._seeds))
        seeds = random.sample(self._seeds, min(len(self._seeds), ASKED - min(len(known), ASKED // 2)))
        return seeds + random.sample(known, min(len(known), ASKED - len(seeds)))

    def _no_view(self, answers: Sequence[View | EventBusError]) -> EventBusError:
        faults = [answer for answer in answers if isinstance(answer, EventBusError)]
        kind = (
            ConfigurationError
            if any(isinstance(fault, ConfigurationError) for fault in faults)
            else TransportUnavailable
        )
        if len(faults) < len(answers):
            return kind(f"{self.uri} does not serve now: no server finds the state of the cluster ok")
        return kind(f"no server of {self.uri} answers: {'; '.join(map(str, faults)) or 'all are silent'}")


def _views(answers: Sequence[View | EventBusError]) -> list[View]:
    return [answer for answer in answers if isinstance(answer, View)]
