"""The plan of a run: the nodes of clients, the subscriptions, and the streams of events."""

from __future__ import annotations

import random
from collections.abc import Iterator
from typing import Final, Literal, TypeAlias

import msgspec

EVENT_TYPE: Final = "demo.event"
BROADCAST_TYPE: Final = "demo.broadcast"
FEWEST_TOPICS: Final = 4
CLIENTS_PER_TOPIC: Final = 4  # gives a topic about eight subscribers, however many clients there are
TOPICS_PER_CLIENT: Final = 2

Workload: TypeAlias = Literal["mixed", "saturated", "unloaded"]


class Plan(msgspec.Struct, frozen=True):
    """
    The plan of one run, the same for all its nodes.

    Events are numbered per *stream*: from one node to one receiver. Receivers are numbered
    too: first the clients, then the topics, and last the receiver that stands for all nodes.

    Attributes:
        namespace: the namespace of this run alone.
        nodes, clients: how many.
        seconds: for how long the nodes send.
        workload: which events the nodes send.
    """

    namespace: str
    nodes: int
    clients: int
    seconds: float
    workload: Workload = "mixed"

    @property
    def topics(self) -> int:
        """The number of topics."""
        return max(FEWEST_TOPICS, self.clients // CLIENTS_PER_TOPIC)

    @property
    def receivers(self) -> int:
        """The number of receivers: clients, topics, and the one that stands for all nodes."""
        return self.clients + self.topics + 1

    @property
    def everyone(self) -> int:
        """The number of the receiver that stands for all nodes."""
        return self.clients + self.topics

    def stream(self, sender: int, receiver: int) -> int:
        """Return the number of the stream from the node *sender* to *receiver*."""
        return sender * self.receivers + receiver

    def streams_to(self, receivers: list[int]) -> Iterator[int]:
        """Yield the streams of all nodes to *receivers*."""
        for sender in range(self.nodes):
            for receiver in receivers:
                yield self.stream(sender, receiver)

    def ends(self, stream: int) -> tuple[int, int]:
        """Return the node that sends *stream*, and the receiver."""
        return divmod(stream, self.receivers)

    def clients_of(self, node: int) -> range:
        """Return the clients that *node* holds: one in every *nodes*."""
        return range(node, self.clients, self.nodes)

    def topics_of(self, client: int) -> list[int]:
        """Return the topics to which *client* subscribes, as numbers of receivers."""
        return [self.clients + (client + step) % self.topics for step in range(TOPICS_PER_CLIENT)]

    def topic(self, receiver: int) -> str:
        """Return the name of the topic with the number *receiver*."""
        return f"demo.topic.{receiver - self.clients + 1}"

    def rounds(self, sender: int) -> list[int]:
        """Return all clients, in the order in which the node *sender* sends to them, round after round."""
        order = list(range(self.clients))
        random.Random(sender).shuffle(order)
        return order


def node_name(node: int) -> str:
    """Return the id of a node."""
    return f"node-{node + 1}"


def client_name(client: int) -> str:
    """Return the name of a client."""
    return f"demo/client-{client + 1}"
