"""
Handlers that ask for a type: data of another type never reaches them, and is reported.

    python examples/typed_handlers.py
"""

import logging

import anyio
import attrs

import eventbus


@attrs.frozen
class OrderCreated:
    id: int
    dishes: list[str]


async def main() -> None:
    logging.getLogger("eventbus").setLevel(logging.CRITICAL)  # it logs errors of handlers; this program prints them
    async with eventbus.connect("memory://", node="server-1") as bus:

        @bus.on("order.created", data=OrderCreated)
        async def created(event: eventbus.Event) -> None:
            order: OrderCreated = event.data
            print(f"order {order.id}: {', '.join(order.dishes)}")

        @bus.on_error
        def failed(event: eventbus.Event, error: Exception) -> None:
            print(f"{event.type} from {event.source} failed: {error}")

        await bus.publish("order.created", OrderCreated(1, ["soup", "bread"]))
        await bus.publish("order.created", {"id": 2, "dishes": ["tea"]})  # a dict with the same fields works too
        await bus.publish("order.created", {"id": "three", "dishes": []})


if __name__ == "__main__":
    anyio.run(main)
