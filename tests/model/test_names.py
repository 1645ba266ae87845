from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from eventbus_core.backend import ALL_NODES, lane_partition, node_partition
from eventbus_core.errors import InvalidName
from eventbus_core.model.names import (
    EVERYONE,
    MAX_IDENTIFIER,
    MAX_NAME,
    check_client,
    check_identifier,
    check_pattern,
    check_topic,
    node_address,
    topic_address,
)
from tests import strategies

CHECKS: dict[str, Callable[[Any], str]] = {
    "client": check_client,
    "topic or event type": check_topic,
    "pattern": check_pattern,
    "node": lambda name: check_identifier("node", name),
}

# Mostly of the characters that the rules are about.
odd_names = st.text(st.sampled_from("ab.*>/@#$ \t\n:-_é\u00ad\u3000\ud800") | st.characters(), max_size=8)


def _accepts(kind: str, name: Any) -> bool:
    try:
        assert CHECKS[kind](name) == name
    except InvalidName:
        return False
    return True


@given(strategies.clients)
def test_accepts_clients_with_and_without_tenant(name: str) -> None:
    """Every name or tenant/name of printable characters is a client's."""
    assert check_client(name) == name


@given(strategies.topics)
def test_every_topic_is_a_pattern(topic: str) -> None:
    """What can be published to can be subscribed to."""
    assert check_topic(topic) == topic
    assert check_pattern(topic) == topic


@given(strategies.patterns)
def test_accepts_patterns_whose_wildcards_are_whole_tokens(pattern: str) -> None:
    """A topic in which tokens were replaced by * and the last by > is a pattern."""
    assert check_pattern(pattern) == pattern


@given(strategies.identifiers)
def test_accepts_identifiers(name: str) -> None:
    """Tokens of letters, digits, _ and - joined by dots name a node or a namespace."""
    assert check_identifier("node", name) == name


@given(odd_names)
@example("")
@example("a/b/c")
@example("a..b")
@example("a.>.b")
@example("a\n")
@example("@a")
@example("#a")
@example("$a")
@example("a*")
@example("a.*>")
@example("**")
def test_names_are_accepted_by_the_rules_and_refused_with_invalid_name_alone(name: str) -> None:
    """A check accepts exactly the names that its rules describe, and raises nothing but InvalidName."""
    clean = bool(name) and all(char.isprintable() and char != " " for char in name) and len(name.encode()) <= 255
    plain = clean and not set("*>") & set(name)
    whole = clean and "" not in name.split(".")
    tokens = name.split(".")
    simple = all(token and token.isascii() and token.replace("_", "a").replace("-", "a").isalnum() for token in tokens)

    assert _accepts("client", name) == (
        plain and name[0] not in "@#$" and name.count("/") <= 1 and "" not in name.split("/")
    )
    assert _accepts("topic or event type", name) == (plain and whole and name[0] != "$")
    assert _accepts("pattern", name) == (
        whole and all(token in {"*", ">"} or not set("*>") & set(token) for token in tokens) and ">" not in tokens[:-1]
    )
    assert _accepts("node", name) == simple


@given(strategies.clients, strategies.identifiers, strategies.topics)
def test_g1_a_client_never_passes_for_a_node_a_topic_or_everyone(client: str, node: str, topic: str) -> None:
    """The addresses of clients, nodes, topics and everyone are four disjoint sets."""
    addresses = [client, node_address(node), topic_address(topic), EVERYONE]
    assert len(set(addresses)) == 4
    assert not any(_accepts("client", address) for address in addresses[1:])


@given(strategies.identifiers, st.integers(0, 65_535))
def test_g12_partitions_have_distinct_names_of_plain_characters(node: str, lane: int) -> None:
    """Whatever a node is called, its partition is no lane, not the one of all nodes, and has one colon at most."""
    names = [node_partition(node), lane_partition(lane), ALL_NODES]
    assert len(set(names)) == 3
    assert all(name.count(":") <= 1 and name.isascii() and " " not in name for name in names)


@pytest.mark.parametrize("kind", CHECKS)
def test_length_is_limited_in_bytes(kind: str) -> None:
    limit = MAX_IDENTIFIER if kind == "node" else MAX_NAME
    assert _accepts(kind, "a" * limit)
    assert not _accepts(kind, "a" * (limit + 1))
    assert not _accepts(kind, "é" * (limit // 2 + 1))


@pytest.mark.parametrize("kind", CHECKS)
@pytest.mark.parametrize("value", [None, 7, b"a", ("a",)], ids=repr)
def test_values_that_are_not_text_are_refused(kind: str, value: object) -> None:
    assert not _accepts(kind, value)


@pytest.mark.parametrize("kind", CHECKS)
def test_the_error_names_the_name_and_its_fault_in_one_line(kind: str) -> None:
    with pytest.raises(InvalidName, match=f"'a b' is not a valid {kind}: "):
        CHECKS[kind]("a b")
    with pytest.raises(InvalidName) as caught:
        CHECKS[kind]("a\n" * 10_000)
    assert len(str(caught.value)) < 250
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("topic", ["$sys.loss", "$"])
def test_topics_of_the_bus_itself_cannot_be_published_to(topic: str) -> None:
    with pytest.raises(InvalidName, match="reserved for the bus"):
        check_topic(topic)
