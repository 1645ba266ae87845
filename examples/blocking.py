"""
The bus in code without an event loop: threads that call and wait.

    python examples/blocking.py                              # in this process, no Redis
    python examples/blocking.py redis://localhost:6379/0     # through Redis
"""

import sys
from concurrent.futures import ThreadPoolExecutor

import eventbus


def buy(bus: eventbus.BlockingBus, dish: str) -> object:
    with bus.client("acme/customer") as customer:
        meal = customer.request("acme/kitchen", "order", {"dish": dish}, timeout=5.0)
        return meal.data


def main(uri: str) -> None:
    with eventbus.connect_blocking(uri) as bus, bus.client("acme/kitchen") as kitchen, ThreadPoolExecutor() as pool:

        @bus.on("log.*")  # runs in a worker thread, so it may block
        def log(event: eventbus.Event) -> None:
            print(f"{event.type}: {event.data}")

        meal = pool.submit(buy, bus, "soup")
        order = kitchen.receive(timeout=5.0)
        kitchen.reply(order, f"one {order.data['dish']} for {order.source}")
        print("the customer has:", meal.result())
        bus.publish("log.order", order.data)


if __name__ == "__main__":
    main(sys.argv[1] if len(sys.argv) > 1 else "memory://")
