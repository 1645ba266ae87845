"""A transport says that frames may be lost, of all partitions or of some: which senders are asked where they are."""

from __future__ import annotations

import pytest

from eventbus_core.backend import ALL_NODES, lane_partition, node_partition
from eventbus_core.session.protocol import MISSING, WHERE
from eventbus_core.session.wire import unpack
from tests.session.world import LANE, LIMIT, World, settle

OTHER = lane_partition(9)
OWN = node_partition("b")


@pytest.mark.parametrize(
    "partitions", [None, {LANE}, {OWN}, {LANE, OWN}, set[str]()], ids=["all", "lane", "own", "both", "none"]
)
def test_only_senders_to_the_partitions_concerned_are_asked(partitions: set[str] | None) -> None:
    world = World()
    a, b = world.add("a"), world.add("b")
    for lane in (LANE, OTHER):
        b.join(lane)
        a.publish(lane)
    settle(world)
    b.sessions.interrupted(partitions)
    notes = [note for frame in b.sessions.take_frames() for note in unpack(frame.data, LIMIT)[0].notes]
    asked = {position.partition for note in notes if note.kind == WHERE for position in note.positions}
    assert asked == ({LANE, OTHER, OWN, ALL_NODES} if partitions is None else partitions)


@pytest.mark.parametrize(("partitions", "again"), [(None, True), ({LANE}, True), ({OWN}, True), ({OTHER}, False)])
def test_requests_are_repeated_if_they_or_their_answers_may_be_lost(partitions: set[str] | None, again: bool) -> None:
    world = World()
    a, b = world.add("a"), world.add("b")
    b.join(LANE)
    a.publish(LANE)
    settle(world)
    a.sessions.outgoing(LANE).pack([b"lost"], 4, [], world.now)
    a.publish(LANE)
    world.cut.add("a")
    world.run(0.1)
    now = world.now
    while not any(note.kind == MISSING for note in b.sessions.take_notes().get("a", [])):
        now += 0.001
        list(b.sessions.tend(now))
    b.sessions.interrupted(partitions)
    b.sessions.take_notes()
    list(b.sessions.tend(now))
    assert any(note.kind == MISSING for note in b.sessions.take_notes().get("a", [])) is again
