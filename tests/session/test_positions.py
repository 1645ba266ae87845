"""Where a sender's sessions are: a receiver that has joined partitions asks until it has the answers."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from eventbus_core.backend import ALL_NODES, Node, Partition, lane_partition, node_partition
from eventbus_core.session.positions import Positions
from eventbus_core.session.protocol import MAX_ASKED
from eventbus_core.session.wire import Note
from tests.session.world import LANE, TICK, World, accounted, settle

LANES = [lane_partition(lane) for lane in range(64)]


class Asked:
    """The questions of a node that joins when *nodes* are there, and the time."""

    def __init__(self, nodes: int) -> None:
        self.notes: list[tuple[str | None, Note]] = []
        self.positions = Positions("a", lambda node, note: self.notes.append((node, note)))
        self.nodes = [Node(name, number, 10.0) for number, name in enumerate(["a", *map(str, range(1, nodes))])]
        self.now = 0.0

    def join(self, *partitions: str) -> None:
        self.positions.joined(partitions, self.nodes)

    def answer(self, node: str) -> None:
        self.positions.answered(node, self.notes[0][1].session)

    def run(self, seconds: float) -> None:
        for _ in range(round(seconds / 0.01)):
            self.now += 0.01
            self.positions.tend(self.now)


def test_g10_a_live_sender_is_asked_so_often_that_an_answer_comes_though_frames_are_lost() -> None:
    """Without an answer, first frames that are lost would go unnoticed; a hung sender is waited for some seconds."""
    asked = Asked(2)
    asked.join(LANE)
    while not asked.positions.is_known(LANE):
        asked.run(0.01)
    lost = 1 - 0.8 * 0.8  # of five questions or answers one is lost
    assert lost ** len(asked.notes) < 1e-6
    assert [node for node, _ in asked.notes] == [None] + ["1"] * (len(asked.notes) - 1)
    assert 2.5 < asked.now < 4.0


def test_one_question_is_about_all_partitions() -> None:
    asked = Asked(1000)
    asked.join(ALL_NODES, *LANES)
    [(node, note)] = asked.notes
    assert node is None
    assert [position.partition for position in note.positions] == [ALL_NODES, *LANES]
    assert len(LANES) < MAX_ASKED


def test_no_question_is_repeated_while_answers_come() -> None:
    """A thousand answers take a while to read; to ask again meanwhile would make a thousand more."""
    asked = Asked(1000)
    asked.join(LANE)
    for node in asked.nodes[1:]:
        assert not asked.positions.is_known(LANE)
        asked.answer(node.id)
        asked.run(0.03)
    assert asked.positions.is_known(LANE)
    asked.run(10.0)
    assert len(asked.notes) == 1


def test_a_busy_event_loop_does_not_make_questions_late() -> None:
    """Ticks that come late say that this node did not read what had arrived."""
    asked = Asked(1000)
    asked.join(LANE)
    for _ in range(20):
        asked.now += 2.0
        asked.positions.tend(asked.now)
    assert len(asked.notes) == 1


def test_nodes_that_answered_or_left_no_trace() -> None:
    asked = Asked(3)
    asked.join(LANE)
    asked.answer("1")
    asked.run(10.0)
    assert asked.positions.is_known(LANE)
    asked.answer("2")  # late, as it hung
    assert asked.positions._questions == {}


@given(st.integers(1, 6), st.lists(st.sampled_from([ALL_NODES, *LANES]), max_size=10), st.booleans())
@settings(max_examples=30)
def test_joining_takes_two_frames_for_each_other_node(peers: int, used: list[Partition], wildcard: bool) -> None:
    """Here the lanes are joined after the rest: twice a question and an answer, and a grant if there is a session."""
    world = World(ordered=True)
    others = [world.add(f"other-{number}") for number in range(peers)]
    world.run(1.0)
    for partition in used:
        others[0].publish(partition)
    world.run(30.0)
    before = world.sent
    newcomer = world.add("newcomer")
    newcomer.joined.update(LANES if wildcard else ())
    newcomer.sessions.joined(LANES if wildcard else [], world.alive())
    world.run(30.0)
    questions = 2 if wildcard else 1
    grants = questions if used else 0
    assert world.sent - before <= questions * 2 * peers + grants
    assert len(newcomer.sessions._incoming) == len({name for name in used if wildcard or name == ALL_NODES})
    assert newcomer.sessions._outgoing == {}


def test_nodes_that_send_nothing_keep_no_sessions_with_each_other() -> None:
    world = World()
    peers = [world.add(f"peer-{number}") for number in range(5)]
    world.run(5.0)
    for peer in peers:
        assert peer.sessions._incoming == {}
        assert peer.sessions._outgoing == {}
        assert peer.sessions._positions._questions == {}


def test_g10_a_sender_that_came_while_a_receiver_was_cut_off_is_heard_from_its_first_event_on() -> None:
    world = World()
    b = world.add("b")
    b.join(LANE)
    world.run(1.0)
    world.cut.add("b")
    a = world.add("a")
    for partition in (LANE, ALL_NODES, node_partition("b")):
        a.publish(partition, 2)
    world.run(10.0)
    assert b.stream == {}
    world.end_faults()
    settle(world)
    for partition in (LANE, ALL_NODES, node_partition("b")):
        assert accounted(b, a, partition) == (2, 0)


def test_g10_a_sender_that_hung_at_the_join_and_answers_late_brings_nothing_older() -> None:
    world = World()
    a, b = world.add("a"), world.add("b")
    a.publish(LANE, 5)
    world.run(1.0)
    world.cut.add("a")
    b.join(LANE)
    while not b.sessions.knows_positions(LANE):
        world.run(TICK)
    world.end_faults()
    a.publish(LANE, 2)
    settle(world)
    assert b.stream["a", LANE] == [5, 6]
