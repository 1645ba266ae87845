"""What an open bus does: all its methods but those that open and close it."""

from __future__ import annotations

from contextlib import suppress

from eventbus_core.api.client import Client
from eventbus_core.api.handling import Handling
from eventbus_core.api.inspection import Inspection
from eventbus_core.api.messaging import Messaging
from eventbus_core.api.queue import Queue
from eventbus_core.errors import BusClosed, RequestTimeout
from eventbus_core.mailbox.handler import HandlerFunction
from eventbus_core.model.names import check_identifier, node_address
from eventbus_core.node.draining import DRAIN, Drain, check_over
from eventbus_core.options import Overflow, check_overflow, check_seconds
from eventbus_core.routing.sender import Headers, Sender


class OpenBus(Messaging, Handling, Inspection):
    """Sends in the name of the node, makes the handles of clients, and tells about the bus; see :class:`Bus`."""

    _sender: Sender
    _source: str

    def client(
        self,
        name: str,
        *,
        takeover: bool = True,
        linger: float = 0.0,
        handler: HandlerFunction | None = None,
        overflow: Overflow | None = None,
        since: str | None = None,
    ) -> Client:
        """
        Return a handle that holds the client *name* within ``async with``.

        Its events come by iterating, or one by one to *handler*. A client that another handle
        holds, on whatever node, is moved here, unless *takeover* is false. What is sent to it
        within *linger* seconds after the handle was left is kept (within the bounds of a mailbox),
        and goes in order to whoever claims the client by then; later it is reported to its senders.
        Topics are not kept. Until then the client counts as held.

        A slow client that has more waiting than ``mailbox_events`` or ``mailbox_size`` loses the
        oldest events (*overflow* ``drop_oldest``) or those that come (``drop_newest``), and is told
        in their place; or its handle ends with :class:`LimitExceeded` (``close``): the client is released,
        and what waited is reported to its senders. If not given, the option of the bus counts.

        If the client is retained (``retain_clients``), what is sent to it is kept, whether a node
        holds it or not. With the position *since* of the last event that it has, it first gets what
        it missed, and ``client.resumed`` says what that is; an empty text stands for now.

        Raises:
            InvalidName: *name* is neither ``name`` nor ``tenant/name``.
            OptionError: *overflow* is none of these, or *linger* no number of seconds.
        """
        check_seconds("linger", linger)
        policy = check_overflow(overflow)
        return Client(self._node, name, takeover=takeover, linger=linger, handler=handler, overflow=policy, since=since)

    def queue(self, name: str) -> Queue:
        """
        Return the queue *name*: what is sent to it goes to one of its consumers, on whatever node.

        Raises:
            InvalidName: *name* is neither ``name`` nor ``tenant/name``.
        """
        return Queue(self, name)

    async def subscribe(self, client: str, pattern: str, *, timeout: float = 5.0) -> None:
        """
        Have *client* receive the topics that match *pattern*, whichever node holds it.

        Returns once those published from now on will arrive, as :meth:`Client.subscribe` does. The subscription ends
        with the present handle of the client.

        Raises:
            ClientNotFound: no node holds the client.
            RequestTimeout: its node did not answer within *timeout* seconds.
            RequestFailed: its node cannot subscribe it, as the reason says, or is gone.
        """
        await self._change(client, pattern, timeout, subscribed=True)

    async def unsubscribe(self, client: str, pattern: str, *, timeout: float = 5.0) -> None:
        """Undo :meth:`subscribe`, or a :meth:`Client.subscribe` of *client*; raises what the former does."""
        await self._change(client, pattern, timeout, subscribed=False)

    async def _change(self, client: str, pattern: str, timeout: float, *, subscribed: bool) -> None:
        self._node.state.check_waiting()
        what = f"the confirmation of the subscription of {client!r} to {pattern!r}"
        with self._node.deadlines.within(timeout, lambda: RequestTimeout(what, timeout)):
            await self._node.client_subscriptions.change(client, pattern, timeout, subscribed=subscribed)

    async def broadcast(
        self,
        type: str,
        data: object = None,
        *,
        headers: Headers | None = None,
        include_self: bool = True,
        expires: float | None = None,
        timeout: float | None = None,
    ) -> str:
        """
        Send to the handlers of every node; of this one only with *include_self*.

        After *expires* seconds it is not handled any more; the clocks of both hosts count.
        """
        sent = self._sender.broadcast(self._source, type, data, headers, timeout, expires, include_self=include_self)
        return sent if isinstance(sent, str) else await sent

    async def emit(
        self, type: str, data: object = None, *, headers: Headers | None = None, timeout: float | None = None
    ) -> str:
        """Hand to the handlers of this node alone; nothing leaves it."""
        sent = self._sender.emit(self._source, type, data, headers, timeout)
        return sent if isinstance(sent, str) else await sent

    async def flush(self) -> None:
        """
        Wait until the broker has taken every event that was accepted before.

        Raises:
            TransportUnavailable: it has not within ``send_timeout``; the message says how many it has not.
        """
        await self._node.flush()

    async def drain(self, over: float = 30.0) -> None:
        """
        Have every client move to another node within *over* seconds; return once all have moved. Then close the bus.

        From now on the node claims no client: that raises :class:`NodeDraining`. The handles of clients end, evenly
        spread over the time and in random order: what waits for their events, :meth:`Client.ended` and iterating,
        returns or raises :class:`NodeDraining`, whose ``retry_after`` says in how many seconds the client should
        connect again, elsewhere. Its events wait here, and go in order to the next node that claims it; they go to
        other nodes when the bus closes. A client that does not come back within its ``linger``, or 30 s if that is
        more, is given up, and its events are reported. Topics are not kept, as with ``linger``.

        All else works until the bus is closed, handlers too. After *over* seconds this waits for owners that have not
        closed their handles, and for clients that no other node has claimed, for at most ``close_timeout``. Successive
        calls wait for the first; if a call is cancelled, the drain goes on. It returns also if the bus is closed
        meanwhile.

        Raises:
            OptionError: *over* is no number of seconds up to 3600.
        """
        check_over(over)
        self._node.state.check_waiting()
        self._node.draining.begin(over)
        await self.drained()

    async def drained(self) -> None:
        """
        Return once the node has drained, or the bus is closed: for programs that others drain (:meth:`drain_node`).

        Raises:
            BusClosed: the bus was not open.
        """
        self._node.state.check_waiting()
        with suppress(BusClosed), self._node.deadlines.within(None):
            await self._node.draining.finished()

    async def drain_node(self, node: str, *, over: float = 30.0, timeout: float = 5.0) -> None:
        """
        Have *node* do what :meth:`drain` does there; return once it has begun. :meth:`node_stats` shows how far it is.

        Raises:
            ClientNotFound: there is no such node.
            RequestTimeout: it did not answer within *timeout* seconds.
            OptionError: *over* is no number of seconds up to 3600.
        """
        check_over(over)
        target = node_address(check_identifier("node", node))
        if node == self._node.id:
            self._node.state.check_waiting()
            self._node.draining.begin(over)
        else:
            await self._sender.ask(self._node.channel.address, target, DRAIN, Drain(over), timeout, None)
