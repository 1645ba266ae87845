"""Sending: the methods that the bus and the handles of clients share, each in its own name."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from eventbus_core.model.event import Event
from eventbus_core.routing.sender import Headers, Sender


class SendingHandle(Protocol):
    """What sends: the bus in the name of its node, or the handle of a client in that client's name."""

    @property
    def _sender(self) -> Sender: ...

    @property
    def _source(self) -> str:
        """The address to send in the name of; raises if nothing may be sent in it."""


class Messaging:
    """
    Sends events and requests.

    A method returns once the event is accepted: from then on it is handled by every receiver it is for, or its fate
    is reported. It waits for room for at most *timeout* seconds, by default ``send_timeout``; with 0 the event is
    accepted at once, or the method raises. It returns the id of the event, by which :class:`Undeliverable` names it.
    See :class:`Bus` for what all of them raise.
    """

    __slots__ = ()

    async def send(
        self: SendingHandle,
        target: str,
        type: str,
        data: object = None,
        *,
        headers: Headers | None = None,
        expires: float | None = None,
        timeout: float | None = None,
    ) -> str:
        """
        Send to a client, or to a node by its address ``@node``.

        After *expires* seconds it is not handled any more but reported; the clocks of both hosts count.
        A target to which this node has not sent before is looked up first. If *timeout* is too short for that,
        the look-up goes on, so that a later send finds the target.

        Raises:
            ClientNotFound: no node owns the client, or the node is not on the bus.
        """
        sent = self._sender.send(self._source, target, type, data, headers, expires, timeout)
        return sent if isinstance(sent, str) else await sent

    async def publish(
        self: SendingHandle,
        topic: str | Sequence[str],
        data: object = None,
        *,
        headers: Headers | None = None,
        expires: float | None = None,
        timeout: float | None = None,
        durable: bool = False,
    ) -> str:
        """
        Send to every subscriber of *topic*, handlers and clients, on every node; the topic is the event's type.

        Of a list of topics, at most 64, each subscriber of any gets one event: that of the first topic in the list
        that it is subscribed to. After *expires* seconds it is not handled any more; the clocks of both hosts count.

        With *durable*, wait until the history of a retained topic has the event: then it outlives this process.

        Raises:
            TopicNotRetained: with *durable*, and the topic is not retained.
            EventBusError: a topic of a list is retained: publish to it alone.
            LimitExceeded: the topic is retained, and the node published to ``max_retained_topics`` lately.
        """
        if durable:
            return await self._sender.publish_durably(self._source, topic, data, headers, timeout, expires)
        sent = self._sender.publish(self._source, topic, data, headers, timeout, expires)
        return sent if isinstance(sent, str) else await sent

    async def request(
        self: SendingHandle,
        target: str,
        type: str,
        data: object = None,
        *,
        timeout: float = 5.0,
        headers: Headers | None = None,
    ) -> Event:
        """
        Send a request to a client or a node, and return the event that answers it.

        Raises:
            ClientNotFound: no node owns the client, or the node is not on the bus.
            RequestTimeout: no answer came within *timeout* seconds.
            RequestFailed: none will come: the receiver is gone, or its handler raised.
            LimitExceeded: as many requests as may wait for their answers.
        """
        return await self._sender.request(self._source, target, type, data, timeout, headers)

    async def reply(
        self: SendingHandle,
        request: Event,
        data: object = None,
        *,
        headers: Headers | None = None,
        timeout: float | None = None,
    ) -> str:
        """
        Reply *request*.

        Raises:
            EventBusError: it is no request.
            ClientNotFound: the node that asked is gone.
        """
        sent = self._sender.reply(self._source, request, data, headers, timeout)
        return sent if isinstance(sent, str) else await sent
