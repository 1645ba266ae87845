"""
All errors that eventbus raises on purpose.

::

    EventBusError
    ├── ConfigurationError (ValueError)
    │   ├── UnknownBackendError (LookupError)     no installed backend serves the scheme of the URI
    │   ├── BackendLoadError (ImportError)        a backend is installed but cannot be used
    │   ├── OptionError                           an unknown option, or a wrong value
    │   ├── NamespaceMismatch                     the namespace was created with other settings
    │   └── PartitionRefused                      the broker refuses some lanes or frames, and takes the others
    ├── InvalidName (ValueError)                  a client, node, topic, type or pattern
    ├── EventDataError (TypeError)                data that cannot be encoded, or is of another type
    ├── EventTooLarge (ValueError)                an event over the size limit
    ├── LimitExceeded                             a limit that an option sets was reached
    ├── ClientNotFound (LookupError)              no node holds the client, or no such node is live
    ├── TopicNotRetained (LookupError)            the topic has no history
    ├── ClientAlreadyClaimed                      a claim was rejected: another node holds the client
    ├── ClientTakenOver                           another claim took over the client of this handle
    ├── NodeAlreadyPresent                        a live node has this id
    ├── NodeDraining                              the node gives up its clients, and claims none
    ├── RequestFailed                             a request that no answer will follow
    ├── RequestTimeout (TimeoutError)             no answer in time
    ├── BusClosed                                 the bus, or the handle of a client, is closed
    ├── TransportUnavailable (ConnectionError)    the broker cannot be reached, or accepts nothing
    │   └── ClaimsSuspended                       the directory takes no change from any node now
    └── FrameError (ValueError)                   bytes that are not a frame of this bus

Constructors write the messages, so that one fault has one message everywhere.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from difflib import get_close_matches
from reprlib import Repr
from typing import Final

_repr: Final = Repr()
_repr.maxstring = _repr.maxother = 80


def shown(value: object) -> str:
    """Return the repr of *value* for an error message, shortened if it is long."""
    try:
        return _repr.repr(value)
    except Exception:  # for example of an integer with too many digits
        return f"<{type(value).__name__}>"


class EventBusError(Exception):
    """The base class of all errors that eventbus raises on purpose."""


def fresh_copy(error: EventBusError) -> EventBusError:
    """
    Return an exception like *error* that was never raised.

    An exception object is raised once: each further raise would lengthen the traceback that all its holders share.
    """
    copy = type(error).__new__(type(error), *error.args)
    copy.__dict__.update(error.__dict__)
    return copy


class ConfigurationError(EventBusError, ValueError):
    """Raised when a bus cannot be set up as asked; waiting does not help."""


class UnknownBackendError(ConfigurationError, LookupError):
    """Raised when no installed backend serves the scheme of a URI."""


class BackendLoadError(ConfigurationError, ImportError):
    """Raised when a backend is installed but cannot be loaded, or two distributions claim one scheme."""


class OptionError(ConfigurationError):
    """Raised for an unknown option, or a value that the option cannot have."""

    @classmethod
    def unknown(cls, name: str, known: Iterable[str]) -> OptionError:
        """Return the error for a *name* that is none of the *known* ones."""
        names = sorted(known)
        close = get_close_matches(name, names, n=1)
        hint = f"did you mean {close[0]!r}? " if close else ""
        return cls(f"unknown option {name!r}; {hint}known options: {', '.join(names)}")

    @classmethod
    def bad_value(cls, name: str, value: object, expected: str) -> OptionError:
        """Return the error for a *value* that is not as *expected*."""
        return cls(f"option {name!r} is {shown(value)}; it must be {expected}")


SEAL_TERM: Final = "the seal"
LANES_TERM: Final = "a lane count of"
RETAIN_TERM: Final = "the retention"
_HINTS: Final = {
    SEAL_TERM: "give all nodes the same secret (secret=, secret_file= or EVENTBUS_SECRET) and the same encrypt=, or "
    "use another namespace; to replace a secret, have nodes with both first; to begin or end sealing, stop all nodes",
    RETAIN_TERM: "give all nodes the same retain= (topics), retain_clients= and retain_queues=, or use another "
    "namespace",
}


class NamespaceMismatch(ConfigurationError):
    """Raised when a node joins a namespace that its first node created with other settings."""

    def __init__(self, namespace: str, term: str, theirs: object, ours: object) -> None:
        hint = _HINTS.get(term, "use the same value on all nodes, or another namespace")
        super().__init__(f"namespace {namespace!r} has {term} {theirs!r}, this node has {ours!r}; {hint}")
        self.term = term
        self.theirs = theirs
        self.ours = ours


class PartitionRefused(ConfigurationError):
    """
    Raised when the broker refuses some partitions until its configuration changes, and takes the others.

    Attributes:
        partitions: those that it refuses.
        receivers: of a publish: the receivers of each frame, -1 for each refused one; all others were taken.
    """

    def __init__(self, reason: str, partitions: Sequence[str], receivers: Sequence[int] = ()) -> None:
        super().__init__(reason)
        self.partitions = tuple(partitions)
        self.receivers = tuple(receivers)


class InvalidName(EventBusError, ValueError):
    """Raised for a name that breaks the rules of its kind."""

    def __init__(self, kind: str, name: object, rule: str) -> None:
        super().__init__(f"{shown(name)} is not a valid {kind}: {rule}")


class EventDataError(EventBusError, TypeError):
    """Raised for data that MessagePack cannot represent, or that is not of the requested type."""


class EventTooLarge(EventBusError, ValueError):
    """Raised when an event is larger than the limit; no part of it was sent."""

    def __init__(self, size: int, limit: int) -> None:
        super().__init__(
            f"the event has {size:,} bytes, the limit is {limit:,}; "
            f"send a reference to the data, or raise max_event_size on every node"
        )
        self.size = size
        self.limit = limit


class LimitExceeded(EventBusError):
    """Raised when a limit was reached; ``option`` is the name of the option that sets it, ``limit`` its value."""

    def __init__(self, what: str, option: str, limit: int, hint: str) -> None:
        super().__init__(f"{what}: {option} is {limit:,}; {hint}")
        self.option = option
        self.limit = limit


class ClientNotFound(EventBusError, LookupError):
    """Raised when an event is sent to a client that no node holds, or to a node that is not live."""

    def __init__(self, address: str) -> None:
        if address.startswith("@"):
            found = f"no live node has the id {address[1:]!r}"
        else:
            found = f"no node holds client {address!r}"
        super().__init__(f"{found}; the event was not sent")
        self.address = address


class TopicNotRetained(EventBusError, LookupError):
    """Raised when the history of a topic is asked for that is not retained."""

    def __init__(self, topic: str) -> None:
        super().__init__(
            f"topic {topic!r} is not retained; give every node retain={{{topic!r}: Retention(...)}} or a pattern that "
            f"matches it"
        )
        self.topic = topic


class ClientAlreadyClaimed(EventBusError):
    """Raised by a claim with ``takeover=False`` when another node holds the client."""

    def __init__(self, client: str, node: str) -> None:
        super().__init__(f"node {node!r} holds client {client!r}; claim it with takeover=True to move it here")
        self.client = client
        self.node = node


class ClientTakenOver(EventBusError):
    """Raised by the handle of a client that another claim has taken over."""

    def __init__(self, client: str, node: str | None = None) -> None:
        where = f"node {node!r}" if node else "another claim"
        super().__init__(f"{where} took over client {client!r}; this handle is closed")
        self.client = client
        self.node = node


class NodeAlreadyPresent(EventBusError):
    """Raised when a node joins with the id of a live node."""

    def __init__(self, node: str) -> None:
        super().__init__(
            f"a live node of this namespace has the id {node!r}; "
            f"choose another id, or wait for the end of its lease if that node has died"
        )
        self.node = node


class NodeDraining(EventBusError):
    """
    Raised when a node that drains does not hold a client, or holds it no more: connect it to another node.

    Attributes:
        client, node: their names.
        retry_after: seconds after which the client should connect again. They differ from client to client, so that
            those that had to go at the same moment do not come at the same moment.
    """

    def __init__(self, client: str, node: str, retry_after: float) -> None:
        super().__init__(
            f"node {node!r} is draining, so it does not hold client {client!r}; "
            f"connect the client to another node, in {retry_after:.2f} s"
        )
        self.client = client
        self.node = node
        self.retry_after = retry_after


class RequestFailed(EventBusError):
    """Raised when a request was accepted but no answer will follow; ``reason`` says why."""

    def __init__(self, target: str, reason: str) -> None:
        super().__init__(f"the request to {target!r} failed: {reason}")
        self.target = target
        self.reason = reason


class RequestTimeout(EventBusError, TimeoutError):
    """Raised when an awaited answer or event did not arrive in time."""

    def __init__(self, what: str, timeout: float) -> None:
        super().__init__(f"{what} did not arrive within {timeout:g} s")
        self.timeout = timeout


class BusClosed(EventBusError):
    """Raised when a bus, or the handle of a client, is used before it was opened or after it was closed."""


class TransportUnavailable(EventBusError, ConnectionError):
    """Raised when the broker cannot be reached, or does not accept an event in time."""


class ClaimsSuspended(TransportUnavailable):
    """
    Raised by a directory that can be read, and for now takes no change from any node: it is out of memory, say.

    A node whose renewals raise it keeps its clients, since no other node can claim them meanwhile. A directory whose
    other copies may take changes, such as a replica, must not raise it.
    """


class FrameError(EventBusError, ValueError):
    """
    Raised for bytes that are not a frame of this bus; a reader counts them by ``kind`` and continues.

    Kinds: ``malformed``, ``truncated``, ``oversized``, ``checksum``, ``version``, ``foreign``, ``sealed``,
    ``unsealed``, ``wrong seal``, ``stale seal``.
    """

    def __init__(self, kind: str, detail: str) -> None:
        super().__init__(f"{kind} frame: {detail}")
        self.kind = kind
