"""Work that is done in a task of the bus, which exists only while there is some."""

from __future__ import annotations

from eventbus_core.concurrency.service_group import Service, ServiceGroup


class Worker:
    """
    Calls *work* in a task whenever there is something to do: while idle it takes no memory for a task.

    *work* returns once nothing is left to do, and must not suspend between finding that and returning. Call
    :meth:`wake` after something was added.
    """

    __slots__ = ("_running", "_services", "_work")

    def __init__(self, services: ServiceGroup, work: Service) -> None:
        self._services = services
        self._work = work
        self._running = False

    def wake(self) -> None:
        """Have what was added done, now or once the bus opens; does nothing after it has closed."""
        if not self._running:
            self._running = True
            self._services.start(self._run)

    async def _run(self) -> None:
        try:
            await self._work()
        finally:
            self._running = False
