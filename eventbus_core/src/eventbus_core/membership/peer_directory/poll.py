"""The replies to one query, and the owners that follow from them."""

from __future__ import annotations

from collections.abc import Mapping

from eventbus_core.backend import Owner
from eventbus_core.concurrency.notifier import Notifier
from eventbus_core.membership.peer_directory.messages import Reply


class Poll:
    """
    The replies to one query.

    Attributes:
        replies: of the nodes whose reply is complete, by node.
        more: notified when the next one comes.
        complete: whether every live node has replied.
    """

    def __init__(self) -> None:
        self.replies: dict[str, Reply] = {}
        self._parts: dict[str, Reply] = {}
        self.complete = False
        self.more = Notifier()

    def holders(self, client: str) -> set[str]:
        """Return the nodes that hold or claim *client*."""
        return {node for node, reply in self.replies.items() if client in reply.held or client in reply.claiming}

    def add(self, reply: Reply) -> None:
        """Take in *reply*, and wake the tasks that wait for more."""
        if before := self._parts.pop(reply.me.node, None):
            reply.held.update(before.held)
        if reply.more:
            self._parts[reply.me.node] = reply
            return
        self.replies[reply.me.node] = reply
        self.more.notify()

    def end(self, *, complete: bool) -> None:
        """Note that no more replies are waited for."""
        self.complete = complete

    def owners(self) -> dict[str, Owner]:
        """Return the owners of the clients that were asked for, among the nodes that replied."""
        owners: dict[str, Owner] = {}
        for reply in self.replies.values():
            for client, epoch in reply.held.items():
                if client not in owners or owners[client].epoch < epoch:
                    owners[client] = Owner(reply.me.node, reply.me.incarnation, epoch)
        return owners

    def winners(self, ours: Mapping[str, int], *, takeover: bool) -> dict[str, Owner]:
        """
        Return the owners, including nodes that claim a client at the same time as we do, by the epochs *ours*.

        With *takeover* the largest epoch wins, else the smallest.
        """
        owners = self.owners()
        rivals: dict[str, list[Owner]] = {}
        for reply in self.replies.values():
            for client, epoch in reply.claiming.items():
                if client in ours and (takeover or (client not in owners and epoch < ours[client])):
                    rivals.setdefault(client, []).append(Owner(reply.me.node, reply.me.incarnation, epoch))
        for client, claims in rivals.items():
            held = [owners[client]] if client in owners else []
            owners[client] = (max if takeover else min)(held + claims, key=lambda claim: claim.epoch)
        return owners
