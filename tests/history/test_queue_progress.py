"""How far a dispatcher is with a stream: nothing is handed out twice or passed over, whatever is trimmed meanwhile."""

from __future__ import annotations

from hypothesis import example, given
from hypothesis import strategies as st

from eventbus_core.backend import NewEntry
from eventbus_core.history.queue_progress import QueueProgress, decode_record, encode_record
from eventbus_core.model.retention import Retention
from eventbus_memory.stream import Stream

KEPT = Retention(events=8)

operations = st.lists(
    st.one_of(
        st.tuples(st.just("append"), st.integers(1, 4)),
        st.tuples(st.just("read"), st.just(0)),
        st.tuples(st.just("handle"), st.integers(0, 20)),
        st.tuples(st.just("restart"), st.just(0)),
    ),
    max_size=40,
)


class _Dispatcher:
    """Takes events of a stream, and knows of each offset whether it was taken, handled or told to be gone."""

    def __init__(self, stream: Stream) -> None:
        self.stream = stream
        self.progress = QueueProgress()
        self.handled: set[int] = set()
        self.gone: set[int] = set()
        self.taken: list[int] = []
        self.seen: set[int] = set()  # by this dispatcher, or by the record that it began with

    def read(self) -> None:
        page = self.stream.read(self.progress.start)
        assert self.progress.check(page) is None
        if not page.entries:
            self._note_gone(page.top.offset, self.progress.take_end(page.top))
        for entry in page.entries:
            missed, offsets = self.progress.take(entry)
            self._note_gone(entry.first - 1, missed)
            assert offsets == [offset for offset in range(entry.first, entry.last + 1) if offset not in self.seen]
            self.seen.update(offsets)
            self.taken += offsets

    def handle(self, place: int) -> None:
        if self.taken:
            offset = self.taken.pop(place % len(self.taken))
            self.progress.handled(offset)
            self.handled.add(offset)

    def restart(self) -> None:
        record = decode_record(encode_record(self.progress.record(0.0)))
        assert record is not None
        self.progress = QueueProgress(record.epoch, record.mark, record.unhandled, record.anchor, record.told)
        self.seen = {*range(1, max(record.mark.offset, record.told) + 1)} - {*record.unhandled}
        self.taken = []
        assert self.seen == self.handled | self.gone, "no event comes again, and no gap is told again"

    def _note_gone(self, last: int, missed: int) -> None:
        gone = {*range(1, last + 1)} - self.seen
        assert len(gone) == missed
        self.seen |= gone
        self.gone |= gone


@given(operations)
@example([("append", 4), ("read", 0), ("handle", 3), ("handle", 0), ("restart", 0), ("append", 4), ("append", 3)])
@example([("append", 2), ("read", 0), ("handle", 1), ("append", 4), ("append", 4), ("append", 4), ("restart", 0)])
def test_each_event_is_handed_out_or_told_to_be_gone(steps: list[tuple[str, int]]) -> None:
    stream = Stream()
    stream.append(NewEntry("s", 1, 1, b"", KEPT))
    dispatcher = _Dispatcher(stream)
    for number, (step, argument) in enumerate(steps, 2):
        match step:
            case "append":
                stream.append(NewEntry("s", number, argument, b"", KEPT))
            case "handle":
                dispatcher.handle(argument)
            case _:
                getattr(dispatcher, step)()
    dispatcher.read()
    while dispatcher.taken:
        dispatcher.handle(0)
    assert dispatcher.handled | dispatcher.gone == {*range(1, stream.top.offset + 1)}


def test_a_record_that_cannot_be_read_is_none() -> None:
    for body in (b"", b"\xc0", b"\x93\x01\x02\x03", encode_record(("epoch", (1,), None, []))):
        assert decode_record(body) is None
