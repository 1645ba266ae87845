"""The guarantees by number, and the decorator that turns a function into a test of some of them."""

from __future__ import annotations

import functools
import re
from collections.abc import Awaitable, Callable, Iterator, Mapping
from contextlib import contextmanager
from types import MappingProxyType
from typing import Any, Final, ParamSpec, TypeAlias

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from eventbus_core.api.discovery import load_backend
from eventbus_core.backend import Capabilities, TransportURI
from eventbus_core.testing.waiting import within_deadline

P = ParamSpec("P")
Test: TypeAlias = Callable[P, Awaitable[None]]

GUARANTEES: Final[Mapping[str, str]] = MappingProxyType(
    {
        "g1": "isolation",
        "g2": "once",
        "g3": "everyone",
        "g4": "order",
        "g5": "known fate",
        "g6": "same everywhere",
        "g7": "topics",
        "g8": "takeover",
        "g9": "liveness",
        "g10": "nothing silently lost",
        "g11": "bounded",
        "g12": "unharmed by bad input",
        "g13": "resume",
    }
)


def capabilities_of(uri: str) -> Capabilities:
    """Return what the backend of *uri* declares."""
    return load_backend(TransportURI.parse(uri).scheme).capabilities


def scenario(*, needs: str = "") -> Callable[[Test[P]], Test[P]]:
    """
    Turn an async function into a test for backends that have the capability *needs*.

    The test ends at the deadline; its failure names the guarantees.
    """

    def decorate(test: Test[P]) -> Test[P]:
        @functools.wraps(test)
        async def run(*args: P.args, **kwargs: P.kwargs) -> None:
            if needs and not getattr(capabilities_of(str(kwargs["uri"])), needs):
                pytest.skip(f"the backend does not declare {needs!r}")
            with naming(test), within_deadline("the scenario came to its end", times=3):
                await test(*args, **kwargs)

        return run

    return decorate


@contextmanager
def naming(test: Callable[..., Any]) -> Iterator[None]:
    """Add the guarantees of *test*, and what it checks, to an error that leaves the block."""
    try:
        yield
    except (Exception, pytest.fail.Exception, BaseExceptionGroup) as error:  # pytest.raises fails with the second
        numbers = re.findall(r"g\d+(?=_)", test.__name__)
        broken = ", ".join(f"{number.upper()} ({GUARANTEES[number]})" for number in numbers)
        error.add_note(f"broken: {broken}: {' '.join((test.__doc__ or '').split())}")
        raise


def for_all(check: Callable[..., None], *, examples: int, **strategies: st.SearchStrategy[Any]) -> None:
    """Call *check* with *examples* draws from *strategies*; a failure is shrunk to the smallest example."""
    rules = settings(
        max_examples=examples,
        deadline=None,
        print_blob=False,  # the author cannot use it: the function that it decorates belongs to the suite
        phases=set(Phase) - {Phase.explain},
        report_multiple_bugs=False,
        suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
    )
    rules(given(**strategies)(check))()
