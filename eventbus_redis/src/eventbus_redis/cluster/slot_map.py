"""Which primary owns which slot, and whom to believe about it. No I/O."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import attrs
from redis.exceptions import ResponseError

from eventbus_core.backend import Address
from eventbus_redis.cluster.slots import SLOTS


class SlotRange(NamedTuple):
    """The slots from *start* to *end*, the latter included, of *primary*; *replicas* follow it."""

    start: int
    end: int
    primary: Address
    replicas: tuple[Address, ...]


@attrs.frozen
class View:
    """
    What one server says of the cluster.

    Attributes:
        healthy: whether the server finds that the cluster serves; one that was cut off does not.
        epoch: the largest configuration epoch that the server knows of.
        ranges: the slots that are assigned.
    """

    healthy: bool
    epoch: int
    ranges: tuple[SlotRange, ...]

    @classmethod
    def parse(cls, asked: Address, info: Any, slots: Any) -> View:
        """
        Return what the server at *asked* has answered to CLUSTER INFO and CLUSTER SLOTS.

        Raises:
            ResponseError: these are not such answers.
        """
        try:
            facts = _facts(info)
            return cls(
                facts["cluster_state"] == "ok",
                int(facts["cluster_current_epoch"]),
                tuple(SlotRange(int(start), int(end), *_servers(asked, servers)) for start, end, *servers in slots),
            )
        except (TypeError, ValueError, KeyError, IndexError, AttributeError, UnicodeDecodeError) as error:
            raise ResponseError(f"CLUSTER INFO and CLUSTER SLOTS were answered with {slots!r:.80}") from error

    @property
    def servers(self) -> set[Address]:
        """All servers that have slots, or follow one that has."""
        return {server for part in self.ranges for server in (part.primary, *part.replicas)}


def most_credible(views: Iterable[View]) -> View | None:
    """Return the view to believe: of a server that finds the cluster well, with the largest epoch; if there is one."""
    return max((view for view in views if view.healthy), key=lambda view: view.epoch, default=None)


class SlotMap:
    """
    The owner of each slot, as far as known.

    A redirection is newer than any view of the whole, so :meth:`learn` holds until the next :meth:`replace`.
    """

    def __init__(self) -> None:
        self._owners: list[Address | None] = [None] * SLOTS

    def owner(self, slot: int) -> Address | None:
        """Return the primary of *slot*; ``None`` if that is unknown."""
        return self._owners[slot]

    @property
    def primaries(self) -> list[Address]:
        """The primaries in the order of their first slots."""
        return list(dict.fromkeys(owner for owner in self._owners if owner is not None))

    def learn(self, slot: int, owner: Address) -> None:
        """Note that *owner* is the primary of *slot*, as a redirection says."""
        self._owners[slot] = owner

    def replace(self, view: View) -> None:
        """Take all owners from *view*."""
        self._owners = [None] * SLOTS
        for part in view.ranges:
            self._owners[part.start : part.end + 1] = [part.primary] * (part.end + 1 - part.start)


class Redirection(NamedTuple):
    """An answer that names the server to ask: for good (MOVED), or for this once, while a slot moves (ASK)."""

    once: bool
    slot: int
    owner: Address


def redirection(asked: Address, error: ResponseError) -> Redirection | None:
    """Return where *error* of the server at *asked* leads to, if it is MOVED or ASK."""
    words = str(error).split()
    if len(words) != 3 or words[0] not in ("MOVED", "ASK") or not words[1].isdigit() or int(words[1]) >= SLOTS:
        return None
    host, _, port = words[2].rpartition(":")
    if not port.isdigit():
        return None
    return Redirection(words[0] == "ASK", int(words[1]), Address(host.strip("[]") or asked.host, int(port)))


def _servers(asked: Address, servers: Sequence[Any]) -> tuple[Address, tuple[Address, ...]]:
    primary, *replicas = (Address(_host(asked, server[0]), int(server[1])) for server in servers)
    return primary, tuple(replicas)


def _host(asked: Address, name: bytes | None) -> str:
    """Return the host *name*; a server that does not know its own name means the one that we asked."""
    return name.decode() if name and name != b"?" else asked.host


def _facts(info: Any) -> Mapping[str, str]:
    lines = (line.partition(":") for line in info.decode().splitlines())
    return {name: value for name, colon, value in lines if colon}
