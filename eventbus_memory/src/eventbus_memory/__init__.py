"""The in-memory backend of eventbus: all nodes in one process, no broker and no network."""

from eventbus_memory.transport import MemoryTransport

__all__ = ("MemoryTransport",)
