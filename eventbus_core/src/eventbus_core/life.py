"""The life of a node: it joins, its tasks run, and at the end it leaves in good order."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from time import monotonic
from typing import Final

import anyio
from anyio.abc import TaskGroup

from eventbus_core.errands import NODE_UNREACHABLE
from eventbus_core.errors import BusClosed, ClientTakenOver, EventBusError, TransportUnavailable
from eventbus_core.link import RETRY_PAUSE
from eventbus_core.log import get_logger
from eventbus_core.names import RESERVED
from eventbus_core.node import LocalNode, Service
from eventbus_core.presence import CLIENT_CLAIMED, NODE_JOINED, NODE_LEFT
from eventbus_core.transport import ALL_NODES, node_partition

logger = get_logger("eventbus")

TICK: Final = 0.05
LEAVE_TIMEOUT: Final = 2.0
HOOK_TIMEOUT: Final = 1.0
BUS_CLOSED: Final = "bus closed"


class Life:
    """The one life of *node*, within :meth:`run`."""

    def __init__(self, node: LocalNode) -> None:
        self.node = node
        self._own = [node_partition(node.id), ALL_NODES]
        self._crashed = False
        self._settled = anyio.Event()
        node.ownership.on_entered = self._begin

    @asynccontextmanager
    async def run(self) -> AsyncIterator[None]:
        """
        Be on the bus within; when it is entered, events of other nodes arrive.

        At its end nothing more is accepted, what was accepted is handled, for at most ``close_timeout``
        and not if the body raised, and clients are released. What a task of the bus raises ends the
        body, and is raised in its place.

        Raises:
            NodeAlreadyPresent, NamespaceMismatch, ConfigurationError, TransportUnavailable: nothing is left open.
        """
        failure: BaseException | None = None
        with _single_exception():
            async with self.node.transport:
                try:
                    await self._enter()
                    async with anyio.create_task_group() as group, self._served(group):
                        if not self.node.link.alone:
                            await self._introduce()
                            await self._join()
                        self.node.sender.open = self.node.opened = True
                        try:
                            yield
                        except anyio.get_cancelled_exc_class():
                            raise  # perhaps by our own task group, which then has the reason
                        except BaseException as error:
                            failure = error
                        else:
                            await self._drain()
                finally:
                    await self._leave()
        if failure is not None:
            raise failure

    @asynccontextmanager
    async def _served(self, group: TaskGroup) -> AsyncIterator[None]:
        """Run the tasks of the bus within; a cancellation from outside reaches them only once all is wound up."""
        scope = anyio.CancelScope(shield=True)

        async def serve() -> None:
            try:
                with scope:
                    async with anyio.create_task_group() as self.node.tasks:
                        for task in self._services():
                            self.node.tasks.start_soon(task)
            except BaseException:
                self._crashed = True
                raise

        group.start_soon(serve)
        try:
            yield
        finally:
            self.node.sender.open = False
            self.node.waits.end()
            try:
                with anyio.move_on_after(LEAVE_TIMEOUT, shield=True):
                    if self.node.opened and not self._crashed:
                        await self._wind_up()
                with anyio.move_on_after(HOOK_TIMEOUT, shield=True):
                    if self.node.opened and not self._crashed:
                        await self._give_up()
            finally:  # a cancellation by asyncio itself passes every shield
                scope.cancel()

    async def _enter(self) -> None:
        """Enter the namespace; if the broker is not there, and is not to be waited for, be alone."""
        try:
            await self.node.transport.join(self._own)
            await self.node.ownership.enter()
        except TransportUnavailable as error:
            if self.node.options.wait_for_broker:
                raise
            self.node.link.start_alone(error)

    async def _introduce(self) -> None:
        if self.node.asking is not None:
            await self.node.asking.introduce()
            self.node.outbox.begin(self.node.ownership.incarnation)
            self.node.router.begin(self.node.ownership.incarnation)
            await self.node.asking.greet()

    def _begin(self) -> None:
        # Sessions and event ids keep the first incarnation when the node has to enter again:
        # what was sent before it lost its lease can still be repaired.
        if self.node.asking is None:
            self.node.sessions.incarnation = self.node.ownership.incarnation
            self.node.router.begin(self.node.ownership.incarnation)

    async def _join(self) -> None:
        """Return once events of other nodes arrive."""
        await self.node.arrived(self._own)
        await self.node.subscriptions.lanes.joined()
        self.node.presence.say(NODE_JOINED)
        uri = str(self.node.transport.uri)
        logger.info("node %s is on the bus at %s", self.node.id, uri, extra={"node": self.node.id, "uri": uri})

    async def _enter_late(self) -> None:
        """Do what was not done at the start, once the broker is there."""
        await self._persist(lambda: self.node.transport.join(self._own))
        await self._persist(self.node.ownership.enter)
        self.node.lease.distrust()  # the broker may come with no memory
        await self._introduce()
        self.node.lease.hurry()

    async def _come_in(self) -> None:
        """Tell the application once events of other nodes arrive and the claims made alone are settled."""
        if not self.node.link.alone:
            return
        await self._settled.wait()
        await self._persist(self._join)
        for holding in list(self.node.ownership.clients.values()):
            self.node.presence.say(CLIENT_CLAIMED, client=holding.name, epoch=holding.epoch)
        self.node.link.joined()

    async def _persist(self, step: Service) -> None:
        """Do *step* again and again until it finds the broker."""
        while True:
            try:
                return await step()
            except TransportUnavailable as error:
                self.node.link.failed(error)
                if not self.node.ownership.entered:  # then nobody else can have our clients
                    self.node.mailboxes.verified()
                await anyio.sleep(RETRY_PAUSE)

    async def _drain(self) -> None:
        """Let what was accepted be handled."""
        self.node.sender.open = False
        mailboxes = [handler.mailbox for handler in self.node.handlers]
        with anyio.move_on_after(self.node.options.close_timeout) as scope:
            await self.node.outbox.flush()
            await self.node.mailboxes.handled(mailboxes)
            await self.node.handler_context.settled()
        if scope.cancelled_caught:
            busy = len(self.node.mailboxes.busy.intersection(mailboxes))
            left = self.node.outbox.unpublished()
            text = "node %s closes with %d events unpublished and %d handlers busy"
            extra = {"node": self.node.id, "unpublished": left, "busy_handlers": busy}
            logger.warning(text, self.node.id, left, busy, extra=extra)

    async def _wind_up(self) -> None:
        """Give up what this node holds, see off or report every event that it has taken in, and take in no more."""
        self.node.presence.say(NODE_LEFT, died=False)
        self.node.lease.end()
        for holding in list(self.node.ownership.clients.values()):
            self.node.ownership.drop(holding)
            self.node.holdings.end(holding, BusClosed("the bus is closed"))
        await self._leave()
        await self.node.errands.settled()
        self.node.sessions.close()
        for handler in list(self.node.handlers):
            for event, sender in self.node.take_off(handler):
                if event.target == self.node.router.address:
                    self.node.router.report(event, event.accepted_by(sender or self.node.id), NODE_UNREACHABLE)
        await self.node.errands.settled()
        await self.node.outbox.settled()
        await self.node.hooks.settled()
        await self.node.outbox.flush()

    async def _give_up(self) -> None:
        """Report what the broker would not take."""
        left = [event for event in self.node.outbox.give_up() if event.type[:1] != RESERVED]
        for event in left:
            self.node.router.report(event, event.accepted_by(self.node.id), BUS_CLOSED)
        if left:
            text = "node %s gave up %d events that the broker has not taken"
            logger.warning(text, self.node.id, len(left), extra={"node": self.node.id, "unpublished": len(left)})
            await self.node.hooks.settled()

    async def _leave(self) -> None:
        with anyio.move_on_after(LEAVE_TIMEOUT, shield=True):
            try:
                await self.node.ownership.leave()
            except EventBusError as error:
                extra = {"node": self.node.id, "error": str(error)}
                logger.warning("node %s could not leave, its lease will end: %s", self.node.id, error, extra=extra)

    def _services(self) -> list[Service]:
        return [
            self.node.delivery.run,
            self.node.errands.run,
            self.node.outbox.run,
            self.node.hooks.run,
            self.node.subscriptions.lanes.run,
            self._tick,
            self._keep_lease,
            self._come_in,
            self.node.presence.watch,
            *self.node.ownership.runners(),
            self.node.hearing.run,
            *self.node.early,
        ]

    async def _tick(self) -> None:
        """Do what is due, in every layer."""
        while True:
            await anyio.sleep(TICK)
            now = monotonic()
            self.node.mailboxes.tend(now)
            self.node.sessions.ease = self.node.mailboxes.ease
            self.node.delivery.tend(now)
            self.node.errands.tend()
            self.node.outbox.tend(now)
            self.node.holdings.tend(now)

    async def _keep_lease(self) -> None:
        if not self.node.ownership.entered:
            await self._enter_late()
        async for lost, taken in self.node.lease.keep():
            for holding, owner in taken:
                self.node.holdings.end(holding, ClientTakenOver(holding.name, owner.node))
            self._settled.set()
            if lost:
                self.node.on_lease_lost.emit()
                self.node.presence.say(NODE_JOINED)


@contextmanager
def _single_exception() -> Iterator[None]:
    """Raise what the task groups within raised: if it is one exception, that one."""
    try:
        yield
    except BaseExceptionGroup as group:
        error: BaseException = group
        while isinstance(error, BaseExceptionGroup) and len(error.exceptions) == 1:
            error = error.exceptions[0]
        raise error from None
