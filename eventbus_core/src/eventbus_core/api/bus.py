"""The bus, as applications see it."""

from __future__ import annotations

from collections.abc import Callable
from types import TracebackType
from typing import Self

import anyio

from eventbus_core.api.open_bus import OpenBus
from eventbus_core.api.portal import Portal
from eventbus_core.backend import Transport
from eventbus_core.concurrency.hosted import Hosted
from eventbus_core.errors import BusClosed, ConfigurationError, EventBusError, TransportUnavailable
from eventbus_core.model.event import Event
from eventbus_core.model.reports import Dropped, Gap, Undeliverable
from eventbus_core.model.state import Phase
from eventbus_core.node.hooks import Hook
from eventbus_core.node.lifecycle import Lifecycle
from eventbus_core.node.node import LocalNode
from eventbus_core.node.snapshot import Snapshots
from eventbus_core.options import BusOptions


class Bus(OpenBus):
    """
    The bus of one node; made by :func:`connect`, open within ``async with``, or from :meth:`open` to :meth:`aclose`.

    Methods that send return the id of the event once it is accepted: from then on it is handled by
    every receiver it is for, or its fate is reported. They wait while receivers or the broker take
    nothing, for *timeout* seconds (by default ``send_timeout``; 0 does not wait), and then raise
    :class:`TransportUnavailable`; an event for which they raise was not accepted. All raise
    :class:`BusClosed` while the bus is not open, :class:`ConfigurationError` in another event loop
    (a ``send`` that need not wait may not notice), :class:`InvalidName` for a name against the rules,
    :class:`EventDataError` for data that MessagePack cannot hold, and :class:`EventTooLarge` for too
    much of it.

    Attributes:
        on_error: hook ``(event, exception)``: a handler raised.
        on_undeliverable: hook ``(Undeliverable)``: an event accepted here will not be handled.
        on_gap: hook ``(Gap)``: events of another node were lost for good on the way here.
        on_dropped: hook ``(name, Dropped)``: a client or handler left too much waiting.
        on_lease_lost: hook ``()``: other nodes could have claimed our clients; this node has entered again.
        on_disconnected: hook ``(reason)``: the node cannot read, write or renew its lease, as the reason says.
            Or it was not there at the start, and this node is alone.
        on_reconnected: hook ``()``: it can do all of these again; a node that was alone has joined the others.
    """

    def __init__(
        self, transport: Transport, options: BusOptions, another: Callable[[], Transport] | None = None
    ) -> None:
        self._another = another  # makes a transport with an id of its own, after a fork
        self._options = options
        self._hosted: Hosted | None = None
        self._entered_by: int | None = None
        self._renewed = {}
        self._use(LocalNode(transport, options))

    def _use(self, node: LocalNode) -> None:
        self._node = node
        self._sender = node.sender
        self._source = node.channel.address
        self._snapshots = Snapshots(node)
        self._lifecycle = Lifecycle(node).run()
        self.on_error: Hook[Event, Exception] = node.hooks.on_error
        self.on_undeliverable: Hook[Undeliverable] = node.hooks.on_undeliverable
        self.on_gap: Hook[Gap] = node.hooks.on_gap
        self.on_dropped: Hook[str, Dropped] = node.hooks.on_dropped
        self.on_lease_lost: Hook[[]] = node.hooks.on_lease_lost
        self.on_disconnected: Hook[str] = node.hooks.on_disconnected
        self.on_reconnected: Hook[[]] = node.hooks.on_reconnected

    async def __aenter__(self) -> Self:
        """
        Join the namespace; when this returns, events of other nodes arrive.

        If a task of the bus fails, the block is cancelled, and the failure comes out of it. The task that enters must
        leave, after all task groups and buses that it entered later; else use :meth:`open` and :meth:`aclose`.

        Raises:
            TransportUnavailable: the broker cannot be reached; with ``wait_for_broker=False`` the node is
                ``alone`` instead, and joins the others later. What it then finds raises out of the body:
            ConfigurationError: ``node`` was given, and the process has forked since. A generated id is made again:
                then this is another node, with the same handlers and hooks.
            NodeAlreadyPresent: a live node has this id.
            NamespaceMismatch: the namespace was created with other settings.
        """
        self._check_new()
        if self._node.state.forked:
            self._make_again()
        self._node.state.settle()
        self._entered_by = anyio.get_current_task().id
        try:
            await self._lifecycle.__aenter__()
        except (ConfigurationError, TransportUnavailable) as error:
            # The message says all that its cause says; in a server's log, the last line is the one to read.
            raise error.with_traceback(None) from None
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """
        Wait until accepted events are handled, for at most ``close_timeout``, release the clients, and leave.

        Handlers that are at work then are cancelled, and their events are reported to the senders. What the broker
        has not taken by then is counted, and told to ``on_undeliverable``: ``bus closed``.

        Raises:
            EventBusError: another task entered, such as that of the first half of a fixture; the bus stays open.
        """
        self._node.state.check_place()
        if self._entered_by != anyio.get_current_task().id:
            raise EventBusError(
                "another task entered 'async with' of this bus; use open() and aclose(), which any task may call"
            )
        await self._lifecycle.__aexit__(kind, error, traceback)

    async def open(self) -> Self:
        """
        Do what entering ``async with`` does, for code that cannot be within such a block: close with :meth:`aclose`.

        Both may be called by any task of one event loop, in any order with those of other buses and clients. The bus
        lives in a task of its own. If that fails, the bus is closed, calls raise :class:`BusClosed`, and
        :meth:`aclose` raises the failure. If this call is cancelled, nothing is left open.

        Returns:
            The bus.
        """
        self._check_new()
        if self._hosted is not None:
            raise BusClosed("open() was called before; a bus can be opened once")
        self._hosted = Hosted(self)
        await self._hosted.open()
        return self

    async def aclose(self) -> None:
        """
        Do what leaving ``async with`` does, for a bus that :meth:`open` opened; then or before, do nothing.

        If this call is cancelled, events that wait are not handled but reported, and the bus is closed all the same.

        Raises:
            EventBusError: the bus is open within ``async with``, which closes it.
        """
        self._node.state.check_place()
        if self._hosted is not None:
            await self._hosted.aclose()
        elif self._node.state.phase not in (Phase.NEW, Phase.CLOSED):
            raise EventBusError("the bus was opened by 'async with': leave that block to close it")

    def _check_new(self) -> None:
        if self._node.state.phase is not Phase.NEW:
            self._node.state.check_place()
            raise BusClosed("a bus can be opened once; connect again for another")

    def _make_again(self) -> None:
        """Be another node, with the same handlers and hooks: this process is a copy of the one that has our id."""
        if self._another is None:
            raise ConfigurationError(
                f"node {self.node!r} was connected before the process forked, and each process needs an id of its own; "
                f"leave out node=, or connect after the fork"
            )
        former = self._node
        self._use(node := LocalNode(self._another(), self._options))
        node.hooks.share(former.hooks)
        self._renew(former)

    def portal(self) -> Portal:
        """Return this bus for other event loops and threads: its methods can be awaited in each of them."""
        return Portal(self)

    def __repr__(self) -> str:
        return f"<Bus node={self.node!r} namespace={self.namespace!r} at {self._node.transport.uri}>"
