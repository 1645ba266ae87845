"""Carries out programs on real buses, and compares the results with the model."""

from __future__ import annotations

import copy
from collections.abc import Callable
from functools import singledispatchmethod
from typing import Any

import anyio
import pytest
from anyio.abc import TaskGroup

from eventbus_core.api.bus import Bus
from eventbus_core.api.client import Client
from eventbus_core.errors import BusClosed, ClientAlreadyClaimed, ClientNotFound, ClientTakenOver, RequestFailed
from eventbus_core.model.event import Event
from eventbus_core.observability.rejections import LEFT
from eventbus_core.testing import waiting
from eventbus_core.testing.hosts import Host, fresh_namespace
from eventbus_core.testing.inbox import Reader
from eventbus_core.testing.simulation import operations
from eventbus_core.testing.simulation.expectations import Letter, Model, Receiver
from eventbus_core.testing.simulation.fences import Fences, is_fence
from eventbus_core.testing.simulation.operations import Operation
from eventbus_core.testing.simulation.records import Records, spoil
from eventbus_core.testing.waiting import tasks, until


class World:
    """Buses in a namespace of their own, their model, and the events that arrived; see :func:`carry_out`."""

    def __init__(self, uri: str, group: TaskGroup, *, faults: bool = False, **options: Any) -> None:
        self.model = Model()
        self.records = Records(self.model)
        self._fences = Fences()
        self._uri = uri
        self._group = group
        self._faults = faults
        self._options = {"namespace": fresh_namespace(), **options}
        self._hosts: dict[str, Host] = {}
        self._clients: dict[str, Client] = {}
        self._readers: dict[Receiver, Reader] = {}
        self._functions: dict[Receiver, tuple[Bus, Callable[[Event], Any]]] = {}

    async def start(self) -> None:
        """Open the first two buses."""
        for node in operations.NODES[:2]:
            await self.do(operations.Open(node))

    async def finish(self) -> None:
        """Send from every node to every receiver, so that all unexpected events have arrived; then check, and close."""
        for topic in operations.TOPICS:
            await self.do(operations.Burst(topic, 1))
        await self.records.settled()
        for node in self.model.nodes:
            stats = self._bus(node).stats()
            assert (stats.missed, stats.dropped, stats.handler_failures) == (0, 0, 0), stats
            if not self._faults:
                refused = stats.refused.keys() - {LEFT}  # frames may still come from a lane that a node has just left
                assert (stats.duplicates, refused) == (0, set()), stats
        for node in sorted(self.model.nodes):
            await self.do(operations.Close(node))
        self.records.check()

    @singledispatchmethod
    async def do(self, operation: Operation) -> None:
        """Carry out *operation* on the buses and on the model; it does nothing if it does not apply."""
        raise NotImplementedError(operation)

    @do.register
    async def _(self, operation: operations.Open) -> None:
        if operation.node in self.model.nodes:
            return
        await self.records.settled()
        self.model.open(operation.node)
        host = self._hosts[operation.node] = Host(self._uri, node=operation.node, **self._options)
        bus = await host.open(self._group)
        bus.on_undeliverable(self.records.reported)
        await self._check_nodes(operation.node)

    @do.register
    async def _(self, operation: operations.Close) -> None:
        if operation.node not in self.model.nodes:
            return
        await self.records.settled()
        self.model.close(operation.node)
        await self._hosts.pop(operation.node).close()
        await self._check_ends()
        for node in sorted(self.model.nodes)[:1]:
            await self._check_nodes(node)

    @do.register
    async def _(self, operation: operations.ClaimClient) -> None:
        if operation.node not in self.model.nodes:
            return
        await self.records.settled()
        client = self._bus(operation.node).client(operation.client, takeover=operation.takeover)
        held = self.model.handles.get(operation.client)
        if held is not None and not operation.takeover:
            with pytest.raises(ClientAlreadyClaimed) as refused:
                await client.__aenter__()
            assert (refused.value.client, refused.value.node) == (operation.client, held.node)
            return
        await client.__aenter__()
        receiver = self.model.claim(operation.node, operation.client).receiver
        self._clients[operation.client] = client
        self._readers[receiver] = reader = _Recorder(self.records, receiver, client)
        self._group.start_soon(reader.run)

    @do.register
    async def _(self, operation: operations.Release) -> None:
        if operation.client in self.model.handles:
            await self.records.settled()
            self.model.release(operation.client)
            await self._clients.pop(operation.client).aclose()
            await self._check_ends()

    @do.register
    async def _(self, operation: operations.Subscribe) -> None:
        if handle := self.model.handles.get(operation.client):
            await self.records.settled()
            await self._passed(handle.node)
            await self._clients[operation.client].subscribe(operation.pattern)
            handle.patterns.add(operation.pattern)

    @do.register
    async def _(self, operation: operations.Unsubscribe) -> None:
        if handle := self.model.handles.get(operation.client):
            await self.records.settled()
            await self._clients[operation.client].unsubscribe(operation.pattern)
            handle.patterns.discard(operation.pattern)

    @do.register
    async def _(self, operation: operations.On) -> None:
        if operation.node not in self.model.nodes:
            return
        await self.records.settled()
        await self._passed(operation.node)
        handler = self.model.on(operation.node, operation.pattern, operation.local)
        bus = self._bus(operation.node)

        async def handle(event: Event) -> None:
            if is_fence(event):
                return
            if event.reply_to is not None:
                await bus.reply(event, event.data)
            self.records.record(handler.receiver, event)

        bus.on(operation.pattern, local=operation.local)(handle)
        await bus.ready()
        self._functions[handler.receiver] = bus, handle

    @do.register
    async def _(self, operation: operations.Off) -> None:
        if operation.which < len(self.model.handlers):
            await self.records.settled()
            handler = self.model.handlers.pop(operation.which)
            bus, function = self._functions.pop(handler.receiver)
            bus.off(function)

    @do.register
    async def _(self, operation: operations.Send) -> None:
        if sender := self._sender(operation.node, operation.as_client):
            await self._send(sender, operation.node, operation.client, operation.value)

    @do.register
    async def _(self, operation: operations.SendNode) -> None:
        if operation.node not in self.model.nodes:
            return
        bus = self._bus(operation.node)
        letter, data = self._letter(operation.node, bus, f"@{operation.to}", operation.type, operation.value)
        if operation.to in self.model.nodes:
            if not self.model.send_node(letter, operation.to):
                self.records.doom(letter)
            await bus.send(f"@{operation.to}", operation.type, data)
        else:
            await self._send_nowhere(bus, letter, data)
        spoil(data)

    @do.register
    async def _(self, operation: operations.Publish) -> None:
        if sender := self._sender(operation.node, operation.as_client):
            topic = operation.topic
            letter, data = self._letter(operation.node, sender, f"#{topic}", topic, operation.value)
            self.model.publish(letter)
            self._fences.sent(operation.node, topic, self.model.nodes)
            await sender.publish(topic, data, headers={"n": str(letter.number)})
            spoil(data)

    @do.register
    async def _(self, operation: operations.Broadcast) -> None:
        if operation.node in self.model.nodes:
            bus = self._bus(operation.node)
            letter, data = self._letter(operation.node, bus, "*", operation.type, operation.value)
            self.model.broadcast(letter, operation.include_self)
            self._fences.sent(operation.node, None, self.model.nodes)
            await bus.broadcast(operation.type, data, include_self=operation.include_self)
            spoil(data)

    @do.register
    async def _(self, operation: operations.Emit) -> None:
        if operation.node in self.model.nodes:
            bus = self._bus(operation.node)
            letter, data = self._letter(operation.node, bus, bus.address, operation.type, operation.value)
            self.model.emit(letter)
            await bus.emit(operation.type, data)
            spoil(data)

    @do.register
    async def _(self, operation: operations.Ask) -> None:
        if operation.node not in self.model.nodes:
            return
        bus = self._bus(operation.node)
        letter, data = self._letter(operation.node, bus, operation.client, "ask", operation.value)
        await self._ask(bus, letter, data, answers=int(self.model.send(letter)))

    @do.register
    async def _(self, operation: operations.AskNode) -> None:
        if operation.node not in self.model.nodes:
            return
        bus, to = self._bus(operation.node), operation.to
        letter, data = self._letter(operation.node, bus, f"@{to}", operation.type, operation.value)
        answers = self.model.send_node(letter, to) if to in self.model.nodes else 0
        await self._ask(bus, letter, data, answers=answers)

    @do.register
    async def _(self, operation: operations.Burst) -> None:
        async def burst(node: str) -> None:
            for _ in range(operation.count):
                await self.do(operations.Publish(node, operation.topic, False, None))
                for client in list(self.model.handles):
                    await self.do(operations.Send(node, client, False, None))

        async with anyio.create_task_group() as group:
            for node in sorted(self.model.nodes):
                group.start_soon(burst, node)

    async def _send(self, sender: Bus | Client, node: str, client: str, value: Any) -> None:
        letter, data = self._letter(node, sender, client, "mail", value)
        if self.model.send(letter):
            await sender.send(client, letter.type, data, headers={"n": str(letter.number)})
        else:
            await self._send_nowhere(sender, letter, data)
        spoil(data)

    async def _send_nowhere(self, sender: Bus | Client, letter: Letter, data: Any) -> None:
        """Send without a receiver: refused at once, or reported later if the sender's node remembers a former owner."""
        try:
            await sender.send(letter.target, letter.type, data)
        except ClientNotFound:
            return
        former = self.model.visited[letter.target] - {letter.node}
        assert former or letter.target.startswith("@"), f"no node ever held the target of {letter}"
        self.records.doom(letter)

    async def _ask(self, bus: Bus, letter: Letter, data: Any, answers: int) -> None:
        try:
            answer = await bus.request(letter.target, letter.type, data, timeout=waiting.DEADLINE)
        except (ClientNotFound, RequestFailed):
            assert not answers, letter
        else:
            assert answers, f"{answer} to {letter}"
            assert answer.data == {"n": letter.number, "value": letter.value}
            assert answer.source == letter.target
        spoil(data)

    async def _check_ends(self) -> None:
        for receiver, how in self.model.ends.items():
            reason = await self._readers[receiver].over()
            assert isinstance(reason, ClientTakenOver if how == "taken over" else BusClosed), receiver

    def _letter(
        self, node: str, sender: Bus | Client, target: str, type: str, value: Any
    ) -> tuple[Letter, dict[str, Any]]:
        source = sender.name if isinstance(sender, Client) else sender.address
        letter = self.model.letter(node, source, target, type, copy.deepcopy(value))
        return letter, {"n": letter.number, "value": copy.deepcopy(value)}

    async def _check_nodes(self, node: str) -> None:
        async def agree() -> bool:
            return [other.id for other in await self._bus(node).nodes()] == sorted(self.model.nodes)

        # Without a directory, the messages that make nodes known may be lost; they are repeated within a lease.
        if self._faults:
            await until(agree, f"the live nodes are {sorted(self.model.nodes)}, in the view of {node!r}")
        else:
            assert [other.id for other in await self._bus(node).nodes()] == sorted(self.model.nodes)

    async def _passed(self, node: str) -> None:
        """Return once no earlier event is in flight to *node*."""
        await self._fences.passed(node, {name: host.bus for name, host in self._hosts.items()})

    def _bus(self, node: str) -> Bus:
        return self._hosts[node].bus

    def _sender(self, node: str, as_client: bool) -> Bus | Client | None:
        if node not in self.model.nodes:
            return None
        clients = [client for client, handle in self.model.handles.items() if handle.node == node]
        return self._clients[clients[0]] if as_client and clients else self._bus(node)


class _Recorder(Reader):
    def __init__(self, records: Records, receiver: Receiver, client: Client) -> None:
        super().__init__(client)
        self._records = records
        self._receiver = receiver

    async def take(self, event: Event) -> None:
        if is_fence(event):
            return
        if event.reply_to is not None:
            await self.client.reply(event, event.data)
        self._records.record(self._receiver, event)


async def carry_out(uri: str, program: list[Operation], *, faults: bool = False, **options: Any) -> World:
    """
    Run *program* on fresh buses at *uri*, opened with *options*; raise if the results differ from the model.

    With *faults*, frames may be doubled or reordered, as long as no receiver notices.
    """
    async with tasks() as group:
        world = World(uri, group, faults=faults, **options)
        await world.start()
        for operation in program:
            await world.do(operation)
        await world.finish()
    return world
