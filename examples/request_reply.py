"""
Requests and answers: a client on one node answers the requests of another node.

    python examples/request_reply.py                              # both nodes in this process, no Redis
    python examples/request_reply.py redis://localhost:6379/0     # through Redis
"""

import sys

import anyio

import eventbus


async def main(uri: str) -> None:
    async with eventbus.connect(uri) as one, eventbus.connect(uri) as two:

        async def calculate(request: eventbus.Event) -> None:
            if request.type == "add":
                await one.reply(request, sum(request.data))

        async with one.client("acme/calculator", handler=calculate):
            answer = await two.request("acme/calculator", "add", [1, 2, 3], timeout=2.0)
            print("1 + 2 + 3 =", answer.data)
            try:
                await two.request("acme/calculator", "guess", None, timeout=0.2)
            except eventbus.RequestTimeout as error:
                print(error)
        try:
            await two.request("acme/oracle", "guess")
        except eventbus.ClientNotFound as error:
            print(error)


if __name__ == "__main__":
    anyio.run(main, sys.argv[1] if len(sys.argv) > 1 else "memory://")
