"""What waits for one server of the broker."""

from __future__ import annotations

from typing import Final

from anyio.lowlevel import checkpoint

from eventbus_core.backend import Frame, node_partition
from eventbus_core.concurrency.backoff import Backoff
from eventbus_core.concurrency.notifier import Notifier
from eventbus_core.outbox.partition_queue import PartitionQueue
from eventbus_core.outbox.write import Taken, Write
from eventbus_core.session.letters import MAX_QUESTIONS, Letters
from eventbus_core.session.registry import MAX_NOTES
from eventbus_core.session.resend_buffer import MAX_RETRANSMISSION_SIZE, MAX_RETRANSMISSIONS
from eventbus_core.session.wire import FRAME_OVERHEAD, MAX_ENVELOPE, MAX_NOTE_SIZE, Note

WRITE_SIZE: Final = 1024 * 1024
GATHER_SIZE: Final = 64 * 1024
LEAST_GATHER_TURNS: Final = 4
MOST_GATHER_TURNS: Final = 16


class RouteQueue:
    """
    All that waits for one server of the broker, as :meth:`Transport.route` names it.

    One task, the writer of the outbox for this route, takes and writes it; all others only add.

    Attributes:
        name: of the server.
        ready: the queues whose events may be taken.
        backlog: writes that were taken and not published: a sender began them, they failed, or their partitions moved
            here. They go first.
        being_written: the write that the transport has, if any.
        writing: whether the writer is at work, or is about to start.
        ended: whether the writer shall end; another route has taken its place if there is anything to write.
        backoff: the pauses after failed writes.
    """

    def __init__(self, name: str, letters: Letters, frame_size: int, max_frame_size: int) -> None:
        self.name = name
        self.ready: list[PartitionQueue] = []
        self.backlog: list[Write] = []
        self.being_written: Write | None = None
        self.writing = True
        self.ended = False
        self.backoff: Final = Backoff()
        self._letters = letters
        self._frame_size = frame_size
        self._max_frame_size = max_frame_size
        self._notes: dict[str, list[Note]] = {}
        self._probes: list[tuple[PartitionQueue, Frame]] = []
        self._asked: dict[tuple[str, int], Note] = {}
        self._frames: list[Frame] = []
        self._frames_size = 0
        self._taken = 0  # events since the writer waited
        self._single = True  # it took one event between the last two times that it waited
        self._resting = False
        self._work = Notifier()

    def add(self, queue: PartitionQueue) -> None:
        """Take events of *queue* with the next write."""
        self.ready.append(queue)
        self._work.notify()

    def add_probe(self, queue: PartitionQueue, probe: Frame) -> None:
        """Write *probe* to the partition of *queue*."""
        self._probes.append((queue, probe))
        self._work.notify()

    def add_notes(self, node: str, notes: list[Note]) -> None:
        """Write *notes* to *node*, unless too many wait: a request is repeated anyway."""
        waiting = self._notes.setdefault(node, [])
        waiting += notes[: MAX_NOTES - len(waiting)]
        self._work.notify()

    def add_asked(self, node: str, question: Note) -> None:
        """Answer *question* of *node*, unless too many wait: it asks again."""
        if len(self._asked) < MAX_QUESTIONS:
            self._asked[node, question.session] = question
            self._work.notify()

    def add_frame(self, frame: Frame) -> None:
        """Write *frame* of the sessions as it is, unless too many wait: all are asked for again."""
        if len(self._frames) < MAX_RETRANSMISSIONS and self._frames_size < MAX_RETRANSMISSION_SIZE:
            self._frames.append(frame)
            self._frames_size += len(frame.data)
            self._work.notify()

    def add_write(self, write: Write) -> None:
        """Publish *write*, which comes from another route or has begun."""
        self.backlog.append(write)
        self._work.notify()

    def retry(self, write: Write) -> None:
        """Publish *write* again, before all else."""
        write.failed()
        self.backlog.insert(0, write)
        self.being_written = None

    def take_ready(self) -> list[PartitionQueue]:
        """Return the queues that are ready, and clear them."""
        ready, self.ready = self.ready, []
        return ready

    def has_work(self) -> bool:
        """Return whether there is anything to write."""
        return bool(self.ready or self.backlog or self._probes or self._notes or self._asked or self._frames)

    def expects_one(self) -> bool:
        """
        Return whether the next event will probably be alone, so that its sender may write it.

        The writer takes all events of one turn of the event loop in one write. If a sender writes at once, the events
        behind its own wait until the broker has taken it. So it does that only if there were none the last time.
        """
        return self._single and not (self.writing or self.ready or self.backlog)

    def idle(self) -> bool:
        """Return whether nothing waits and nothing is being written."""
        return not (self.writing or self.has_work())

    def rested(self) -> bool:
        """Return whether it has been idle since the last call."""
        rested, self._resting = self._resting, self.idle()
        return rested and self._resting

    def unpublished(self) -> list[Taken]:
        """Return what was taken and the broker has not confirmed, and forget it."""
        current, self.being_written = self.being_written, None
        writes, self.backlog = [*self.backlog, *([current] if current else [])], []
        return [taken for write in writes for taken in write.taken]

    async def wait(self) -> None:
        """Wait until there is something to write, or the route has ended."""
        if self._taken:
            self._single, self._taken = self._taken == 1, 0
        self.writing = False
        await self._work.wait()
        self.writing, self._resting = True, False

    def end(self) -> None:
        """Have the writer end."""
        self.ended = True
        self._work.notify()

    def begin(self, write: Write) -> None:
        """Note that the transport has *write*."""
        self.being_written = write

    def published(self) -> None:
        """Note that the broker has taken or refused every frame of the write."""
        self.being_written = None
        self.backoff.reset()

    async def gather(self) -> None:
        """
        Give running senders a few turns while the next frames are small: fewer and larger ones cost less.

        What is sent in one turn is divided among all partitions. So the more of them wait, the more turns pay.
        """
        size = sum([queue.size for queue in self.ready])
        for _ in range(min(max(len(self.ready) // 2, LEAST_GATHER_TURNS), MOST_GATHER_TURNS)):
            before = size
            if not 0 < size < GATHER_SIZE * len(self.ready):
                return
            await checkpoint()
            size = sum([queue.size for queue in self.ready])
            if size == before:
                return

    def next_write(self, now: float, blocked: dict[PartitionQueue, None], active: dict[PartitionQueue, None]) -> Write:
        """
        Return the frames to publish next, in the order that :class:`Write` says.

        Args:
            now: the time.
            blocked: gets the queues that cannot be taken from now.
            active: gets the queues with events.
        """
        if self.backlog:
            return self.backlog.pop(0)
        write = Write()
        notes, self._notes = self._notes, {}
        left = WRITE_SIZE
        for queue in self.take_ready():
            if queue.after_write is not None:  # its partition has moved, and the former route has not done with it
                blocked[queue] = None
                continue
            session = queue.session
            while queue.events and left > 0:
                active[queue] = None
                room = session.available_bytes()
                if room <= 0:
                    blocked[queue] = None
                    break
                since = queue.since()
                events, size = queue.cut(min(room, self._frame_size))
                told = self._take_along(notes, queue.node, size) if notes and queue.node is not None else []
                write.frames.append(session.pack(events, size, told, now))
                write.taken.append((queue, events, since))
                self._taken += len(events)
                queue.after_write = []
                left -= size
            if queue.events:
                queue.mark(queue.accepted, now)
                if queue not in blocked:
                    self.ready.append(queue)
            queue.queued = bool(queue.events)
            if queue.has_room():
                queue.wake_senders()
        write.probed.extend(queue for queue, _ in self._probes)
        write.frames.extend(self._without_events(notes))
        return write

    def _take_along(self, notes: dict[str, list[Note]], node: str, size: int) -> list[Note]:
        """Take the notes to *node* out of *notes*, if they fit into a frame with events of *size* bytes."""
        found = notes.get(node, [])
        if size + MAX_ENVELOPE + len(found) * MAX_NOTE_SIZE > self._max_frame_size:
            return []
        notes.pop(node, None)
        return found

    def _without_events(self, notes: dict[str, list[Note]]) -> list[Frame]:
        """Return the frames without events, of *notes* that found no other way first."""
        probes, self._probes = self._probes, []
        asked, self._asked = self._asked, {}
        frames, self._frames, self._frames_size = self._frames, [], 0
        most = (self._max_frame_size - FRAME_OVERHEAD) // MAX_NOTE_SIZE
        letters = [
            self._letters.pack(node_partition(node), told[first : first + most])
            for node, told in notes.items()
            for first in range(0, len(told), most)
        ]
        answers = [self._letters.pack_answer(node, question) for (node, _), question in asked.items()]
        return [*letters, *(probe for _, probe in probes), *answers, *frames]
