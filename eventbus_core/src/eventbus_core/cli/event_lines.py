"""Events as lines: of JSON for programs, and of text for people."""

from __future__ import annotations

import re
from collections.abc import Sequence
from contextlib import suppress
from datetime import datetime
from typing import Any, Final

import msgspec
from rich.text import Text

from eventbus_core.cli.console import StdoutConsole, write_utf8
from eventbus_core.errors import EventDataError
from eventbus_core.model.event import Event

_CONTROL_CHARACTERS: Final = re.compile("[\x00-\x1f\x7f-\x9f\u200e\u200f\u202a-\u202e\u2066-\u2069]")


class EventLine(msgspec.Struct, frozen=True, omit_defaults=True):
    """An event as a line of JSON: its ``data``, or ``raw`` after --no-decode or if JSON cannot represent the data."""

    type: str
    source: str
    target: str
    id: str
    headers: dict[str, str] | None = None
    position: str | None = None
    data: msgspec.Raw | msgspec.UnsetType = msgspec.UNSET
    raw: bytes | msgspec.UnsetType = msgspec.UNSET


def line_of(event: Event, *, decode: bool) -> EventLine:
    """Return the line of *event*."""
    facts = (event.type, event.source, event.target, event.id, event.headers, event.position)
    if decode:
        with suppress(EventDataError, TypeError, ValueError):
            return EventLine(*facts, data=msgspec.Raw(msgspec.json.encode(event.data)))
    return EventLine(*facts, raw=bytes(event.raw))


def print_lines(lines: Sequence[EventLine]) -> None:
    """Print *lines* as JSON."""
    write_utf8("".join(_harmless(msgspec.json.encode(line).decode()) + "\n" for line in lines))


class PrettyLines:
    """Shows events to people: the time or the position, type, source, target and data."""

    def __init__(self, *, positions: bool = False) -> None:
        self._console = StdoutConsole()
        self._positions = positions

    def show(self, lines: Sequence[EventLine]) -> None:
        """Print *lines*, one line each."""
        now = datetime.now().strftime("%H:%M:%S.%f")[:-3]
        texts = [self._text(line.position or "" if self._positions else now, line) for line in lines]
        self._console.print(Text("\n").join(texts), soft_wrap=True)

    def _text(self, first: str, line: EventLine) -> Text:
        data: Any = line.raw.hex(" ") if isinstance(line.raw, bytes) else bytes(line.data or b"").decode()
        return Text.assemble(
            (first, "dim"),
            " ",
            (_harmless(line.type), "bold cyan"),
            " ",
            (_harmless(f"{line.source} > {line.target}"), "green"),
            f" {_harmless(data)}",
        )


def _harmless(text: str) -> str:
    """Return *text* with JSON escapes in place of characters that control a terminal or the direction of text."""
    return _CONTROL_CHARACTERS.sub(lambda found: f"\\u{ord(found[0]):04x}", text)
