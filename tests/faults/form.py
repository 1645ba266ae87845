"""How long and how hard: ``EVENTBUS_FAULTS`` is ``short`` or ``long``."""

from __future__ import annotations

import os
from typing import Final

import attrs

CHOSEN: Final = os.environ.get("EVENTBUS_FAULTS", "")


@attrs.frozen
class Form:
    """
    The measures of a run; times in seconds.

    Attributes:
        rate: events that the nodes together send a second.
        shared: the same, where the nodes share the machine with many servers.
        calm: for how long they send before the fault, and after all is well again.
        hang: for how long the broker or a line is stopped.
        cuts: for how long connections are cut, ten times a second.
        forgotten: for how long a sender is stopped, until its receivers have dropped its sessions.
        hot: for how long all send as fast as they can to one node.
        lease: of the nodes, where it has to end.
        churn: clients that connect and leave a second, all nodes together.
        growth: MiB that a process may grow from one half of the hot time to the other.
        p99: milliseconds from accepted to handled in the hot time, for 99 of 100 events.
        crowd: clients of one node, where they are many.
        dribble: events a second while a proxy delivers one byte at a time.
        resuming: clients that come back to retained topics at once.
        moving: clients of servers that are replaced one by one.
    """

    rate: int
    shared: int
    calm: float
    hang: float
    cuts: float
    forgotten: float
    hot: float
    lease: float
    churn: int
    crowd: int
    dribble: int
    resuming: int
    moving: int
    growth: float
    p99: float


_FORMS: Final = {
    "short": Form(
        rate=3_000,
        shared=3_000,
        calm=1.0,
        hang=8.0,
        cuts=2.0,
        forgotten=14.0,
        hot=5.0,
        lease=4.0,
        churn=200,
        crowd=5_000,
        dribble=150,
        resuming=100,
        moving=12,
        growth=16.0,
        p99=10_000.0,
    ),
    "long": Form(
        rate=20_000,
        shared=5_000,
        calm=5.0,
        hang=10.0,
        cuts=5.0,
        forgotten=35.0,
        hot=30.0,
        lease=10.0,
        churn=1_000,
        crowd=20_000,
        dribble=300,
        resuming=1_000,
        moving=300,
        growth=16.0,
        p99=1_000.0,
    ),
}
FORM: Final = _FORMS[CHOSEN or "short"]
