from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from eventbus_core.model.reports import Gap
from tests.session.world import (
    LANE,
    TICK,
    Fate,
    World,
    accounted,
    kept_frames,
    lossy_frames,
    settle,
    with_drops,
)


@given(
    st.lists(kept_frames, max_size=30),
    st.lists(st.integers(0, 30), max_size=5),
    st.lists(lossy_frames, max_size=40),
    st.lists(st.tuples(st.sampled_from(["publish", "wait"]), st.integers(1, 5)), max_size=8),
    st.sampled_from(["a first", "c first"]),
)
@settings(max_examples=100)
def test_g10_a_later_receiver_gets_all_events_since_its_join_or_gaps_and_none_from_before(
    faults: list[Fate], drops: list[int], later: list[Fate], before: list[tuple[str, int]], order: str
) -> None:
    """Once a receiver has joined, every event arrives or is in a gap; none from before the join arrives."""
    world = World()
    a = world.add("a")
    for what, count in before:
        if what == "publish":
            a.publish(LANE, count)
        else:
            world.run(count * 0.1)
    c = world.add("c")
    world.faults(with_drops(faults, drops))
    published_before = a.published.get(LANE, 0)
    if order == "a first":
        a.publish(LANE)  # at the same time: may arrive or not
    c.join(LANE)
    while not c.sessions.knows_positions(LANE):
        world.run(TICK)
    settled_after = a.published.get(LANE, 0)
    world.faults(later)
    a.publish(LANE, 3)
    world.run(0.01)
    world.cut |= {"a", "c"}
    world.end_faults()
    a.publish(LANE, 2)
    settle(world)
    stream = c.stream.get(("a", LANE), [])
    total = sum(item.missed if isinstance(item, Gap) else 1 for item in stream)
    first = a.published[LANE] - total
    assert published_before <= first <= settled_after
    accounted(c, a, LANE, first)


def test_g10_a_receiver_that_joins_a_lane_again_gets_only_later_events() -> None:
    world = World()
    a, b = world.add("a"), world.add("b")
    b.join(LANE)
    a.publish(LANE, 3)
    world.run(0.1)
    b.leave(LANE)
    a.publish(LANE, 4)
    world.run(5.0)
    b.join(LANE)
    world.run(0.1)
    a.publish(LANE, 2)
    settle(world)
    assert b.stream["a", LANE] == [0, 1, 2, 7, 8]
