"""Which of several servers carries a partition. No I/O."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from hashlib import blake2b
from typing import Final

from eventbus_core.backend import ALL_NODES, Partition

REMEMBERED: Final = 10_000
"""Partitions whose server is remembered."""


class Placement:
    """
    The server of each partition, by rendezvous hashing: every node finds the same one without asking.

    Lanes and the partitions of nodes are spread evenly. The partition of all nodes is at the first server, so that
    broadcasts need one copy; if that server also keeps the directory, they stop no sooner than claims do.
    """

    def __init__(self, servers: Sequence[str]) -> None:
        self._servers = servers
        self.server = lru_cache(REMEMBERED)(self._find)

    def _find(self, partition: Partition) -> str:
        if partition == ALL_NODES:
            return self._servers[0]
        return max(self._servers, key=lambda server: blake2b(f"{partition} {server}".encode(), digest_size=8).digest())
