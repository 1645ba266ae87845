from __future__ import annotations

import importlib
import inspect
import pkgutil
import re
from collections.abc import Iterator
from types import ModuleType

import pytest

import eventbus_core
from eventbus_core import errors
from eventbus_core.errors import (
    ClientAlreadyClaimed,
    ClientNotFound,
    ClientTakenOver,
    EventBusError,
    EventTooLarge,
    FrameError,
    InvalidName,
    LimitExceeded,
    NamespaceMismatch,
    NodeAlreadyPresent,
    NodeDraining,
    OptionError,
    RequestFailed,
    RequestTimeout,
)


def _raised(value: object) -> bool:
    return (
        inspect.isclass(value)
        and issubclass(value, BaseException)
        and value.__module__.partition(".")[0] == "eventbus_core"
        and not value.__name__.startswith("_")  # the module that raises it catches it
        and not value.__module__.startswith("eventbus_core.cli")  # a program: what it raises, it catches
    )


def _classes() -> dict[str, type[BaseException]]:
    return {
        name: value
        for name, value in vars(errors).items()
        if inspect.isclass(value) and issubclass(value, BaseException) and value.__module__ == errors.__name__
    }


def _modules() -> Iterator[ModuleType]:
    """The modules of the package, except adapters of packages that are not installed."""
    for found in pkgutil.walk_packages(eventbus_core.__path__, "eventbus_core."):
        try:
            yield importlib.import_module(found.name)
        except ImportError as error:
            if "pip install 'eventbus[" not in str(error):
                raise


def _drawn() -> dict[str, tuple[str | None, str | None]]:
    """Each class in the tree of the module's docstring, with the class above it and the built-in in brackets."""
    found: dict[str, tuple[str | None, str | None]] = {}
    above: list[tuple[int, str]] = []
    for line in (errors.__doc__ or "").splitlines():
        match = re.match(r"(?P<branch>[ │├└─]*)(?P<name>[A-Z]\w+)(?: \((?P<builtin>\w+)\))?(?:  .*)?$", line)
        if match is None or not line.startswith("    "):
            continue
        depth = len(match["branch"])
        while above and above[-1][0] >= depth:
            above.pop()
        found[match["name"]] = (above[-1][1] if above else None, match["builtin"])
        above.append((depth, match["name"]))
    return found


def test_the_tree_in_the_docstring_is_that_of_the_classes() -> None:
    actual: dict[str, tuple[str | None, str | None]] = {}
    for name, cls in _classes().items():
        ours = [base.__name__ for base in cls.__bases__ if base.__module__ == errors.__name__]
        builtin = [base.__name__ for base in cls.__bases__ if base.__module__ == "builtins" and base is not Exception]
        assert len(ours) <= 1
        assert len(builtin) <= 1
        actual[name] = (ours[0] if ours else None, builtin[0] if builtin else None)
    assert _drawn() == actual
    assert list(_drawn()) == list(actual), "drawn in the order in which they are defined"


def test_all_errors_of_the_package_are_under_one_root() -> None:
    found = {value for module in _modules() for value in vars(module).values() if _raised(value)}
    assert found >= set(_classes().values())
    assert not [value for value in found if not issubclass(value, EventBusError)]
    assert issubclass(EventBusError, Exception)


@pytest.mark.parametrize("name", _classes())
def test_every_error_says_when_it_is_raised(name: str) -> None:
    assert (inspect.getdoc(_classes()[name]) or "").split(". ")[0]


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (
            OptionError.unknown("lane", ["lanes", "node"]),
            "unknown option 'lane'; did you mean 'lanes'? known options: lanes, node",
        ),
        (OptionError.unknown("zzz", ["node"]), "unknown option 'zzz'; known options: node"),
        (OptionError.bad_value("lanes", "x", "int"), "option 'lanes' is 'x'; it must be int"),
        (InvalidName("client", "", "it is empty"), "'' is not a valid client: it is empty"),
        (
            NamespaceMismatch("prod", "lanes", 64, 32),
            "namespace 'prod' has lanes 64, this node has 32; use the same value on all nodes, or another namespace",
        ),
        (
            EventTooLarge(2_000_000, 1_048_576),
            "the event has 2,000,000 bytes, the limit is 1,048,576; "
            "send a reference to the data, or raise max_event_size on every node",
        ),
        (
            LimitExceeded("no more requests may wait for their answers", "max_requests", 100_000, "wait, or raise it"),
            "no more requests may wait for their answers: max_requests is 100,000; wait, or raise it",
        ),
        (ClientNotFound("acme/bob"), "no node holds client 'acme/bob'; the event was not sent"),
        (ClientNotFound("@server-2"), "no live node has the id 'server-2'; the event was not sent"),
        (
            ClientAlreadyClaimed("acme/bob", "a"),
            "node 'a' holds client 'acme/bob'; claim it with takeover=True to move it here",
        ),
        (ClientTakenOver("acme/bob", "b"), "node 'b' took over client 'acme/bob'; this handle is closed"),
        (ClientTakenOver("acme/bob"), "another claim took over client 'acme/bob'; this handle is closed"),
        (
            NodeAlreadyPresent("a"),
            "a live node of this namespace has the id 'a'; "
            "choose another id, or wait for the end of its lease if that node has died",
        ),
        (
            NodeDraining("acme/bob", "a", 0.256),
            "node 'a' is draining, so it does not hold client 'acme/bob'; "
            "connect the client to another node, in 0.26 s",
        ),
        (RequestFailed("bob", "client gone"), "the request to 'bob' failed: client gone"),
        (RequestTimeout("the answer of 'bob'", 2.0), "the answer of 'bob' did not arrive within 2 s"),
        (FrameError("checksum", "it differs"), "checksum frame: it differs"),
    ],
    ids=range(17),
)
def test_messages_name_the_fault_and_the_remedy(error: EventBusError, message: str) -> None:
    assert str(error) == message


@pytest.mark.parametrize(
    "error", [InvalidName("client", "x" * 10_000, "too long"), InvalidName("client", b"\n" * 999, "")]
)
def test_a_long_value_does_not_flood_the_message(error: EventBusError) -> None:
    assert len(str(error)) < 150


def test_details_for_programs_are_attributes() -> None:
    assert EventTooLarge(2, 1).size == 2
    assert (LimitExceeded("x", "max_clients", 7, "y").option, LimitExceeded("x", "y", 7, "z").limit) == (
        "max_clients",
        7,
    )
    assert ClientNotFound("bob").address == "bob"
    assert ClientTakenOver("bob", "b").node == "b"
    assert ClientAlreadyClaimed("bob", "a").client == "bob"
    assert NodeAlreadyPresent("a").node == "a"
    assert RequestFailed("bob", "gone").reason == "gone"
    assert RequestTimeout("x", 1.5).timeout == 1.5
    assert FrameError("version", "").kind == "version"
