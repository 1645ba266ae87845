"""The backends that the tests of the whole bus run on."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Iterator
from typing import Any

import anyio
import pytest

from eventbus_core import EventBusError, load_backend, register
from tests.bus.support import DEADLINE, WithoutDirectory
from tests.quiet import quiet


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
    """Run what is about owners also without a directory: modules say so by ``ASKING``."""
    own = any("uri" in mark.args[0] for mark in metafunc.definition.iter_markers("parametrize"))
    if "uri" in metafunc.fixturenames and not own:
        asking = ("asking",) if getattr(metafunc.module, "ASKING", False) else ()
        metafunc.parametrize("uri", BACKENDS + asking, indirect=True, scope="session")


@pytest.fixture(scope="session")
def uri(request: pytest.FixtureRequest) -> str:
    """A URI of each backend; every test, and every example of a property, takes a namespace of its own there."""
    if request.param != "redis":
        return f"{request.param}://tests"
    found: str = request.getfixturevalue("redis_uri")
    return found


@pytest.fixture(autouse=True, scope="module")
def _quiet() -> Iterator[None]:
    """Handlers that raise are part of the tests: their tracebacks would only bury those of failures."""
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
