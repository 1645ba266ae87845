"""Rows that are compared and set, in a stream of JetStream."""

from __future__ import annotations

import json
from base64 import urlsafe_b64encode
from datetime import datetime
from typing import Any, NamedTuple

import nats.errors
from nats.aio.client import Client

from eventbus_core.backend import TransportURI
from eventbus_core.errors import ConfigurationError, TransportUnavailable
from eventbus_nats.errors import translated

STREAM = "eventbus-directory"
PAGE = 500
CHANGED = (10043, 10057, 10071)
"""JetStream's codes for: it is not there any more, and the last of the subject is another."""


class Row(NamedTuple):
    """The last message of a subject; its number in the stream is its revision, and those only grow."""

    subject: str
    revision: int
    written: datetime
    value: str


class Rows:
    """A stream that keeps the last message of each subject, as JetStream's key-value buckets do."""

    def __init__(self, client: Client, uri: TransportURI, timeout: float) -> None:
        self._client = client
        self._uri = uri
        self._timeout = timeout

    async def open(self) -> None:
        """Make the stream if there is none."""
        config = {"name": STREAM, "subjects": [f"{STREAM}.>"], "max_msgs_per_subject": 1, "allow_direct": True}
        try:
            await self._ask(f"$JS.API.STREAM.CREATE.{STREAM}", json.dumps({**config, "storage": "file"}))
        except TransportUnavailable as error:
            if isinstance(error.__cause__, nats.errors.NoRespondersError):
                raise ConfigurationError(f"{self._uri} has no JetStream; start nats-server with -js") from error
            raise

    def subject(self, kind: str, name: str | None = None) -> str:
        """Return the subject of the row of *name*, or, without one, what matches all of that kind."""
        return f"{STREAM}.{kind}.{_token(self._uri.namespace)}.{'*' if name is None else _token(name)}"

    async def now(self) -> datetime:
        """Return the time by the server's clock, which dates the rows too."""
        return _time((await self._ask(f"$JS.API.STREAM.INFO.{STREAM}"))["ts"])

    async def at(self, *subjects: str) -> list[Row]:
        """Return the rows of *subjects* as they are at one moment; 1024 at the most."""
        return await self._get(multi_last=subjects)

    async def page(self, subject: str, start: int) -> list[Row]:
        """Return the first so many rows that match *subject*, from revision *start* on."""
        return await self._get(next_by_subj=subject, seq=start, batch=PAGE)

    async def write(self, subject: str, revision: int, value: str) -> int:
        """Return the new revision; or 0, and write nothing, if the row does not have *revision*."""
        expected = {"Nats-Expected-Last-Subject-Sequence": str(revision)}
        return int((await self._ask(subject, value, expected)).get("seq", 0))

    async def remove(self, revision: int) -> None:
        """Remove the row that has *revision*, if one still does."""
        await self._ask(f"$JS.API.STREAM.MSG.DELETE.{STREAM}", json.dumps({"seq": revision, "no_erase": True}))

    async def _get(self, **query: Any) -> list[Row]:
        rows = []
        with translated(self._uri):
            inbox = self._client.new_inbox()
            answers = await self._client.subscribe(inbox)
            try:
                await self._client.publish(f"$JS.API.DIRECT.GET.{STREAM}", json.dumps(query).encode(), reply=inbox)
                while True:
                    answer = await answers.next_msg(self._timeout)
                    facts = answer.headers or {}
                    if status := facts.get("Status"):
                        break
                    written, value = _time(facts["Nats-Time-Stamp"]), answer.data.decode(errors="replace")
                    rows.append(Row(facts["Nats-Subject"], int(facts["Nats-Sequence"]), written, value))
            finally:
                if not self._client.is_closed:
                    await answers.unsubscribe()
        if status not in ("204", "404"):  # the end, or nothing found
            raise TransportUnavailable(f"JetStream at {self._uri} refuses to read: {facts}")
        return rows

    async def _ask(self, subject: str, body: str = "", headers: dict[str, str] | None = None) -> dict[str, Any]:
        with translated(self._uri):
            answer = await self._client.request(subject, body.encode(), self._timeout, headers=headers)
        facts: dict[str, Any] = json.loads(answer.data)
        if (error := facts.get("error")) and error["err_code"] not in CHANGED:
            raise TransportUnavailable(f"JetStream at {self._uri} refuses: {error['description']}")
        return facts


def _token(name: str) -> str:
    return "-" + urlsafe_b64encode(name.encode()).decode()


def _time(text: str) -> datetime:
    return datetime.fromisoformat(text)
