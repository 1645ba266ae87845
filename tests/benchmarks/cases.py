"""What is measured: the scenarios, as cases for each side."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final, Literal, TypeAlias

import msgspec

Traffic: TypeAlias = Literal[
    "addressed", "across", "hot", "busy", "skewed", "joined", "slow", "broadcast", "topic", "paced", "request"
]
Consumer: TypeAlias = Literal["plain", "async", "iterate"]

EVERY: Final = (
    "eventbus",
    "redis-py",
    "redis-py-batched",
    "broadcaster",
    "litestar",
    "channels-pubsub",
    "channels-core",
    "nats",
)
ADAPTED: Final = (
    "broadcaster",
    "broadcaster-eventbus",
    "litestar",
    "litestar-eventbus",
    "channels-core",
    "channels-pubsub",
    "channels-eventbus",
    "socketio",
    "socketio-eventbus",
)
"""Frameworks on their own backends for Redis, and on the bus."""
RIVALS: Final = ("eventbus", "redis-py-batched", "broadcaster", "litestar", "nats")
CEILINGS: Final = ("raw-protocol", "prototype")
"""What can be reached by less: no guarantees, no directory."""
FASTEST: Final = ("eventbus", "redis-py-batched", "nats")
BUS: Final = ("eventbus",)
MEMORY: Final = ("eventbus-memory",)
IN_PROCESS: Final = ("eventbus-memory", "nothing")
MIXED: Final = -1
SIZES: Final = (16, 256, 4096, 65_536, 262_144, 1_048_576)


class Case(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """
    One thing to measure.

    Attributes:
        scenario: its row in the tables.
        variant: what tells it apart from others of its scenario.
        traffic: who sends to whom; see :mod:`tests.benchmarks.sending`.
        nodes, clients: how many; clients are spread evenly.
        consumer: how eventbus hands events out.
        size: bytes of data of an event; 0: a dict of about a hundred; -1: mixed, see :class:`Mixed`.
        senders: sends at a time; 0: what suits the side.
        uvloop: whether the nodes run on it.
        options: of eventbus.
    """

    scenario: str
    traffic: Traffic
    variant: str = ""
    nodes: int = 3
    clients: int = 15
    consumer: Consumer = "plain"
    size: int = 0
    senders: int = 0
    uvloop: bool = False
    options: dict[str, Any] = {}


class Scenario(msgspec.Struct, frozen=True):
    """
    A question, the cases that answer it, and the sides that are asked.

    Attributes:
        reps: runs of each case on each side, if no other number is asked for.
        seconds: for which each sends.
    """

    name: str
    question: str
    peers: tuple[str, ...]
    cases: tuple[Case, ...]
    reps: int = 3
    seconds: float = 1.0


def _scenario(
    name: str, question: str, peers: tuple[str, ...], *cases: Case, reps: int = 3, seconds: float = 1.0
) -> Scenario:
    return Scenario(name, question, peers, cases, reps, seconds)


# What decides: five runs of two seconds each.
_LONG: Final[dict[str, Any]] = {"reps": 5, "seconds": 2.0}
# Of the same case on the same day, latencies differ by a factor of two and more.
_MANY: Final[dict[str, Any]] = {"reps": 15, "seconds": 2.0}


def _scenarios() -> Iterator[Scenario]:
    yield _scenario(
        "seed",
        "3 nodes, 15 clients: every node sends to all clients in turn",
        (*EVERY, *CEILINGS),
        Case(scenario="seed", traffic="addressed"),
        **_LONG,
    )
    yield _scenario(
        "broadcast",
        "every node sends to all nodes",
        (*EVERY, *CEILINGS),
        Case(scenario="broadcast", traffic="broadcast"),
        **_LONG,
    )
    yield _scenario(
        "topic",
        "one topic, 5 subscribers on each node",
        RIVALS,
        Case(scenario="topic", traffic="topic"),
        **_LONG,
    )
    yield _scenario(
        "adapters",
        "frameworks on their own backend and on the bus: to one client, and to one group",
        ADAPTED,
        Case(scenario="adapters", traffic="addressed", variant="one client"),
        Case(scenario="adapters", traffic="topic", variant="a group"),
        **_LONG,
    )
    yield _scenario(
        "hot",
        "all nodes send to the clients of one, which sends too (busy) or not",
        FASTEST,
        Case(scenario="hot", traffic="hot", variant="receives only"),
        Case(scenario="hot", traffic="busy", variant="busy"),
        **_LONG,
    )
    yield _scenario(
        "uneven",
        "uneven load: skewed clients, mixed sizes, a node that joins",
        FASTEST,
        Case(scenario="uneven", traffic="skewed", variant="skewed clients"),
        Case(scenario="uneven", traffic="addressed", variant="mixed sizes", size=MIXED),
        Case(scenario="uneven", traffic="joined", variant="a late joiner", nodes=4),
    )
    yield _scenario(
        "slow",
        "one client in three takes 2 ms for an event",
        BUS,
        Case(scenario="slow", traffic="slow", clients=18, consumer="async"),
    )
    yield _scenario(
        "steady",
        "the seed's case for longer: memory while saturated",
        BUS,
        Case(scenario="steady", traffic="addressed"),
        reps=1,
        seconds=12.0,
    )
    yield _scenario(
        "handlers",
        "the seed's case by the kind of consumer",
        (*BUS, *MEMORY),
        *(
            Case(scenario="handlers", traffic="addressed", variant=name, consumer=consumer)
            for name, consumer in _CONSUMERS
        ),
    )
    yield _scenario(
        "latency",
        "one event every 2 ms to a client of another node",
        ("eventbus", "redis-py", "redis-py-batched", "broadcaster", "nats"),
        Case(scenario="latency", traffic="paced", senders=1),
        **_MANY,
    )
    yield _scenario(
        "request",
        "requests to clients of another node, so many at a time",
        ("eventbus", "redis-py", "nats"),
        *(Case(scenario="request", traffic="request", variant=f"{n} at a time", senders=n) for n in (1, 64)),
        **_MANY,
    )
    yield _scenario(
        "memory",
        "one process, no broker",
        IN_PROCESS,
        Case(scenario="memory", traffic="addressed", variant="one node", nodes=1, clients=5),
        Case(scenario="memory", traffic="across", variant="across nodes", nodes=2, clients=10),
    )
    yield _scenario(
        "nodes",
        "more nodes, 5 clients on each, all events to other nodes",
        IN_PROCESS,
        *(
            Case(scenario="nodes", traffic="across", variant=f"{n} nodes", nodes=n, clients=5 * n)
            for n in (2, 4, 8, 16, 32)
        ),
    )
    yield _scenario(
        "clients",
        "more clients on 3 nodes, all events to other nodes",
        IN_PROCESS,
        *(Case(scenario="clients", traffic="across", variant=f"{n:,} clients", clients=n) for n in (15, 1000, 100_000)),
    )
    yield _scenario(
        "sizes",
        "larger events, all to other nodes",
        ("eventbus", "redis-py", "redis-py-batched"),
        *(
            Case(
                scenario="sizes",
                traffic="across",
                variant=size_name(n),
                size=n,
                senders=128 if n <= 4096 else 16,
                options={"max_event_size": 2 * 2**20},
            )
            for n in SIZES
        ),
    )
    yield _scenario(
        "uvloop",
        "the seed's case, broadcast and latency on uvloop",
        FASTEST,
        Case(scenario="uvloop", traffic="addressed", variant="seed", uvloop=True),
        Case(scenario="uvloop", traffic="broadcast", variant="broadcast", uvloop=True),
        Case(scenario="uvloop", traffic="paced", variant="latency", senders=1, uvloop=True),
    )
    secret = {"secret": "benchmark" * 4}
    yield _scenario(
        "sealed",
        "the seed's case with a secret, and encrypted",
        ("eventbus",),
        Case(scenario="sealed", traffic="addressed", variant="without a secret"),
        Case(scenario="sealed", traffic="addressed", variant="authenticated", options=secret),
        Case(scenario="sealed", traffic="addressed", variant="encrypted", options={**secret, "encrypt": True}),
        **_MANY,
    )


_CONSUMERS: Final[tuple[tuple[str, Consumer], ...]] = (
    ("function", "plain"),
    ("async def", "async"),
    ("async for", "iterate"),
)


def size_name(size: int) -> str:
    """Return *size* as people write it."""
    for unit, name in ((2**20, "MiB"), (2**10, "KiB")):
        if size >= unit:
            return f"{size // unit} {name}"
    return f"{size} B"


SCENARIOS: Final = {scenario.name: scenario for scenario in _scenarios()}
