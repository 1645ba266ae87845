"""The checker reports exactly the faults that were put into a log of deliveries."""

from __future__ import annotations

from collections import Counter
from random import Random

from hypothesis import given
from hypothesis import strategies as st

from eventbus_core.cli.demo.check import Checker, Holes, body_of

STREAMS = range(4)
FOREIGN = range(4, 8)

Delivery = tuple[int, int]

accepted_counts = st.dictionaries(st.sampled_from(STREAMS), st.integers(0, 30))


@st.composite
def logs(draw: st.DrawFn) -> tuple[dict[int, int], list[Delivery]]:
    """The numbers of accepted events, and a log of faultless deliveries: the streams mixed, each in order."""
    accepted = draw(accepted_counts)
    turns = draw(st.permutations([stream for stream, count in accepted.items() for _ in range(count)]))
    numbers: Counter[int] = Counter()
    log = []
    for stream in turns:
        log.append((stream, numbers[stream]))
        numbers[stream] += 1
    return accepted, log


def check(log: list[Delivery]) -> Checker:
    checker = Checker(STREAMS)
    for stream, number in log:
        checker.take(stream, number, body_of(stream, number))
    return checker


def faults(checker: Checker, accepted: dict[int, int]) -> dict[str, int]:
    found = {
        "lost": checker.lost(accepted),
        "duplicated": checker.duplicated,
        "misrouted": checker.misrouted,
        "reordered": checker.reordered,
        "damaged": checker.damaged,
    }
    return {name: count for name, count in found.items() if count}


@given(logs())
def test_a_faultless_log_has_no_faults(case: tuple[dict[int, int], list[Delivery]]) -> None:
    """A log with every delivery once and in order has no faults."""
    accepted, log = case
    checker = check(log)
    assert faults(checker, accepted) == {}
    assert checker.count() == checker.expected(accepted) == len(log)


@given(logs(), st.data())
def test_a_removed_delivery_is_lost(case: tuple[dict[int, int], list[Delivery]], data: st.DataObject) -> None:
    """Deliveries that are removed from a log count as lost, and as nothing else."""
    accepted, log = case
    taken = data.draw(st.sets(st.sampled_from(log)) if log else st.just(set()))
    checker = check([delivery for delivery in log if delivery not in taken])
    assert faults(checker, accepted) == ({"lost": len(taken)} if taken else {})
    assert checker.count() == len(log) - len(taken)


@given(logs(), st.data())
def test_a_repeated_delivery_is_duplicated(case: tuple[dict[int, int], list[Delivery]], data: st.DataObject) -> None:
    """Each repetition of a delivery later in the log counts as duplicated."""
    accepted, log = case
    repeated = data.draw(st.lists(st.sampled_from(log), max_size=10) if log else st.just([]))
    for delivery in repeated:
        log.insert(data.draw(st.integers(log.index(delivery) + 1, len(log))), delivery)
    assert faults(check(log), accepted) == ({"duplicated": len(repeated)} if repeated else {})


@given(logs(), st.lists(st.tuples(st.sampled_from(FOREIGN), st.integers(0, 30))), st.randoms())
def test_a_delivery_of_another_receiver_is_misrouted(
    case: tuple[dict[int, int], list[Delivery]], strangers: list[Delivery], random: Random
) -> None:
    """Each delivery of another receiver's stream counts as misrouted, and changes no other count."""
    accepted, log = case
    for delivery in strangers:
        log.insert(random.randint(0, len(log)), delivery)
    assert faults(check(log), accepted) == ({"misrouted": len(strangers)} if strangers else {})


@given(logs(), st.data())
def test_an_overtaken_delivery_is_reordered(case: tuple[dict[int, int], list[Delivery]], data: st.DataObject) -> None:
    """A delivery that is moved behind later ones of its stream counts as reordered."""
    accepted, log = case
    movable = [delivery for delivery in log if delivery[1] + 1 < accepted[delivery[0]]]
    if not movable:
        return
    moved = data.draw(st.sampled_from(movable))
    log.remove(moved)
    first_later = log.index((moved[0], moved[1] + 1))
    log.insert(data.draw(st.integers(first_later + 1, len(log))), moved)
    assert faults(check(log), accepted) == {"reordered": 1}


@given(logs(), st.data())
def test_a_changed_delivery_is_damaged_and_its_event_lost(
    case: tuple[dict[int, int], list[Delivery]], data: st.DataObject
) -> None:
    """A delivery with a wrong body counts as damaged, and the event as lost."""
    accepted, log = case
    spoilt = data.draw(st.sets(st.sampled_from(log)) if log else st.just(set()))
    checker = Checker(STREAMS)
    for stream, number in log:
        body = body_of(stream, number)
        checker.take(stream, number, body[:-1] if (stream, number) in spoilt else body)
    expected = {"lost": len(spoilt), "damaged": len(spoilt)} if spoilt else {}
    assert faults(checker, accepted) == expected


@given(st.dictionaries(st.sampled_from(STREAMS), st.integers(0, 12)), st.data())
def test_every_count_follows_its_definition(accepted: dict[int, int], data: st.DataObject) -> None:
    """For any deliveries in any order, each count follows its definition."""
    deliveries = st.tuples(st.sampled_from([*STREAMS, *FOREIGN]), st.integers(0, 12))
    log = data.draw(st.lists(deliveries, max_size=60))
    ours = [delivery for delivery in log if delivery[0] in STREAMS]
    firsts = list(dict.fromkeys(ours))
    overtaken = [
        (stream, number)
        for index, (stream, number) in enumerate(firsts)
        if any(other == stream and later > number for other, later in firsts[:index])
    ]
    wanted = {(stream, number) for stream, count in accepted.items() for number in range(count)}
    expected = {
        "lost": len(wanted - set(ours)),
        "duplicated": len(ours) - len(firsts),
        "misrouted": len(log) - len(ours),
        "reordered": len(overtaken),
    }
    checker = check(log)
    assert faults(checker, accepted) == {name: count for name, count in expected.items() if count}
    assert checker.count() == len(firsts)
    assert checker.arrived() == {stream: sum(first[0] == stream for first in firsts) for stream in STREAMS}


@given(st.sets(st.integers(0, 50)), st.lists(st.integers(0, 50)))
def test_holes_are_a_set_of_numbers(numbers: set[int], discarded: list[int]) -> None:
    """Holes answer like a set, also after numbers were removed from the middle of a range."""
    holes = Holes()
    left = set(numbers)
    for number in sorted(numbers):
        holes.add(number, number + 1)
    for number in discarded:
        assert holes.discard(number) == (number in left)
        left.discard(number)
    assert len(holes) == len(left)
    assert holes.below(25) == sum(number < 25 for number in left)
