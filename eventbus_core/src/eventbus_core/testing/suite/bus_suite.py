"""Whole buses on the backend: a few named cases, programs against the model, faults between the nodes."""

from __future__ import annotations

from collections.abc import Callable

import anyio
import pytest
from anyio import to_thread
from hypothesis import note
from hypothesis import strategies as st

from eventbus_core.api.bus import Bus
from eventbus_core.api.client import Client
from eventbus_core.errors import ClientNotFound, ClientTakenOver
from eventbus_core.model.event import Event
from eventbus_core.model.reports import Gap, Resumed
from eventbus_core.model.retention import Retention
from eventbus_core.testing.hosts import buses
from eventbus_core.testing.inbox import Inbox, Reader, read
from eventbus_core.testing.simulation.operations import Operation, programs
from eventbus_core.testing.simulation.streams import Streams
from eventbus_core.testing.simulation.world import carry_out
from eventbus_core.testing.suite.fixtures import UnderTest
from eventbus_core.testing.suite.guarantees import for_all, naming, scenario
from eventbus_core.testing.waiting import tasks, until

Faults = dict[str, float]

chances = st.sampled_from([0.0, 0.05, 0.2])
losses: st.SearchStrategy[Faults] = st.fixed_dictionaries(
    {"drop": chances, "double": chances, "reorder": chances, "cut": st.sampled_from([0.0, 0.02])}
)
disorder: st.SearchStrategy[Faults] = st.fixed_dictionaries({"double": chances, "reorder": chances})
seeds = st.integers(0, 2**32 - 1)


class BusSuite(UnderTest):
    """The guarantees as applications see them."""

    @scenario()
    async def test_g8_a_send_follows_the_client(self, uri: str) -> None:
        """Once a client is claimed elsewhere, sends from nodes that remember the former owner reach the new one."""
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

    @scenario(needs="history")
    async def test_g13_readers_resume_at_any_node(self, uri: str) -> None:
        """Readers of several topics, and of what was sent to them, come back: each event once, or an exact gap."""
        kept = Retention(events=20)
        async with buses(uri, 3, retain={"kept.*": kept}, retain_clients={"acme/*": kept}) as nodes:
            topics = [f"kept.{number}" for number in range(8)]
            sender = nodes[0]

            async def say(numbers: range) -> None:
                for number in numbers:
                    for topic in topics:
                        await sender.publish(topic, number)
                        await sender.send(f"acme/{topic}", "n", number)
                await sender.flush()

            async def comes_back(place: int, missed: int, numbers: range) -> None:
                topic = topics[place]
                async with nodes[place % 3].client(f"acme/{topic}", since=inboxes[topic]) as client:
                    answers = client.resumed, await client.subscribe(topic, since=since[topic])
                    for answer in answers:
                        assert (answer.missed if isinstance(answer, Gap) else 0) == missed, f"{topic}: {answer}"
                    events = [await client.receive() for _ in range(2 * len(numbers))]
                    for came in ([event.data for event in events if event.topic == where] for where in (topic, None)):
                        assert came == list(numbers), f"{topic}: {came}"

            inboxes = {topic: await first_position(nodes[1], f"acme/{topic}") for topic in topics}
            await say(range(1))
            since = {topic: (await nodes[2].history(topic))[0].position or "" for topic in topics}
            await say(range(1, 8))
            for topic in topics:
                async with sender.client(f"acme/{topic}", since=inboxes[topic]) as client:
                    inboxes[topic] = (await client.receive()).position or ""
            for place in range(len(topics)):
                await comes_back(place, 0, range(1, 8))
            await say(range(8, 35))
            for place in range(len(topics)):
                await comes_back(place, 14, range(15, 35))

    @scenario()
    async def test_g7_concurrent_subscriptions_each_hold(self, uri: str) -> None:
        """Many clients subscribe concurrently: each gets all events that are published after its call has returned."""

        async def subscribe(name: str) -> None:
            client = await one.client(name).__aenter__()
            readers.append(read(group, client))
            await client.subscribe("shared")
            await client.subscribe(f"own.{name}")
            await two.publish("shared", name)
            await two.publish(f"own.{name}", name)
            await until(
                lambda: reader_of(client).data.count(name) == 2,
                f"{name!r} got its two events",
            )

        def reader_of(client: Client) -> Reader:
            return next(reader for reader in readers if reader.client is client)

        readers: list[Reader] = []
        async with buses(uri, 2) as (one, two), tasks() as group, anyio.create_task_group() as at_once:
            for number in range(20):
                at_once.start_soon(subscribe, f"client-{number}")

    @scenario()
    async def test_g2_a_handler_that_raises_gets_the_next_events(self, uri: str) -> None:
        """An error in a handler is reported, and the handler goes on: each event is handled once."""
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
    async def test_g5_a_send_to_an_absent_target_is_refused(self, uri: str) -> None:
        """A send to a client without an owner, or to an absent node, raises ``ClientNotFound``."""
        async with buses(uri, 2) as (one, two):
            for target in ("absent", "@absent"):
                with pytest.raises(ClientNotFound):
                    await one.send(target, "note")
            async with two.client("alice"):
                await one.send("alice", "note")

    @scenario()
    async def test_g10_a_restart_of_the_broker_loses_nothing_silently(
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

    def test_g1_g2_g3_g4_g5_g6_g7_g8_every_program_does_what_the_model_says(
        self, uri: str, anyio_backend_name: str
    ) -> None:
        """Every receiver gets exactly its events, once, equal, unshared and in order, wherever it has moved."""

        def check(program: list[Operation]) -> None:
            anyio.run(carry_out, uri, program, backend=anyio_backend_name)

        with naming(self.test_g1_g2_g3_g4_g5_g6_g7_g8_every_program_does_what_the_model_says):
            for_all(check, examples=self.examples, program=programs)

    def test_g2_g4_g8_doubled_and_reordered_frames_change_nothing(self, uri: str, anyio_backend_name: str) -> None:
        """Programs do what the model says also when frames are doubled and reordered."""

        async def run(program: list[Operation], faults: Faults, seed: int) -> None:
            await carry_out(f"chaos+{uri}", program, faults=True, seed=seed, **faults)

        def check(program: list[Operation], faults: Faults, seed: int) -> None:
            note(replay(uri, faults, seed))
            anyio.run(run, program, faults, seed, backend=anyio_backend_name)

        with naming(self.test_g2_g4_g8_doubled_and_reordered_frames_change_nothing):
            for_all(check, examples=max(1, self.examples // 4), program=programs, faults=disorder, seed=seeds)

    def test_g10_losses_are_repaired_or_told(self, uri: str, anyio_backend_name: str) -> None:
        """Frames are dropped, doubled, reordered and cut: all events come in order and once, or the gaps add up."""

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


def replay(uri: str, faults: Faults, seed: int) -> str:
    """Return the URI that draws the same faults again."""
    options = "&".join(f"{name}={value}" for name, value in {**faults, "seed": seed}.items())
    return f"replay with the nodes n0, n1, ... at chaos+{uri}{'&' if '?' in uri else '?'}{options}"


async def first_position(bus: Bus, client: str) -> str:
    """Return the position at which the events for a retained *client* begin; it is not held afterwards."""
    async with bus.client(client, since="") as handle:
        assert isinstance(handle.resumed, Resumed), f"{client!r}: {handle.resumed}"
        return handle.resumed.position
