from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from eventbus_core.backend import ALL_NODES, Node, lane_partition, node_partition
from eventbus_core.options import BusOptions
from eventbus_core.session.incoming import Ready
from eventbus_core.session.protocol import ASK, AT, GRANT, MISSING, NOT_KEPT, RECEIVER_LEFT, WHERE
from eventbus_core.session.registry import Sessions
from eventbus_core.session.wire import Header, Note, SessionPosition, pack, unpack
from tests.session.world import (
    EVENT,
    LIMIT,
)

forged_notes = st.builds(
    Note,
    kind=st.sampled_from([GRANT, ASK, WHERE, AT, MISSING, NOT_KEPT, RECEIVER_LEFT, "?"]),
    session=st.integers(0, 4),
    incarnation=st.integers(0, 3),
    first=st.integers(0, 8) | st.integers(2**62 - 8, 2**62),
    last=st.integers(0, 8) | st.integers(2**62 - 8, 2**62),
    positions=st.lists(
        st.builds(
            SessionPosition,
            partition=st.sampled_from(["all", "l:0", "l:63", "l:64", "l:007", "n:a", "n:evil", "n:b", "", "x" * 300]),
            session=st.integers(0, 4),
            first=st.integers(0, 8) | st.integers(2**62 - 8, 2**62),
            position=st.integers(0, 100) | st.integers(2**62 - 8, 2**62),
        ),
        max_size=3,
    ).map(tuple),
)
forged_headers = st.builds(
    Header,
    namespace=st.just("default"),
    node=st.sampled_from(["evil", "b"]),
    incarnation=st.integers(0, 3),
    session=st.integers(0, 3),
    partition=st.sampled_from(["all", "l:0", "n:a", "x"]),
    first=st.integers(0, 8) | st.integers(2**62 - 8, 2**62),
    count=st.integers(0, 3),
    position=st.integers(0, 100) | st.integers(2**62 - 8, 2**62),
    notes=st.lists(forged_notes, max_size=4),
)


@given(st.lists(forged_headers, max_size=30))
@settings(max_examples=200)
def test_g12_no_forged_frame_stops_the_sessions(headers: list[Header]) -> None:
    """Whatever headers and notes say, no error is raised, all answers can be sent, and no session is made up."""
    sessions = Sessions(BusOptions(), "a", 1, ordered=False)
    sessions.joined([ALL_NODES], [Node("a", 1, 1.0), Node("b", 1, 1.0)])
    for partition in (ALL_NODES, lane_partition(0), node_partition("b")):
        sessions.outgoing(partition).pack([EVENT] * 3, 18, [], 0.0)
    for step, header in enumerate(headers):
        data = pack(header, [EVENT] * header.count)
        for item in sessions.receive(*unpack(data, LIMIT), step * 0.3):
            if isinstance(item, Ready):
                item.ticket.expect(0)
        list(sessions.tend(step * 0.3 + 0.1))
        sessions.interrupted()
        for node, notes in sessions.take_notes().items():
            sessions.letters.pack(node_partition(node), notes)
        sessions.take_frames()
        for partition in sessions._outgoing:
            sessions.outgoing(partition).due_probe(step * 0.3, waiting=True, slow_consumer_timeout=0.1)
    assert set(sessions._outgoing) == {"all", "l:0", "n:b"}
