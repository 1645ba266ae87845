"""A node whose readers are retained clients, in a process of its own: see :mod:`tests.processes.node`."""

from __future__ import annotations

import sys

from tests.processes.node import Program, main, say


class ReaderProgram(Program):
    """Holds retained clients, and says the position of each event that they handle."""

    async def resume(self, client: str, since: str) -> None:
        """Hold *client* from the position *since* on."""
        handle = self._clients[client] = self._bus.client(client, since=since)
        await handle.__aenter__()

        async def handle_all() -> None:
            async for event in handle:
                say("handled", client=client, number=event.data, position=event.position)

        self._group.create_task(handle_all())


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], ReaderProgram)
