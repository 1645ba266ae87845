"""All sessions of one node incarnation: finds the one that a frame belongs to, and keeps the bounds of them all."""

from __future__ import annotations

import itertools
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from typing import Final

from eventbus_core.incoming import Incoming, Ready
from eventbus_core.losses import Gap
from eventbus_core.options import BusOptions
from eventbus_core.outgoing import Kept, Outgoing
from eventbus_core.session import ASK, ASK_AGAIN, GONE, GRANT, LEFT, MISSING, WHERE
from eventbus_core.transport import ALL_NODES, Frame, Node, Partition, lane_partition, node_partition
from eventbus_core.wire import Header, Note

SMALLEST_WINDOW: Final = 128 * 1024
NARROWEST_WINDOW: Final = 8 * 1024
PATIENCE: Final = 0.05
MAX_INCOMING: Final = 100_000
MAX_NOTES: Final = 500
MAX_RESEND: Final = 10_000
MAX_RESEND_SIZE: Final = 16 * 1024 * 1024


class Sessions:
    """
    The sessions of one node incarnation; pure, like the sessions themselves.

    A receiver that joins a partition asks all nodes that live then where their sessions to it
    are (:meth:`joined`). So it knows that any other session to it began later, with the number
    1, and misses nothing of it, not even the first frame.

    Attributes:
        incarnation: ours.
        window: bytes that each sender may have under way to us; the budget divided by who is active.
        ease: the part of it that they get for what they send to this node alone; see :class:`Mailboxes`.
        narrowed: that part, in bytes.
        patience: how long a hole may be reordering before it counts as a loss, in seconds.
        duplicates, missed, repaired, stale: events removed as doubles, lost for good, sent again
            for others, and frames of former incarnations dropped.
        resend: frames to be published as they are.
        notes: what to tell which node.
        on_note: called when there is something new in ``notes`` or ``resend``.
        on_answer: called when a node has said where it is, see :meth:`joined`.
        on_settled: called for each frame whose deliveries are all handled with the time when it came.
        on_left: called with our session to a node that takes nothing more, and the number from which on.
        on_stale: called with the header of a frame that was dropped as one of a former incarnation.
    """

    def __init__(self, options: BusOptions, node: str, incarnation: int, *, ordered: bool) -> None:
        self.namespace = options.namespace
        self.node = node
        self.incarnation = incarnation
        self.hold_back_size = options.hold_back_size
        self.window = self.narrowed = min(options.receive_budget, SMALLEST_WINDOW)
        self.ease = 1.0
        self.patience = 0.0 if ordered else PATIENCE
        self.duplicates = self.missed = self.repaired = self.stale = 0
        self.resend: list[Frame] = []
        self.notes: dict[str, list[Note]] = {}
        self.on_note: Callable[[], None] = lambda: None
        self.on_answer: Callable[[], None] = lambda: None
        self.on_settled: Callable[[float], None] = lambda _since: None
        self.on_left: Callable[[Outgoing, int], None] = lambda _session, _first: None
        self.on_stale: Callable[[Header], None] = lambda _header: None
        self._options = options
        self._numbers = itertools.count(1)
        self._outgoing: dict[Partition, Outgoing] = {}
        self._by_number: dict[int, Outgoing] = {}
        self._incoming: dict[tuple[str, int], Incoming] = {}
        self._ended: list[Incoming] = []
        self._incarnations: dict[str, int] = {}
        self._forgotten: set[str] = set()
        self._former: dict[str, dict[tuple[str, int], int]] = {}  # of nodes that began anew: what came next before
        self._resumed: dict[tuple[str, int], int] = {}
        self._unheard: dict[str, dict[str, int]] = {}  # per joined partition: nodes that lived before, incarnation
        self._questions: dict[tuple[str, str], None] = {}  # node and partition: where is its session?
        self._asked = 0
        self._ask_at = 0.0
        self._shared = frozenset((ALL_NODES, *map(lane_partition, range(options.lanes))))
        self._closed = False
        self._own = node_partition(node)
        self._kept: deque[Kept] = deque()
        self._kept_size = 0
        self._resend_size = 0
        self._active: set[Incoming] = set()
        self._reporting: set[Incoming] = set()
        self._active_until = 0.0

    def begin(self, incarnation: int) -> None:
        """Send as this *incarnation* from now on, in sessions that all start anew."""
        self.incarnation = incarnation
        self._outgoing.clear()
        self._by_number.clear()

    def outgoing(self, partition: Partition, node: str | None = None) -> Outgoing:
        """Return our session to *partition*, which is *node*'s own if one is named."""
        session = self._outgoing.get(partition)
        if session is None:
            session = Outgoing(self, partition, next(self._numbers), node)
            self._outgoing[partition] = self._by_number[session.session] = session
        return session

    def retire(self, session: Outgoing) -> None:
        """End our session to a node that is gone."""
        self._outgoing.pop(session.partition, None)
        self._by_number.pop(session.session, None)

    def receive(self, header: Header, body: memoryview, now: float) -> Iterator[Ready | Gap]:
        """Take in a frame of another node; yield what has its turn now, and gaps that are final."""
        if not header.incarnation:  # a node that has not entered yet: there is nothing to repair
            yield from Incoming(self, header, header.first).on_frame(header, body, now)
            return
        newest = self._incarnations.get(header.node, 0)
        if header.incarnation < newest:
            self.stale += 1
            self.on_stale(header)
            return
        if header.incarnation > newest:
            self._greet(header.node, header.incarnation)
        if self._ended:
            yield from self._rest(now)
        if not (self._closed and header.partition == self._own):
            yield from self._take(header, body, now)
        elif header.count:
            self.tell(header.node, Note(LEFT, header.session, header.incarnation, header.first))
        for note in header.notes[:MAX_NOTES]:  # no sender of ours has more
            yield from self._on_note(header.node, note, now)

    def joined(self, partition: Partition, nodes: Iterable[Node]) -> None:
        """
        Ask where the sessions to *partition*, which we listen to from now on, are; *nodes* are those alive now.

        Once it is :meth:`settled`, nothing that is sent from then on is missed in silence.
        """
        heard = {incoming.node for incoming in self._incoming.values() if incoming.partition == partition}
        self._unheard[partition] = unheard = {
            node.id: node.incarnation for node in nodes if node.id != self.node and node.id not in heard
        }
        self._ask((node, partition) for node in unheard)

    def settled(self, partition: Partition) -> bool:
        """Return whether every node has said where its session to *partition* is, or will never say so."""
        return all(asked != partition for _, asked in self._questions)

    def unreachable(self, node: str) -> None:
        """Expect no answers of *node*: by the transport's word it does not listen."""
        if any(asked == node for asked, _ in self._questions):
            self._questions = {asked: None for asked in self._questions if asked[0] != node}
            self.on_answer()

    def interrupted(self) -> None:
        """Ask every sender where it is, since the transport may have lost frames."""
        for incoming in self._incoming.values():
            incoming.interrupted()
        heard = [(incoming.node, incoming.partition) for incoming in self._incoming.values()]
        unheard = [(node, partition) for node, _ in heard for partition in self._unheard]
        self._ask(dict.fromkeys(heard + unheard))

    def nodes(self) -> set[str]:
        """Return the nodes with which we have sessions."""
        senders = {node for node, _ in self._incoming}
        return senders.union(outgoing.node for outgoing in self._outgoing.values() if outgoing.node is not None)

    def forget(self, node: str) -> None:
        """Drop what is known of the sessions with *node*: it is gone, or begins anew."""
        self._ended += [self._drop(key) for key in list(self._incoming) if key[0] == node]
        self._questions = {asked: None for asked in self._questions if asked[0] != node}
        for unheard in self._unheard.values():
            unheard.pop(node, None)
        if node in self._incarnations:
            self._forgotten.add(node)
        self._former.pop(node, None)
        for outgoing in self._outgoing.values():
            outgoing.forget(node)

    def disown(self, node: str, incarnation: int) -> None:
        """
        Take back that *node* began anew, if that was in a later incarnation than it has, which is *incarnation*.

        Its sessions go on where they were.
        """
        if self._incarnations.get(node, 0) > incarnation:
            self._resumed |= self._former.get(node, {})
            self.forget(node)
            self._incarnations[node] = 0

    def close(self) -> None:
        """Take nothing more from our own partition, and tell every sender what we took in."""
        self._closed = True
        self.left(self._own)

    def left(self, partition: str) -> None:
        """Drop what is known of the sessions to *partition*: what they carry now is not for us."""
        for key in [key for key, incoming in self._incoming.items() if incoming.partition == partition]:
            self._drop(key).leave()
        self._questions = {asked: None for asked in self._questions if asked[1] != partition}
        self._unheard.pop(partition, None)

    def tend(self, now: float) -> Iterator[Ready | Gap]:
        """Do what is due: ask for what is missing, give up on what nobody has, drop frames that are too old."""
        yield from self._rest(now)
        for incoming in list(self._incoming.values()):
            if note := incoming.due(now):
                self.tell(incoming.node, note)
            yield from incoming.given_up(now)
        if self._questions and now >= self._ask_at:
            self._ask_again(now)
        if now >= self._active_until:
            budget = self._options.receive_budget
            self.window = min(budget, SMALLEST_WINDOW)  # also of the next ones who begin, all at once perhaps
            if self._active:
                self.window = max(budget // len(self._active), self.window)
            mine = {incoming for incoming in self._active | self._reporting if incoming.partition == self._own}
            self._reporting = {incoming for incoming in mine if not incoming.report()}
            self._active.clear()
            self._active_until = now + 1.0
        self.narrowed = max(int(self.window * self.ease), min(self.window, NARROWEST_WINDOW))
        while self._kept and self._kept[0].at < now - self._options.resend_age:
            self._drop_oldest()

    def keep(self, kept: Kept) -> None:
        """Keep a frame, and let go of the oldest of all sessions beyond the bound."""
        kept.outgoing.kept.append(kept)
        self._kept.append(kept)
        self._kept_size += len(kept.data)
        while self._kept_size > self._options.resend_size:
            self._drop_oldest()

    def unkeep(self, outgoing: Outgoing) -> None:
        """Keep the frame of *outgoing* that was kept last no more."""
        kept = outgoing.kept.pop()
        self._kept_size -= len(kept.data)
        kept.gone = True
        kept.data = b""  # it stays in line until its time is over

    def tell(self, node: str, note: Note) -> None:
        """Leave *note* for the outbox to take along, if there are not too many: what is asked is asked again."""
        notes = self.notes.setdefault(node, [])
        if len(notes) < MAX_NOTES:
            notes.append(note)
        self.on_note()

    def _take(self, header: Header, body: memoryview, now: float) -> Iterator[Ready | Gap]:
        incoming = self._incoming.get((header.node, header.session)) or self._begin(header)
        self._active.add(incoming)
        if self._questions and (header.node, header.partition) in self._questions:
            del self._questions[header.node, header.partition]
            self.on_answer()
        yield from incoming.on_frame(header, body, now)

    def _greet(self, node: str, incarnation: int) -> None:
        """Take note of a new incarnation of *node*: its sessions are others."""
        if node in self._incarnations:
            former = {key: incoming.expected for key, incoming in self._incoming.items() if key[0] == node}
            self.forget(node)
            self._former[node] = former
            self._forgotten.discard(node)
        elif len(self._incarnations) >= MAX_INCOMING:
            self._forgotten.discard(oldest := next(iter(self._incarnations)))
            del self._incarnations[oldest]
        self._incarnations[node] = incarnation

    def _begin(self, header: Header) -> Incoming:
        """Begin with a session of which *header* is the first that we hear."""
        if len(self._incoming) >= MAX_INCOMING:
            self._forgotten.add(next(iter(self._incoming))[0])
            self._ended.append(self._drop(next(iter(self._incoming))))
        unheard = self._unheard.get(header.partition)
        listed = -1 if unheard is None else unheard.get(header.node, -1)
        if unheard and listed == header.incarnation:
            del unheard[header.node]
        since_its_start = unheard is not None and header.incarnation > listed and header.node not in self._forgotten
        key = header.node, header.session
        incoming = Incoming(self, header, self._resumed.pop(key, 1 if since_its_start else header.first))
        self._incoming[key] = incoming
        return incoming

    def _drop(self, key: tuple[str, int]) -> Incoming:
        incoming = self._incoming.pop(key)
        incoming.closed = True
        self._active.discard(incoming)
        return incoming

    def _rest(self, now: float) -> Iterator[Ready | Gap]:
        while self._ended:
            yield from self._ended.pop(0).rest(now)

    def _ask(self, questions: Iterable[tuple[str, str]]) -> None:
        self._asked, self._ask_at = 0, 0.0
        for node, partition in questions:
            self._questions[node, partition] = None
            self.tell(node, Note(WHERE, partition=partition))

    def _ask_again(self, now: float) -> None:
        if self._asked == len(ASK_AGAIN):
            self._questions.clear()
            self.on_answer()
            return
        if self._asked:
            for node, partition in self._questions:
                self.tell(node, Note(WHERE, partition=partition))
        self._ask_at = now + ASK_AGAIN[self._asked]
        self._asked += 1

    def _drop_oldest(self) -> None:
        kept = self._kept.popleft()
        if not kept.gone:
            kept.outgoing.kept.popleft()
            self._kept_size -= len(kept.data)

    def _on_note(self, node: str, note: Note, now: float) -> Iterator[Ready | Gap]:
        if note.kind in (ASK, GONE):
            incoming = self._incoming.get((node, note.session))
            if incoming and note.kind == ASK:
                incoming.grant()
            elif incoming:
                yield from incoming.gone(note.first, note.last, now)
            return
        if note.kind == WHERE:
            self._say_where(node, note.partition, now)
            return
        outgoing = self._by_number.get(note.session)
        if outgoing is None or note.incarnation != self.incarnation:
            return
        if note.kind == GRANT:
            outgoing.granted(node, note.first, note.last)
        elif note.kind == MISSING:
            self._send_again(node, outgoing, note)
        elif note.kind == LEFT:
            outgoing.forget(node)
            if outgoing.partition == node_partition(node):
                self.on_left(outgoing, note.first)

    def _say_where(self, node: str, partition: str, now: float) -> None:
        own = node_partition(node)
        if (partition == own or partition in self._shared) and not self._crowded():
            session = self.outgoing(Partition(partition), node if partition == own else None)
            self._resend(node, [session.pack((), 0, [], now).data])

    def _send_again(self, node: str, outgoing: Outgoing, note: Note) -> None:
        if self._crowded():
            return
        frames, lowest = outgoing.again(note.first, note.last)
        if lowest > note.first:
            gone = min(note.last, lowest - 1)
            self.tell(node, Note(GONE, note.session, note.incarnation, note.first, gone))
        self.repaired += len(frames)
        self._resend(node, frames)

    def _crowded(self) -> bool:
        """Return whether so much waits to be sent again that who asks now has to ask once more."""
        if not self.resend:
            self._resend_size = 0
        return len(self.resend) >= MAX_RESEND or self._resend_size >= MAX_RESEND_SIZE

    def _resend(self, node: str, frames: list[bytes]) -> None:
        self.resend.extend(Frame(node_partition(node), data) for data in frames)
        self._resend_size += sum(map(len, frames))
        self.on_note()
