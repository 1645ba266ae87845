"""
Fixtures and hooks of the tests that run a whole bus: they take a ``uri`` of every backend.

The ``conftest.py`` of each folder with such tests imports them.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Iterator
from typing import Any

import anyio
import pytest

from eventbus import register
from eventbus_core.api.discovery import load_backend
from eventbus_core.errors import EventBusError
from tests.quiet import quiet
from tests.support import DEADLINE, WithoutDirectory


def _missing(scheme: str) -> str:
    """Return why the backend for *scheme* cannot be used here, or nothing."""
    try:
        load_backend(scheme)
    except EventBusError as error:
        return str(error)
    return ""


register("asking", WithoutDirectory)
_reason = _missing("redis")
BACKENDS = (
    "memory",
    pytest.param("redis", marks=[pytest.mark.redis, pytest.mark.skipif(bool(_reason), reason=_reason)]),
)


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Run the tests that take ``uri`` on every backend; modules with ``ASKING`` also without a directory."""
    own = any("uri" in mark.args[0] for mark in metafunc.definition.iter_markers("parametrize"))
    if "uri" in metafunc.fixturenames and not own:
        asking = ("asking",) if getattr(metafunc.module, "ASKING", False) else ()
        metafunc.parametrize("uri", BACKENDS + asking, indirect=True, scope="session")


@pytest.fixture(scope="session")
def uri(request: pytest.FixtureRequest) -> str:
    """A URI of each backend; every test, and every example of a property, uses its own namespace there."""
    if request.param != "redis":
        return f"{request.param}://tests"
    found: str = request.getfixturevalue("redis_uri")
    return found


@pytest.fixture(autouse=True, scope="module")
def quiet_logs() -> Iterator[None]:
    """Keep the log quiet: the tests make handlers raise, and the tracebacks would hide those of failures."""
    with quiet():
        yield


@pytest.hookimpl(tryfirst=True)
def pytest_pyfunc_call(pyfuncitem: pytest.Function) -> None:
    """End a test that hangs while it can still say where."""
    test = pyfuncitem.obj
    if not inspect.iscoroutinefunction(test) or hasattr(test, "hypothesis"):
        return

    @functools.wraps(test)
    async def limited(**arguments: Any) -> None:
        with anyio.fail_after(3 * DEADLINE):
            await test(**arguments)

    pyfuncitem.obj = limited
