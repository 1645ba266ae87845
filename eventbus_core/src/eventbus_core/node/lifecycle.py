"""The life of a node: it joins, its tasks run, and in the end it hands over its clients and leaves."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager, suppress
from time import monotonic
from typing import Final

import anyio
from anyio.abc import TaskGroup

from eventbus_core.backend import ALL_NODES, node_partition
from eventbus_core.concurrency.backoff import retry_pause
from eventbus_core.concurrency.notifier import Notifier
from eventbus_core.concurrency.service_group import Service
from eventbus_core.errors import BusClosed, EventBusError, TransportUnavailable
from eventbus_core.mailbox.mailbox import Leftover
from eventbus_core.membership.presence import CLIENT_CLAIMED, NODE_JOINED, NODE_LEFT
from eventbus_core.model.event import Event
from eventbus_core.model.names import RESERVED
from eventbus_core.model.reports import Reason
from eventbus_core.model.state import Phase, tasks_cancelled
from eventbus_core.node.node import LocalNode
from eventbus_core.observability.log import get_logger
from eventbus_core.outbox.broker_status import Ability
from eventbus_core.routing.undeliverable import UNDELIVERABLE

logger = get_logger("eventbus")

LEAVE_TIMEOUT: Final = 2.0
"""Seconds for telling the directory that this node leaves; the next four are for a step each."""
INTERRUPT_TIMEOUT: Final = 0.25
FORWARD_TIMEOUT: Final = 1.0
FLUSH_TIMEOUT: Final = 0.5
SETTLE_TIMEOUT: Final = 1.0
HOOK_TIMEOUT: Final = 1.0


class Lifecycle:
    """Runs *node* once, within :meth:`run`."""

    def __init__(self, node: LocalNode) -> None:
        self.node = node
        self._own = [node_partition(node.id), ALL_NODES]
        self._settled = False  # the claims that were made alone
        self._settling = Notifier()
        self._close_until = 0.0  # the end of ``close_timeout``
        node.ownership.entered_first.connect(self._begin)
        node.lease.kept.connect(self._on_kept)

    @asynccontextmanager
    async def run(self) -> AsyncIterator[None]:
        """
        Be on the bus within the block; when it begins, events of other nodes arrive.

        When the block ends, nothing more is accepted, accepted events are handled, for at most ``close_timeout`` and
        not if the block raised, and clients are released. An exception of a task of the bus ends the block, and is
        raised instead; so do ``KeyboardInterrupt`` and ``SystemExit`` of a handler or hook.

        Raises:
            BusClosed: other code cancelled a task of the bus.
            NodeAlreadyPresent, NamespaceMismatch, ConfigurationError, TransportUnavailable: nothing is left open.
        """
        failure: BaseException | None = None
        self.node.state.move(Phase.JOINING)
        with _single_exception():
            async with self.node.transport:
                try:
                    await self._enter()
                    async with anyio.create_task_group() as group, self._served(group):
                        if not self.node.state.alone:
                            await self._introduce()
                            await self._join()
                            self.node.state.move(Phase.OPEN)
                        try:
                            yield
                        except anyio.get_cancelled_exc_class():
                            raise  # perhaps by our own task group, which then has the reason
                        except BaseException as error:
                            failure = error
                        else:
                            await self._finish()
                finally:
                    await self._leave()
        failure = self.node.services.exit or failure
        if failure is not None:
            raise failure

    @asynccontextmanager
    async def _served(self, group: TaskGroup) -> AsyncIterator[None]:
        """
        Run the tasks of the bus within the block, and wind up after it.

        Winding up is a task of its own: a cancellation from outside, which may pass every shield, reaches only the
        block, and *group* waits until this task and those of the bus have ended.
        """
        scope = anyio.CancelScope(shield=True)
        self.node.services.serve(group)
        self.node.entry.open()
        winding_up = anyio.CancelScope(shield=True)

        async def serve() -> None:
            try:
                with scope:
                    async with anyio.create_task_group() as services:
                        for service in self._services():
                            services.start_soon(service)
                        await self.node.services.run_in(services, self._tick)
                if not scope.cancel_called:
                    raise tasks_cancelled()
            except anyio.get_cancelled_exc_class() as error:
                self._crash()
                # Not cancelled(): as a task group ends, anyio may count a cancellation by asyncio as one of its own.
                if self.node.services.host_cancelled():
                    raise
                raise tasks_cancelled() from error
            except BaseException:
                self._crash()
                raise
            finally:
                self.node.services.end()
                winding_up.cancel()  # it needs the tasks of the bus

        async def wind_up() -> None:
            state = self.node.state
            try:
                with winding_up:
                    if state.was_open and not state.crashed:
                        await self._wind_up()
                state.move(Phase.CLOSED)
                with anyio.move_on_after(HOOK_TIMEOUT, shield=True):
                    if state.was_open and not state.crashed:
                        self._give_up(self.node.give_up())
                        await self.node.hooks.runner.settled()
            finally:  # also if the event loop ends this task
                scope.cancel()

        group.start_soon(serve)
        try:
            yield
        finally:
            self.node.state.move(Phase.LEAVING)
            self._close_until = self._close_until or monotonic() + self.node.options.close_timeout
            self.node.deadlines.end()
            self.node.entry.close()
            group.start_soon(wind_up)

    def _crash(self) -> None:
        """End every call that waits, and every handle, as the tasks of the bus have ended."""
        self.node.state.crash()
        self.node.deadlines.end()
        for held in list(self.node.ownership.clients.values()):
            self.node.client_lifecycle.end(held, BusClosed("the bus is closed: a task of it has ended"))

    async def _enter(self) -> None:
        """Enter the namespace; without a broker be alone, if ``wait_for_broker`` is off."""
        try:
            await self.node.transport.join(self._own)
            await self.node.ownership.enter()
        except TransportUnavailable as error:
            if self.node.options.wait_for_broker:
                raise
            self.node.state.move(Phase.ALONE)
            self.node.status.failed(Ability.READ, error)

    async def _introduce(self) -> None:
        if self.node.peers is not None:
            await self.node.peers.introduce()
            self.node.outbox.begin(self.node.ownership.incarnation)
            self.node.begin()
            await self.node.peers.greet()

    def _begin(self) -> None:
        # Sessions and event ids keep the first incarnation when the node has to enter again:
        # frames that it sent before it lost its lease can still be retransmitted.
        if self.node.peers is None:
            self.node.sessions.begin(self.node.ownership.incarnation)
            self.node.begin()

    async def _join(self) -> None:
        """Return once events of other nodes arrive."""
        await self.node.lanes.joined()  # first, so that one question to the other nodes is about all partitions
        await self.node.joining.joined(())
        self.node.presence.say(NODE_JOINED)
        uri = str(self.node.transport.uri)
        logger.info("node %s is on the bus at %s", self.node.id, uri, extra={"node": self.node.id, "uri": uri})

    async def _enter_late(self) -> None:
        """Enter, once the broker that was not there at the start is."""
        await self._persist(lambda: self.node.transport.join(self._own))
        await self._persist(self.node.ownership.enter)
        self.node.lease.distrust()  # the broker may have lost its memory
        await self._introduce()
        self.node.lease.hurry()

    async def _come_in(self) -> None:
        """Tell the application once events of other nodes arrive and the claims made alone are settled."""
        if not self.node.state.alone:
            return
        while not self._settled:
            await self._settling.wait()
        await self._persist(self._join)
        for held in list(self.node.ownership.clients.values()):
            self.node.presence.say(CLIENT_CLAIMED, client=held.name, epoch=held.epoch)
        if self.node.state.alone:  # else it is draining, or leaving
            self.node.state.move(Phase.OPEN)
        if self.node.state.accepting:
            self.node.status.succeeded(Ability.READ)

    async def _persist(self, step: Service) -> None:
        """Repeat *step* until it reaches the broker."""
        while True:
            try:
                return await step()
            except TransportUnavailable as error:
                self.node.status.failed(Ability.READ, error)
                if not self.node.ownership.entered:  # then no other node can have our clients
                    self.node.pool.thaw()
                await anyio.sleep(retry_pause())

    async def _finish(self) -> None:
        """Wait until accepted events are handled."""
        self.node.state.move(Phase.FINISHING)
        self._close_until = monotonic() + self.node.options.close_timeout
        mailboxes = [handler.mailbox for handler in self.node.handlers]
        self.node.consumers.withdraw()
        if self.node.dispatchers is not None:
            self.node.dispatchers.withdraw()
        with anyio.move_on_after(self.node.options.close_timeout) as scope:
            await self.node.taken()
            if self.node.history is not None:
                await self.node.pool.limits.handled([self.node.history.shares])
            await self.node.pool.limits.handled(mailboxes)
            await self.node.scheduler.settled()
            await self.node.queues.drained()
            await self.node.consumers.drain()
            if self.node.dispatchers is not None:
                await self.node.dispatchers.finish()
        if scope.cancelled_caught:
            busy = len(self.node.pool.limits.busy.intersection(mailboxes))
            left, queued = self.node.unpublished(), self.node.queues.waiting
            text = (
                "node %s: closing with %d unpublished events, %d busy handlers and %d unhandled events of queues, "
                "as close_timeout has passed"
            )
            extra = {"node": self.node.id, "unpublished": left, "busy_handlers": busy, "queued_events": queued}
            logger.warning(text, self.node.id, left, busy, queued, extra=extra)

    async def _wind_up(self) -> None:
        """
        Cancel handlers, release every client, forward or report every event taken in, and take in no more.

        The senders of these events are told that they need not keep them, once the broker has all that follows from
        them. If the broker does not take it in time, they are told nothing, and report the events themselves. Only this
        node can report those of a slow consumer, as the senders got their credit back before; so reports may take what
        is left of ``close_timeout``.
        """
        node = self.node
        reports = node.reports.sent
        node.presence.say(NODE_LEFT, died=False)
        with anyio.move_on_after(INTERRUPT_TIMEOUT):
            await node.scheduler.interrupt()
        await node.adoption.hand_over()
        for held in list(node.ownership.clients.values()):
            node.ownership.drop(held)
            node.client_lifecycle.end(held, BusClosed("the bus is closed"))
        with anyio.move_on_after(FORWARD_TIMEOUT):
            await node.ownership.settled()
            with suppress(EventBusError):  # it is tried again in the end
                await node.ownership.leave()
            await node.forwarder.settled()
        node.sessions.stop()
        node.forwarder.give_up()
        for handler in node.handlers:
            self._report_left(node.handlers.take_off(handler))
        node.requests.leave()
        if queued := node.queues.give_up():
            text = "node %s: gave up %d events of queues that no consumer handled; each is reported as undeliverable"
            logger.warning(text, node.id, queued, extra={"node": node.id, "queued_events": queued})
        left = self._close_until - monotonic() if node.reports.sent > reports else 0.0
        with anyio.move_on_after(max(SETTLE_TIMEOUT, left)):
            with anyio.move_on_after(FLUSH_TIMEOUT):
                await node.taken()
            await node.outbox.settled()
            self._give_up(node.finish())  # what still waits, for nodes that hang or are slow
            await node.outbox.settled()
            node.sessions.close()
            await node.outbox.settled()
            await node.hooks.runner.settled()

    def _report_left(self, left: Iterable[Leftover]) -> None:
        """Report those events that a handler left which were for this node alone."""
        node = self.node
        for one in left:
            if one.event.target == node.channel.address:
                node.reports.report(one.event, one.event.accepted_by(one.sender or node.id), Reason.NODE_UNREACHABLE)
            one.settle()

    def _give_up(self, not_taken: Sequence[Event]) -> None:
        """Report events that the broker has not taken."""
        if unsent := sum(event.type == UNDELIVERABLE for event in not_taken):
            text = "node %s: could not tell other nodes that %d of their events were not handled, as the broker is away"
            logger.warning(text, self.node.id, unsent, extra={"node": self.node.id, "reports": unsent})
        left = [event for event in not_taken if event.type[:1] != RESERVED]
        for event in left:
            self.node.reports.report(event, event.accepted_by(self.node.id), Reason.BUS_CLOSED)
        if left:
            text = "node %s: gave up %d events that the broker has not taken; each is reported as undeliverable"
            logger.warning(text, self.node.id, len(left), extra={"node": self.node.id, "unpublished": len(left)})

    async def _leave(self) -> None:
        reason = f"no answer within {LEAVE_TIMEOUT:g} s"
        with anyio.move_on_after(LEAVE_TIMEOUT, shield=True):
            try:
                await self.node.ownership.leave()
            except EventBusError as error:
                reason = str(error)
            else:
                return
        text = "node %s: could not leave the directory, its lease will expire: %s"
        logger.warning(text, self.node.id, reason, extra={"node": self.node.id, "error": reason})

    def _services(self) -> list[Service]:
        return [
            self.node.receiver.run,
            self._keep_lease,
            self._come_in,
            *([] if self.node.history is None else self.node.history.services()),
        ]

    async def _tick(self) -> None:
        """Do what is due, in every layer, until the bus is closed."""
        while True:
            await self.node.pace.pause(rest=not self.node.has_due())
            now = monotonic()
            self.node.slow_consumers.tend(now)
            self.node.sessions.set_ease(self.node.slow_consumers.ease)
            self.node.receiver.tend(now)
            self.node.lease.tend(now)
            self.node.detector.tend()
            self.node.outbox.tend(now)
            self.node.lost_nodes.tend(now)
            self.node.queues.tend(now)
            self.node.consumers.tend()
            self.node.client_lifecycle.tend(now)

    async def _keep_lease(self) -> None:
        if not self.node.ownership.entered:
            await self._enter_late()
        self.node.lease.begin()

    def _on_kept(self, lost: bool) -> None:
        self._settled = True
        self._settling.notify()
        if lost:
            self.node.queues.announce()
            self.node.hooks.on_lease_lost.emit()
            self.node.presence.say(NODE_JOINED)


@contextmanager
def _single_exception() -> Iterator[None]:
    """Raise a single exception of the task groups in the block as itself, without the group around it."""
    try:
        yield
    except BaseExceptionGroup as group:
        error: BaseException = group
        while isinstance(error, BaseExceptionGroup) and len(error.exceptions) == 1:
            error = error.exceptions[0]
        raise error from None
