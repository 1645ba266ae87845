"""Fixtures and settings for all tests."""

from __future__ import annotations

import os
import shutil
import sys
import tempfile
from collections.abc import Iterator

import pytest
from hypothesis import HealthCheck, settings

from eventbus_core.api import discovery
from eventbus_core.node import adoption
from eventbus_core.testing.waiting import DEADLINE
from tests.servers import RedisServer, ServerError

TIMELESS = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])  # these are about the machine
settings.register_profile("default", TIMELESS, max_examples=50)
settings.register_profile(
    "ci",
    TIMELESS,
    max_examples=100,
    derandomize=True,  # a red run says something about the change, and can be repeated
    print_blob=True,
)
settings.load_profile("ci" if os.environ.get("CI") else "default")


def pytest_configure(config: pytest.Config) -> None:
    """Have the programs that tests start share a cache of compiled modules, if Python writes none."""
    if sys.dont_write_bytecode and "PYTHONPYCACHEPREFIX" not in os.environ:
        folder = tempfile.mkdtemp(prefix="eventbus-tests-")
        config.add_cleanup(lambda: shutil.rmtree(folder, ignore_errors=True))
        os.environ["PYTHONPYCACHEPREFIX"] = folder
        os.environ.pop("PYTHONDONTWRITEBYTECODE", None)


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Mark what needs a server, for ``-m 'not redis'``, and leave it out on trio: redis-py is for asyncio."""
    kept: list[pytest.Item] = []
    foreign: list[pytest.Item] = []
    for item in items:
        names = getattr(item, "fixturenames", ())
        if "redis_uri" in names or "redis_server" in names:
            item.add_marker("redis")
        callspec = getattr(item, "callspec", None)
        on_trio = callspec is not None and callspec.params.get("anyio_backend") == "trio"
        needs_asyncio = item.get_closest_marker("redis") is not None
        (foreign if on_trio and needs_asyncio else kept).append(item)
    if foreign:
        config.hook.pytest_deselected(items=foreign)
        items[:] = kept


@pytest.fixture(autouse=True)
def registrations() -> Iterator[None]:
    """Undo what a test registers: another one may use the same scheme for another transport."""
    before = dict(discovery._registered)
    yield
    discovery._registered.clear()
    discovery._registered.update(before)


@pytest.fixture
def patient_adoption(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have a node that leaves wait until its lingering clients are adopted, however busy the machine is."""
    monkeypatch.setattr(adoption, "ADOPTION_TIMEOUT", DEADLINE)


@pytest.fixture(scope="session")
def redis_uri(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """
    The URI of a running server, one for all tests: keep to names of your own, and never flush it.

    It may be someone's own, given by ``EVENTBUS_TEST_REDIS``.
    """
    if given := os.environ.get("EVENTBUS_TEST_REDIS"):
        yield given
        return
    with _server(tmp_path_factory) as server:
        yield server.uri


@pytest.fixture
def redis_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    """A running server for this test alone, to kill, pause and restart."""
    with _server(tmp_path_factory) as server:
        yield server


def _server(tmp_path_factory: pytest.TempPathFactory) -> RedisServer:
    try:
        return RedisServer(tmp_path_factory.mktemp("redis"))
    except ServerError as error:
        pytest.fail(str(error))
