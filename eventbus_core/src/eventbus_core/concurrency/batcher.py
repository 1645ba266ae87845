"""Combines many small requests into few bulk calls: requests made during one call go together into the next."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Generic, TypeVar, cast

import anyio

from eventbus_core.concurrency.service_group import ServiceGroup
from eventbus_core.concurrency.worker import Worker
from eventbus_core.errors import EventBusError, fresh_copy
from eventbus_core.model.state import not_open

Q = TypeVar("Q")
A = TypeVar("A")

MAX_BATCH = 1000


class _Question(Generic[Q, A]):
    __slots__ = ("answer", "asker_left", "done", "error", "question")

    def __init__(self, question: Q) -> None:
        self.question = question
        self.done = anyio.Event()
        self.answer: A | None = None
        self.error: EventBusError | None = None
        self.asker_left = False

    def leave(self) -> None:
        """Note that the answer is not waited for."""
        self.asker_left = True


class Batcher(Generic[Q, A]):
    """
    Collects the questions of many tasks and asks them in one bulk call, in the order in which they came.

    The call runs in a task of *services*, so a caller can be cancelled at once. If its answer arrives
    after that, *abandoned* is called with the question and the answer.
    """

    def __init__(
        self,
        services: ServiceGroup,
        call: Callable[[Sequence[Q]], Awaitable[Sequence[A]]],
        abandoned: Callable[[Q, A], None] = lambda _question, _answer: None,
    ) -> None:
        self._call = call
        self._abandoned = abandoned
        self._waiting: list[_Question[Q, A]] = []
        self._last: _Question[Q, A] | None = None
        self._closed = False
        self._worker = Worker(services, self._run)
        services.ended.connect(self._close)

    async def ask(self, question: Q) -> A:
        """
        Return the answer to *question*.

        Raises:
            EventBusError: the bulk call failed; each caller whose question was in it gets a copy of the error.
            BusClosed: the services have ended.
        """
        entry = self._put(question)
        try:
            await entry.done.wait()
        except BaseException:
            entry.leave()
            if entry.done.is_set() and entry.error is None:
                self._abandoned(question, cast("A", entry.answer))
            raise
        if entry.error is not None:
            raise fresh_copy(entry.error) from entry.error
        return cast("A", entry.answer)

    def tell(self, question: Q) -> None:
        """Ask *question* without waiting for the answer."""
        self._put(question).leave()

    @property
    def waiting(self) -> bool:
        """Whether there are questions that no call has taken yet."""
        return bool(self._waiting)

    @property
    def busy(self) -> bool:
        """Whether there are questions without an answer."""
        return self._last is not None and not self._last.done.is_set()

    async def settled(self) -> None:
        """Return once every question asked so far has an answer."""
        if self._last is not None:
            await self._last.done.wait()

    async def _run(self) -> None:
        while self._waiting:
            batch, self._waiting = self._waiting[:MAX_BATCH], self._waiting[MAX_BATCH:]
            await self._serve(batch)

    def _close(self) -> None:
        self._closed = True
        _fail(self._waiting, not_open())

    def _put(self, question: Q) -> _Question[Q, A]:
        if self._closed:
            raise not_open()
        entry: _Question[Q, A] = _Question(question)
        self._waiting.append(entry)
        self._last = entry
        self._worker.wake()
        return entry

    async def _serve(self, batch: list[_Question[Q, A]]) -> None:
        try:
            answers = await self._call([entry.question for entry in batch])
        except EventBusError as error:
            _fail(batch, error)
            return
        except BaseException:
            _fail(batch, not_open())
            raise
        for entry, answer in zip(batch, answers, strict=True):
            entry.answer = answer
            entry.done.set()
            if entry.asker_left:
                self._abandoned(entry.question, answer)


def _fail(entries: Sequence[_Question[Any, Any]], error: EventBusError) -> None:
    for entry in entries:
        entry.error = error
        entry.done.set()
