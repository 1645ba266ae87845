from __future__ import annotations

from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from eventbus_core.cli.demo.plan import Plan, client_name, node_name
from eventbus_core.model.names import check_client, check_identifier, check_topic

plans = st.builds(Plan, st.just("demo"), st.integers(1, 9), st.integers(1, 60), st.just(1.0))


@given(plans)
def test_each_client_has_one_node_and_nodes_have_equal_shares(plan: Plan) -> None:
    """The nodes' clients are all clients, none twice, and no node has two more than another."""
    shares = [list(plan.clients_of(node)) for node in range(plan.nodes)]
    assert sorted(client for share in shares for client in share) == list(range(plan.clients))
    assert max(map(len, shares)) - min(map(len, shares)) <= 1


@given(plans)
def test_streams_are_told_apart(plan: Plan) -> None:
    """Each pair of a sender and a receiver has a stream of its own, which identifies both."""
    ends = [(sender, receiver) for sender in range(plan.nodes) for receiver in range(plan.receivers)]
    assert [plan.ends(plan.stream(*pair)) for pair in ends] == ends
    assert len({plan.stream(*pair) for pair in ends}) == len(ends)


@given(plans, st.data())
def test_a_client_subscribes_to_a_few_topics(plan: Plan, data: st.DataObject) -> None:
    """The topics of a client are different ones, and are receivers of their own."""
    client = data.draw(st.integers(0, plan.clients - 1))
    topics = plan.topics_of(client)
    assert 0 < len({plan.topic(topic) for topic in topics}) == len(topics) < plan.topics
    assert all(plan.clients <= topic < plan.everyone for topic in topics)


@given(plans)
def test_names_keep_the_rules(plan: Plan) -> None:
    """Whatever the size of a demo, the bus takes its names."""
    check_identifier("node", node_name(plan.nodes))
    check_client(client_name(plan.clients))
    for topic in range(plan.clients, plan.everyone):
        check_topic(plan.topic(topic))


@given(plans)
def test_a_topic_has_a_few_subscribers_however_many_clients_there_are(plan: Plan) -> None:
    """The number of subscribers of a topic is bounded, so that events to topics do not outnumber events to clients."""
    subscribers = Counter(topic for client in range(plan.clients) for topic in plan.topics_of(client))
    assert max(subscribers.values()) <= 10


@given(plans)
def test_a_round_goes_to_every_client_once(plan: Plan) -> None:
    """A node spreads its events evenly over all clients."""
    for sender in range(plan.nodes):
        assert sorted(plan.rounds(sender)) == list(range(plan.clients))
