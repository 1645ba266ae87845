"""The bus of an adapter."""

from __future__ import annotations

from eventbus import Bus, connect


class AttachedBus:
    """The bus of an adapter: one that the application opens and closes, or one of its own, made of a URI."""

    def __init__(self, bus: Bus | str) -> None:
        self._given = bus
        self._own: Bus | None = None

    async def open(self) -> Bus:
        """Return the open bus; raises what opening a bus raises."""
        if isinstance(self._given, Bus):
            return self._given
        self._own = await connect(self._given).open()
        return self._own

    async def aclose(self) -> None:
        """Close the bus if it is the adapter's own; does nothing on successive calls."""
        own, self._own = self._own, None
        if own is not None:
            await own.aclose()
