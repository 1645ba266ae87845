"""
Everything that eventbus raises on purpose.

::

    EventBusError
    ├── ConfigurationError (ValueError)
    │   ├── UnknownBackendError (LookupError)     no installed backend serves the scheme
    │   ├── BackendLoadError (ImportError)        a backend is installed but cannot be used
    │   ├── OptionError                           an unknown option, or a bad value
    │   └── NamespaceMismatch                     the namespace was founded with other terms
    ├── InvalidName (ValueError)                  a client, node, topic, type or pattern
    ├── EventDataError (TypeError)                data that the wire cannot hold, or of another type
    ├── EventTooLarge (ValueError)                an event over the size limit
    ├── LimitExceeded                             a bound that an option sets was met
    ├── ClientNotFound (LookupError)              nobody owns the client
    ├── ClientAlreadyClaimed                      refused: another node holds the client
    ├── ClientTakenOver                           this handle's client now belongs to another
    ├── NodeAlreadyPresent                        a live node has this id
    ├── RequestFailed                             a request that can have no answer
    ├── RequestTimeout (TimeoutError)             no answer in time
    ├── BusClosed                                 the bus, or the client's handle, is closed
    ├── TransportUnavailable (ConnectionError)    the broker cannot be reached, or takes nothing
    └── FrameError (ValueError)                   bytes that are no frame of ours

Constructors write the messages, so that one fault reads the same everywhere.
"""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches


class EventBusError(Exception):
    """The root of all errors that eventbus raises on purpose."""


class ConfigurationError(EventBusError, ValueError):
    """Raised when a bus cannot be set up as asked; waiting will not mend it."""


class UnknownBackendError(ConfigurationError, LookupError):
    """Raised when no installed backend serves the scheme of a URI."""


class BackendLoadError(ConfigurationError, ImportError):
    """Raised when a backend is installed but cannot be loaded, or two claim one scheme."""


class OptionError(ConfigurationError):
    """Raised for an option that nobody knows, or a value that it cannot take."""

    @classmethod
    def unknown(cls, name: str, known: Iterable[str]) -> OptionError:
        """Return the error for a *name* that is none of the *known* ones."""
        names = sorted(known)
        close = get_close_matches(name, names, n=1)
        hint = f"did you mean {close[0]!r}? " if close else ""
        return cls(f"unknown option {name!r}; {hint}known options: {', '.join(names)}")

    @classmethod
    def bad_value(cls, name: str, value: object, expected: str) -> OptionError:
        """Return the error for a *value* that is not what is *expected*."""
        return cls(f"option {name!r} is {value!r}; it must be {expected}")


class NamespaceMismatch(ConfigurationError):
    """Raised when a node comes to a namespace with other terms than its founder's."""

    def __init__(self, namespace: str, term: str, theirs: object, ours: object) -> None:
        super().__init__(
            f"namespace {namespace!r} has {term} {theirs!r}, this node came with {ours!r}; "
            f"use the same everywhere, or another namespace"
        )
        self.term = term
        self.theirs = theirs
        self.ours = ours


class InvalidName(EventBusError, ValueError):
    """Raised for a name that breaks the rules of its kind."""

    def __init__(self, kind: str, name: object, rule: str) -> None:
        shown = repr(name)
        if len(shown) > 80:
            shown = f"{shown[:60]}...{shown[-10:]}"
        super().__init__(f"{shown} is not a valid {kind}: {rule}")


class EventDataError(EventBusError, TypeError):
    """Raised for data that MessagePack cannot hold, or that is not of the type asked for."""


class EventTooLarge(EventBusError, ValueError):
    """Raised when an event is larger than the limit; nothing of it was sent."""

    def __init__(self, size: int, limit: int) -> None:
        super().__init__(
            f"the event takes {size:,} bytes, the limit is {limit:,}; "
            f"send a reference to the data, or raise max_event_size on every node"
        )
        self.size = size
        self.limit = limit


class LimitExceeded(EventBusError):
    """Raised where a bound was met; ``option`` is the name of the option that sets it, ``limit`` its value."""

    def __init__(self, what: str, option: str, limit: int, mend: str) -> None:
        super().__init__(f"{what}: {option} is {limit:,}; {mend}")
        self.option = option
        self.limit = limit


class ClientNotFound(EventBusError, LookupError):
    """Raised when an event is sent to a client or node that is not on the bus."""

    def __init__(self, address: str) -> None:
        super().__init__(f"nobody on the bus is {address!r}; the event was not sent")
        self.address = address


class ClientAlreadyClaimed(EventBusError):
    """Raised by a claim with ``takeover=False`` when another node holds the client."""

    def __init__(self, client: str, node: str) -> None:
        super().__init__(f"client {client!r} is held by node {node!r}; claim it with takeover=True to move it here")
        self.client = client
        self.node = node


class ClientTakenOver(EventBusError):
    """Raised by the handle of a client that was claimed elsewhere since."""

    def __init__(self, client: str, node: str | None = None) -> None:
        where = f"node {node!r}" if node else "another claim"
        super().__init__(f"client {client!r} was taken over by {where}; this handle has ended")
        self.client = client
        self.node = node


class NodeAlreadyPresent(EventBusError):
    """Raised when a node enters with the id of a live one."""

    def __init__(self, node: str) -> None:
        super().__init__(
            f"a node with the id {node!r} is alive in this namespace; "
            f"choose another id, or wait until its lease ends if it has died"
        )
        self.node = node


class RequestFailed(EventBusError):
    """Raised when a request was accepted but will never be answered; ``reason`` says why."""

    def __init__(self, target: str, reason: str) -> None:
        super().__init__(f"the request to {target!r} cannot be answered: {reason}")
        self.target = target
        self.reason = reason


class RequestTimeout(EventBusError, TimeoutError):
    """Raised when what was waited for did not come in time."""

    def __init__(self, what: str, timeout: float) -> None:
        super().__init__(f"{what} did not come within {timeout:g} s")
        self.timeout = timeout


class BusClosed(EventBusError):
    """Raised when a bus or a client's handle is used before it was opened or after it was closed."""


class TransportUnavailable(EventBusError, ConnectionError):
    """Raised when the broker cannot be reached or does not take what was to be sent."""


class FrameError(EventBusError, ValueError):
    """
    Raised for bytes that are no frame of ours; a reader counts them by ``kind`` and goes on.

    Kinds: ``malformed``, ``truncated``, ``oversized``, ``checksum``, ``version``, ``foreign``.
    """

    def __init__(self, kind: str, detail: str) -> None:
        super().__init__(f"{kind} frame: {detail}")
        self.kind = kind
