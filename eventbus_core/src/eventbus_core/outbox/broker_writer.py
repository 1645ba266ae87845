"""Writes frames to the broker, and says what became of them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, NamedTuple

from eventbus_core.backend import Transport
from eventbus_core.errors import EventBusError, PartitionRefused
from eventbus_core.observability.log import LogLimit, get_logger
from eventbus_core.outbox.broker_status import Ability, BrokerStatus
from eventbus_core.outbox.write import Write

logger = get_logger("eventbus")

LOG_REFUSALS_EVERY: Final = 60.0


class Written(NamedTuple):
    """
    The outcome of a write.

    Attributes:
        receivers: how many receivers each frame had; ``None`` if that is unknown.
        refused: the places of the frames that the broker refuses.
    """

    receivers: Sequence[int] | None
    refused: Sequence[int]


class BrokerWriter:
    """
    Publishes frames for the outbox.

    Attributes:
        failures: writes that the transport failed; each is made again.
    """

    def __init__(self, transport: Transport, status: BrokerStatus) -> None:
        self.failures = 0
        self._transport = transport
        self._status = status
        self._refusals = LogLimit(LOG_REFUSALS_EVERY)

    async def write(self, write: Write, route: str) -> Written | None:
        """Publish *write*, whose frames all go by *route*; return ``None`` if that failed and is to be repeated."""
        refused: list[int] = []
        try:
            receivers = await write.publish(self._transport)
        except EventBusError as error:
            if not isinstance(error, PartitionRefused) or len(error.receivers) != len(write.frames):
                self.failures += 1
                self._status.failed(Ability.WRITE, error, route)
                return None
            receivers = error.receivers if self._transport.capabilities.counts_receivers else None
            refused = [place for place, count in enumerate(error.receivers) if count < 0]
            self._log(len(refused), error)
        self._status.succeeded(Ability.WRITE, route)
        # After a failure the frames may have arrived before: a count of now says nothing of then.
        return Written(None if write.repeated else receivers, refused)

    def _log(self, refused: int, error: PartitionRefused) -> None:
        if self._refusals.allows():
            text = (
                "node %s: the broker refuses %d frames; their events are reported as undeliverable: %s; "
                "similar messages are suppressed for %g s"
            )
            extra = {"node": self._transport.node, "error": str(error)}
            logger.warning(text, self._transport.node, refused, error, LOG_REFUSALS_EVERY, extra=extra)
