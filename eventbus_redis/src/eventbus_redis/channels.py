"""The channels of one node: those that it wants, and the server's answer for each. No I/O."""

from __future__ import annotations

from collections import deque
from collections.abc import Collection, Iterable
from typing import Final, NamedTuple

from eventbus_core.backend import Partition
from eventbus_core.errors import EventBusError
from eventbus_redis.packing import pack

PROBES: Final = "p"


class Request(NamedTuple):
    """A command that the server has not answered yet."""

    subscribe: bool
    name: bytes


class Channels:
    """
    The wanted channels of a node, and the state of each subscription on the present connection.

    The server answers in the order of the commands, each of which names one channel: so an error, which names none,
    belongs to the first command without an answer.

    Attributes:
        probe: the channel of this node's probes; always wanted, and of no partition.
        wanted: the partition of each wanted channel; a new connection subscribes to these and no others.
        refused: the server's error for each wanted channel that it refuses.
    """

    def __init__(self, root: str, node: str) -> None:
        self._root = root
        self.probe = f"{root}:{PROBES}:{node}".encode()
        self.wanted: dict[bytes, Partition | None] = {self.probe: None}
        self.refused: dict[bytes, EventBusError] = {}
        self._joined: set[bytes] = set()
        self._requests: deque[Request] = deque()

    def name(self, partition: Partition) -> bytes:
        """Return the name of the channel of *partition*."""
        return f"{self._root}:{partition}".encode()

    def want(self, partitions: Iterable[Partition]) -> list[bytes]:
        """Add the channels of *partitions* to the wanted ones; return the new names."""
        new = {self.name(partition): partition for partition in partitions}
        new = {name: partition for name, partition in new.items() if name not in self.wanted}
        self.wanted.update(new)
        return list(new)

    def unwant(self, names: Iterable[bytes]) -> list[bytes]:
        """Remove *names* from the wanted channels; return those that were wanted."""
        dropped = [name for name in dict.fromkeys(names) if self.wanted.pop(name, None) is not None]
        self._joined.difference_update(dropped)
        for name in dropped:
            self.refused.pop(name, None)
        return dropped

    def subscribe(self, names: Iterable[bytes]) -> list[bytes]:
        """Return the commands that subscribe to *names*, to be sent at once."""
        return [self._request(True, "SUBSCRIBE", name) for name in names]

    def unsubscribe(self, names: Iterable[bytes]) -> list[bytes]:
        """Return the commands that unsubscribe from *names*, to be sent at once."""
        return [self._request(False, "UNSUBSCRIBE", name) for name in names]

    def reset(self) -> list[bytes]:
        """Forget the subscriptions of a former connection; return all wanted names."""
        self._requests.clear()
        self._joined.clear()
        self.refused.clear()
        return list(self.wanted)

    def confirm(self, name: bytes, *, subscribed: bool) -> bool:
        """Record the server's confirmation for *name*; return whether it answers a command of ours."""
        if not self._requests or self._requests[0] != (subscribed, name):
            return False
        self._requests.popleft()
        # Only the last of several SUBSCRIBEs counts: an UNSUBSCRIBE may stand between them.
        if subscribed and name in self.wanted and not self._asked(name):
            self._joined.add(name)
            self.refused.pop(name, None)
        return True

    def refuse(self, error: EventBusError) -> bool:
        """Record *error* as the server's answer to the first command without one; return whether there was any."""
        if not self._requests:
            return False
        subscribe, name = self._requests.popleft()
        if subscribe and name in self.wanted and not self._asked(name):
            self.refused[name] = error
        return True

    def joined(self, names: Collection[bytes]) -> bool:
        """Return whether the server has confirmed all of *names*, and none was unsubscribed since."""
        return self._joined.issuperset(names)

    def missing(self) -> list[bytes]:
        """Return the wanted channels that the server has neither confirmed nor refused."""
        return [name for name in self.wanted if name not in self._joined and name not in self.refused]

    def _asked(self, name: bytes) -> bool:
        return Request(True, name) in self._requests

    def _request(self, subscribe: bool, command: str, name: bytes) -> bytes:
        self._requests.append(Request(subscribe, name))
        if subscribe:
            self.refused.pop(name, None)
        return pack(command, name)
