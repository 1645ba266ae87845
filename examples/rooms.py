"""
Chat rooms: clients on two nodes subscribe to rooms, and talk.

    python examples/rooms.py                              # both nodes in this process, no Redis
    python examples/rooms.py redis://localhost:6379/0     # through Redis
"""

import sys

import anyio

import eventbus


async def listen(client: eventbus.Client) -> None:
    async for event in client:
        if event.type == "$sys.loss":
            print(f"{client.name} missed {event.data.missed} events")
            continue
        print(f"{client.name} in {event.topic}: {event.source} says {event.data}")
        if event.data == "bye":
            return


async def main(uri: str) -> None:
    async with (
        eventbus.connect(uri) as one,
        eventbus.connect(uri) as two,
        one.client("acme/alice") as alice,
        two.client("acme/bob") as bob,
        two.client("acme/carol") as carol,
    ):
        await alice.subscribe("room.cats")
        await bob.subscribe("room.cats")
        await carol.subscribe("room.*")
        async with anyio.create_task_group() as tasks:
            for client in (alice, bob, carol):
                tasks.start_soon(listen, client)
            await carol.publish("room.dogs", "woof")
            await alice.publish("room.cats", "miaow")
            await alice.publish("room.cats", "bye")


if __name__ == "__main__":
    anyio.run(main, sys.argv[1] if len(sys.argv) > 1 else "memory://")
