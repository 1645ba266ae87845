"""
Two nodes on one bus: an event for a client, one for a topic, one for everyone.

    python examples/hello.py                              # both nodes in this process, no Redis
    python examples/hello.py redis://localhost:6379/0     # through Redis
"""

import sys

import anyio

import eventbus


async def main(uri: str) -> None:
    async with eventbus.connect(uri, node="server-1") as one, eventbus.connect(uri, node="server-2") as two:
        handled = anyio.Event()

        @one.on("greeting.*")
        async def greeted(event: eventbus.Event) -> None:
            print(f"{one.node} has {event.type} from {event.source}: {event.data}")
            if event.type == "greeting.all":
                handled.set()

        await one.ready()  # from here on, topics published by other nodes arrive
        async with one.client("acme/alice") as alice:
            await two.send("acme/alice", "chat.message", {"text": "hello, alice"})
            await two.publish("greeting.topic", "hello, subscribers")
            await two.broadcast("greeting.all", "hello, all nodes")
            event = await alice.receive()
            print(f"{alice.name} has {event.type} from {event.source}: {event.data}")
            with anyio.fail_after(5):
                await handled.wait()


if __name__ == "__main__":
    anyio.run(main, sys.argv[1] if len(sys.argv) > 1 else "memory://")
