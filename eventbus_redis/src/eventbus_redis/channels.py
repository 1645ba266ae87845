"""The channels of one node: which are wanted, and which the server has confirmed. No I/O."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable
from typing import Final

from eventbus_core import Partition

PROBES: Final = "p"


class Channels:
    """
    What is wanted decides: a connection that was lost, or a join that was cancelled, leaves nothing else behind.

    Attributes:
        probe: the channel of this node's probes; always wanted, of no partition.
        wanted: the partition of each channel that is wanted.
    """

    def __init__(self, root: str, node: str) -> None:
        self._root = root
        self.probe = f"{root}:{PROBES}:{node}".encode()
        self.wanted: dict[bytes, Partition | None] = {self.probe: None}
        self._joined: set[bytes] = set()
        self._asked: Counter[bytes] = Counter()

    def name(self, partition: Partition) -> bytes:
        """Return the name of the channel of *partition*."""
        return f"{self._root}:{partition}".encode()

    def want(self, partitions: Iterable[Partition]) -> list[bytes]:
        """Want the channels of *partitions*; return those that were not wanted before."""
        new = {self.name(partition): partition for partition in partitions}
        new = {name: partition for name, partition in new.items() if name not in self.wanted}
        self.wanted.update(new)
        return list(new)

    def unwant(self, names: Iterable[bytes]) -> list[bytes]:
        """Want *names* no more; return those that were wanted."""
        dropped = [name for name in dict.fromkeys(names) if self.wanted.pop(name, None) is not None]
        self._joined.difference_update(dropped)
        return dropped

    def asked(self, names: Iterable[bytes]) -> None:
        """Note that the server was asked for *names*."""
        self._asked.update(names)

    def begin_anew(self) -> list[bytes]:
        """Forget what was asked and confirmed, as the connection is a new one; return all that is wanted."""
        self._asked.clear()
        self._joined.clear()
        return list(self.wanted)

    def confirm(self, name: bytes) -> bool:
        """Take the server's word that we have *name*; return whether anyone had asked."""
        if not self._asked[name]:
            return False
        self._asked[name] -= 1
        if not self._asked[name]:
            # Asked once more meanwhile, it counts when that is confirmed: it may have been left in between.
            del self._asked[name]
            if name in self.wanted:
                self._joined.add(name)
        return True

    def joined(self, names: Collection[bytes]) -> bool:
        """Return whether the server has confirmed all of *names*, and has not been told to end one."""
        return self._joined.issuperset(names)

    def all_joined(self) -> bool:
        """Return whether everything that is wanted is joined."""
        return self._joined.issuperset(self.wanted)
