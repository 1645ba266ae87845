"""Whole buses on the backend: programs against the model, faults between the nodes, and a few named cases."""

from __future__ import annotations

from collections.abc import Callable

import anyio
import pytest
from anyio import to_thread
from hypothesis import note
from hypothesis import strategies as st

from eventbus_core.client import Client
from eventbus_core.errors import ClientNotFound, ClientTakenOver
from eventbus_core.event import Event
from eventbus_core.testing.guarantees import for_all, naming, scenario
from eventbus_core.testing.hosts import buses
from eventbus_core.testing.inbox import Inbox, Reader, read
from eventbus_core.testing.operations import Operation, programs
from eventbus_core.testing.streams import Streams
from eventbus_core.testing.under_test import UnderTest
from eventbus_core.testing.waiting import tasks, until
from eventbus_core.testing.world import carry_out

Faults = dict[str, float]

chances = st.sampled_from([0.0, 0.05, 0.2])
losses: st.SearchStrategy[Faults] = st.fixed_dictionaries(
    {"drop": chances, "double": chances, "reorder": chances, "cut": st.sampled_from([0.0, 0.02])}
)
disorder: st.SearchStrategy[Faults] = st.fixed_dictionaries({"double": chances, "reorder": chances})
seeds = st.integers(0, 2**32 - 1)


class BusSuite(UnderTest):
    """The guarantees as applications see them."""

    def test_g1_g2_g3_g4_g5_g6_g7_g8_every_program_does_what_the_model_says(
        self, uri: str, anyio_backend_name: str
    ) -> None:
        """Every receiver gets exactly what is for it, once, equal, unshared and in order, wherever it has moved."""

        def check(program: list[Operation]) -> None:
            anyio.run(carry_out, uri, program, backend=anyio_backend_name)

        with naming(self.test_g1_g2_g3_g4_g5_g6_g7_g8_every_program_does_what_the_model_says):
            for_all(check, examples=self.examples, program=programs)

    def test_g2_g4_g8_doubles_and_disorder_change_nothing(self, uri: str, anyio_backend_name: str) -> None:
        """Programs do what the model says also when frames are doubled and overtaken."""

        async def run(program: list[Operation], faults: Faults, seed: int) -> None:
            await carry_out(f"chaos+{uri}", program, faults=True, seed=seed, **faults)

        def check(program: list[Operation], faults: Faults, seed: int) -> None:
            note(replay(uri, faults, seed))
            anyio.run(run, program, faults, seed, backend=anyio_backend_name)

        with naming(self.test_g2_g4_g8_doubles_and_disorder_change_nothing):
            for_all(check, examples=max(1, self.examples // 4), program=programs, faults=disorder, seed=seeds)

    def test_g10_losses_are_repaired_or_told(self, uri: str, anyio_backend_name: str) -> None:
        """Frames are dropped, doubled, overtaken and cut: all events come in order and once, or the gaps add up."""

        async def run(faults: Faults, seed: int) -> None:
            async with buses(f"chaos+{uri}", 3, seed=seed, **faults) as nodes:
                streams = Streams(nodes)
                await streams.begin()
                await streams.send(60)
                await streams.settled()

        def check(faults: Faults, seed: int) -> None:
            note(replay(uri, faults, seed))
            anyio.run(run, faults, seed, backend=anyio_backend_name)

        with naming(self.test_g10_losses_are_repaired_or_told):
            for_all(check, examples=max(1, self.examples // 4), faults=losses, seed=seeds)

    @scenario()
    async def test_g10_a_restart_of_the_broker_loses_nothing_in_silence(
        self, uri: str, restart: Callable[[], object] | None
    ) -> None:
        """Events sent before, during and after a restart of the broker come in order and once, or the gaps add up."""
        if restart is None:
            pytest.skip("there is no 'restart' fixture")
        async with buses(uri, 2) as nodes, tasks() as group:
            streams = Streams(nodes)
            await streams.begin()
            await streams.send(20)
            group.start_soon(streams.send, 100)
            await to_thread.run_sync(restart)
            await streams.send(20)
            await streams.settled()

    @scenario()
    async def test_g8_a_send_follows_the_client(self, uri: str) -> None:
        """Once a client is claimed elsewhere, sends from nodes that believe in the former owner reach the new one."""
        async with buses(uri, 3) as nodes, tasks() as group:
            sender, *owners = nodes
            readers = []
            for turn in range(6):
                client = owners[turn % 2].client("alice")
                await client.__aenter__()
                readers.append(read(group, client))
                await sender.send("alice", "note", turn)
                await readers[-1].got(1)
                assert readers[-1].data == [turn]
            for reader in readers[:-1]:
                assert isinstance(await reader.over(), ClientTakenOver)
                assert len(reader) == 1

    @scenario()
    async def test_g7_subscriptions_made_at_once_each_hold(self, uri: str) -> None:
        """Many clients subscribe at the same time: whatever is published once one call has returned comes there."""

        async def subscribe(name: str) -> None:
            client = await one.client(name).__aenter__()
            readers.append(read(group, client))
            await client.subscribe("shared")
            await client.subscribe(f"own.{name}")
            await two.publish("shared", name)
            await two.publish(f"own.{name}", name)
            await until(lambda: reader_of(client).data.count(name) == 2, f"{name!r} got what came after it subscribed")

        def reader_of(client: Client) -> Reader:
            return next(reader for reader in readers if reader.client is client)

        readers: list[Reader] = []
        async with buses(uri, 2) as (one, two), tasks() as group, anyio.create_task_group() as at_once:
            for number in range(20):
                at_once.start_soon(subscribe, f"client-{number}")

    @scenario()
    async def test_g2_a_handler_that_raises_gets_what_follows(self, uri: str) -> None:
        """An error in a handler is told, and ends neither the handler nor the reader: each event is handled once."""
        numbers = list(range(10))
        handled, told = Inbox(), Inbox()

        def fail(event: Event) -> None:
            handled(event)
            if event.data % 2:
                raise ValueError(event.data)

        async with buses(uri, 2) as (one, two):
            two.on("topic")(fail)
            two.on_error(lambda event, _: told(event))
            await two.ready()
            async with two.client("alice", handler=fail):
                for number in numbers:
                    await one.send("alice", "note", number)
                    await one.publish("topic", number)
                await handled.got(2 * len(numbers))
                await told.got(len(numbers))
            assert sorted(handled.data) == sorted(2 * numbers)
            assert sorted(told.data) == sorted(2 * numbers[1::2])

    @scenario()
    async def test_g5_a_send_to_nobody_is_refused(self, uri: str) -> None:
        """A send to a client that nobody owns, or to a node that is not there, raises ``ClientNotFound``."""
        async with buses(uri, 2) as (one, two):
            for target in ("nobody", "@nobody"):
                with pytest.raises(ClientNotFound):
                    await one.send(target, "note")
            async with two.client("alice"):
                await one.send("alice", "note")


def replay(uri: str, faults: Faults, seed: int) -> str:
    """Return what to connect to for the same faults."""
    options = "&".join(f"{name}={value}" for name, value in {**faults, "seed": seed}.items())
    return f"replay with the nodes n0, n1, ... at chaos+{uri}{'&' if '?' in uri else '?'}{options}"
