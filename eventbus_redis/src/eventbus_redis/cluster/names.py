"""The names of channels and keys in a cluster. No I/O."""

from __future__ import annotations

from functools import lru_cache
from typing import Final

from eventbus_core.backend import Partition
from eventbus_redis.channels import PROBES
from eventbus_redis.cluster.slots import partition_slot, slot_tag

MAX_NAMES: Final = 10_000
"""Partitions whose names are kept."""


class Names:
    """
    The names of the channels and keys of one namespace.

    A name ends with the tag that decides its slot, so rights to a prefix are the same as on a single server.

    Attributes:
        root: the beginning of all names.
        directory: the beginning of the names of the directory's keys, which all lie in one slot.
    """

    def __init__(self, prefix: str, namespace: str) -> None:
        self.root = f"{prefix}:{namespace}"
        self.directory = f"{prefix}:{{{namespace}}}"
        self.slot = lru_cache(MAX_NAMES)(self._slot)
        self.channel = lru_cache(MAX_NAMES)(self._channel)

    def probe(self, slot: int) -> bytes:
        """Return the name of a key in *slot*; no such key is ever written."""
        return f"{self.root}:{PROBES}:{{{slot_tag(slot)}}}".encode()

    def _slot(self, partition: Partition) -> int:
        return partition_slot(partition, self.root)

    def _channel(self, partition: Partition) -> bytes:
        return f"{self.root}:{partition}:{{{slot_tag(self.slot(partition))}}}".encode()
