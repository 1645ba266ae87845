"""The scenarios bite: a core that is broken in one way fails the one that it concerns."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence

import anyio
import pytest
from msgspec.structs import replace

from eventbus_core.backend import Entry, Page, Position
from eventbus_core.history import appender, history_reader
from eventbus_core.history.appender import Appender, StreamQueue
from eventbus_core.history.queue_progress import QueueProgress, QueueRecord
from eventbus_core.history.resumption import Verdict, judge
from eventbus_core.history.shares import pack_events
from eventbus_core.mailbox.limits import MailboxLimits
from eventbus_core.mailbox.mailbox import Mailbox
from eventbus_core.model.tokens import Token, tag_of
from eventbus_core.testing import waiting
from tests.history.test_queues import (
    test_a_dispatcher_that_may_have_lost_its_lease_hands_nothing_out as frozen_dispatcher,
)
from tests.history.test_queues import (
    test_a_gap_is_told_once as gap_told_once,
)
from tests.history.test_queues import (
    test_a_send_returns_once_the_history_has_the_event as durable_send,
)
from tests.history.test_queues import (
    test_an_event_that_others_overtook_is_not_lost as overtaken,
)
from tests.history.test_queues import (
    test_no_event_is_lost_with_its_sender_its_consumer_and_its_dispatcher as dispatcher_dies,
)
from tests.history.test_queues import (
    test_what_is_beyond_the_retention_is_told as trimmed_jobs,
)
from tests.history.test_resume import (
    test_g12_a_token_of_another_topic_gives_none_of_its_events as foreign_token,
)
from tests.history.test_resume import (
    test_g13_many_clients_resume_at_once as order,
)
from tests.history.test_resume import (
    test_g13_what_was_trimmed_is_counted_exactly as trimmed,
)

parse = Token.parse
take, record = QueueProgress.take, QueueProgress.record


def one_missed_too_few(known: Position, page: Page, kept: int) -> Verdict:
    verdict = judge(known, page, kept)
    return verdict._replace(missed=max(0, verdict.missed - 1))


def swapped_within_the_entry(events: Sequence[bytes]) -> bytes:
    return pack_events([*events[1::-1], *events[2:]])


def accept_any_token(text: str, stream: str) -> Token | None:
    """As if all topics had the tag of the token."""
    return parse(tag_of(stream) + text[len(tag_of(stream)) :], stream)


def handled_as_they_are_handed_out(progress: QueueProgress, entry: Entry) -> tuple[int, list[int]]:
    missed, offsets = take(progress, entry)
    for offset in offsets:
        progress.handled(offset)
    return missed, offsets


def all_up_to_the_latest_handled(progress: QueueProgress, now: float) -> QueueRecord:
    return replace(record(progress, now), unhandled=[])


def forget_what_was_told(progress: QueueProgress, now: float) -> QueueRecord:
    return replace(record(progress, now), told=0)


def pass_over_what_is_gone(progress: QueueProgress, entry: Entry) -> tuple[int, list[int]]:
    return 0, take(progress, entry)[1]


def never_frozen(_limits: MailboxLimits[Mailbox]) -> bool:
    return False


async def accepted_is_appended(_appender: Appender, _queue: StreamQueue, _number: int) -> bool:
    return True


@pytest.mark.parametrize(
    ("place", "name", "broken", "scenario"),
    [
        pytest.param(place, name, broken, scenario, id=broken.__name__)
        for place, name, broken, scenario in [
            (history_reader, "judge", one_missed_too_few, trimmed),
            (appender, "pack_events", swapped_within_the_entry, order),
            (Token, "parse", accept_any_token, foreign_token),
            (QueueProgress, "take", handled_as_they_are_handed_out, dispatcher_dies),
            (QueueProgress, "record", all_up_to_the_latest_handled, overtaken),
            (QueueProgress, "take", pass_over_what_is_gone, trimmed_jobs),
            (QueueProgress, "record", forget_what_was_told, gap_told_once),
            (MailboxLimits, "frozen", never_frozen, frozen_dispatcher),
            (Appender, "appended", accepted_is_appended, durable_send),
        ]
    ],
)
def test_a_broken_core_fails_its_scenario(
    place: object,
    name: str,
    broken: Callable[..., object],
    scenario: Callable[[str], Awaitable[None]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    anyio.run(scenario, "memory://tests")
    monkeypatch.setattr(waiting, "DEADLINE", 1.0)
    monkeypatch.setattr(place, name, broken)
    with pytest.raises((AssertionError, ExceptionGroup)):
        anyio.run(scenario, "memory://tests")
