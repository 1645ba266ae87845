"""Which topics are retained, and how much of each: the option ``retain``, parsed and checked. No I/O."""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import lru_cache
from typing import Any, ClassVar, Final, Self

import attrs

from eventbus_core.errors import OptionError
from eventbus_core.model.names import check_client, check_pattern, check_text
from eventbus_core.model.topics import PatternIndex

DAY: Final = 86_400
ANY: Final = "*"

_TEXT: Final = re.compile(r"(?P<pattern>.+)=(?P<events>\d+)/(?P<seconds>\d+(?:\.\d+)?)/(?P<bytes>\d+)")


def _between(least: float, most: float, *kinds: type[float]) -> Any:
    number = "a number" if float in kinds else "a whole number"

    def check(_retention: Retention, field: attrs.Attribute[Any], value: float) -> None:
        if type(value) not in kinds or not least <= value <= most:
            raise OptionError.bad_value(f"Retention.{field.name}", value, f"{number} from {least:,g} to {most:,}")

    return check


@attrs.frozen
class Retention:
    """
    How much of one stream is kept: what is beyond any of the three bounds is removed, the oldest first.

    Attributes:
        events: the newest so many events.
        seconds: for so long.
        bytes: of encoded events; those that were published in one batch are removed together.

    Raises:
        OptionError: a value is no number, or out of its bounds.
    """

    events: int = attrs.field(default=1000, validator=_between(1, 1_000_000, int))
    seconds: float = attrs.field(default=600.0, validator=_between(0.1, 30 * DAY, int, float))
    bytes: int = attrs.field(default=8 * 1024 * 1024, validator=_between(1024, 2**40, int))

    def __str__(self) -> str:
        return f"{self.events}/{self.seconds:.10g}/{self.bytes}"


@attrs.frozen(eq=False)
class RetainedPatterns:
    """
    The patterns of retained topics, each with its retention. The first pattern that matches a topic counts.

    As text, ``str`` gives what :meth:`parse` takes: ``pattern=events/seconds/bytes``, separated by commas.
    """

    option: ClassVar[str] = "retain"
    expected: ClassVar[str] = "a dict of topic pattern to Retention, or text such as 'chat.>=1000/600/1048576'"

    patterns: Mapping[str, Retention] = attrs.field(factory=dict)
    _index: PatternIndex[str] = attrs.field(init=False, factory=PatternIndex)

    def __attrs_post_init__(self) -> None:
        for pattern in self.patterns:
            self._index.add(check_pattern(pattern), pattern)

    @classmethod
    def parse(cls, value: object) -> Self:
        """
        Return the patterns in *value*: a mapping, or the text of :meth:`__str__`.

        Raises:
            OptionError: it is neither.
            InvalidName: a pattern breaks the rules.
        """
        if isinstance(value, cls):
            return value
        if isinstance(value, str):
            value = dict(map(cls._rule, value.split(","))) if value else {}
        if not isinstance(value, Mapping) or not all(isinstance(kept, Retention) for kept in value.values()):
            raise OptionError.bad_value(cls.option, value, cls.expected)
        return cls(dict(value))

    @classmethod
    def _rule(cls, text: str) -> tuple[str, Retention]:
        match = _TEXT.fullmatch(text)
        if match is None:
            raise OptionError.bad_value(cls.option, text, cls.expected)
        return match["pattern"], Retention(int(match["events"]), float(match["seconds"]), int(match["bytes"]))

    def __bool__(self) -> bool:
        return bool(self.patterns)

    def __str__(self) -> str:
        return ",".join(f"{pattern}={retention}" for pattern, retention in self.patterns.items())

    def of(self, topic: str) -> Retention | None:
        """Return the retention of *topic*; ``None`` if it is not retained."""
        matching = self._index.match(topic)
        return self.patterns[matching[0]] if matching else None

    def overlap(self, pattern: str) -> bool:
        """Return whether a topic that *pattern* matches may be retained."""
        return any(_overlap(pattern, other) for other in self.patterns)


class RetainedClients(RetainedPatterns):
    """The names of retained clients, each with its retention; in a name, ``*`` stands for any text without a slash."""

    option: ClassVar[str] = "retain_clients"
    kind: ClassVar[str] = "client"
    expected: ClassVar[str] = "a dict of client name to Retention, or text such as 'acme/*=200/300/1048576'"

    def __attrs_post_init__(self) -> None:
        for name in self.patterns:
            check_client(check_text(self.kind, name).replace(ANY, "x"), self.kind)

    def of(self, client: str) -> Retention | None:
        """Return the retention of *client*; ``None`` if it is not retained."""
        return next((kept for name, kept in self.patterns.items() if _form(name).fullmatch(client)), None)


class RetainedQueues(RetainedClients):
    """The names of retained queues, each with its retention; with ``*`` as for clients."""

    option: ClassVar[str] = "retain_queues"
    kind: ClassVar[str] = "queue"
    expected: ClassVar[str] = "a dict of queue name to Retention, or text such as 'jobs=10000/86400/67108864'"


def record_retention(retention: Retention) -> Retention:
    """
    Return how long to keep the record of what is handled of a stream with *retention*: only the latest one.

    It must outlive the position of the stream, by which the next reader learns what is gone.
    """
    return Retention(events=1, seconds=min(retention.seconds + DAY, 30 * DAY), bytes=2**30)


@lru_cache(maxsize=1024)
def _form(name: str) -> re.Pattern[str]:
    return re.compile("[^/]*".join(map(re.escape, name.split(ANY))))


@lru_cache(maxsize=4096)
def _overlap(first: str, second: str) -> bool:
    """Return whether one topic can match both patterns."""
    ours, theirs = first.split("."), second.split(".")
    for one, other in zip(ours, theirs, strict=False):
        if ">" in (one, other):
            return True
        if one != other and "*" not in (one, other):
            return False
    return len(ours) == len(theirs)
