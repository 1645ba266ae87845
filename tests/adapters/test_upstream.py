"""The frameworks' own tests, with our classes in the place of theirs."""

from __future__ import annotations

from pathlib import Path
from typing import Final

import pytest

from tests.adapters.upstream import Upstream, fetch, outcomes

ASKS_ITS_SERVER: Final = (
    "a pub/sub manager has its server disconnect, which these tests have as an object without await"
)
NEEDS_ROOM: Final = "a pub/sub manager takes a callback only with a room"
ASYNCIO: Final = ("-o", "asyncio_mode=auto")
INTERNAL: Final = "it is about fields of the class for Redis: keys, shards, buffers, one object for each event loop"
UPSTREAMS: Final = [
    Upstream(
        project="channels_redis",
        files=("tests/test_core.py", "tests/test_pubsub.py"),
        stand_in="channels",
        options=ASYNCIO,
        not_applicable={
            "test_core.py::test_default_group_key_format": INTERNAL,
            "test_core.py::test_custom_group_key_format": INTERNAL,
            "test_core.py::test_receive_buffer_respects_capacity": INTERNAL,
            "test_pubsub.py::test_loop_instance_channel_layer_reference": INTERNAL,
            "test_pubsub.py::test_multi_event_loop_garbage_collection": INTERNAL,
            "test_pubsub.py::test_auto_reconnect": INTERNAL,
        },
        at_least=37,
    ),
    Upstream(
        project="python-socketio",
        files=("tests/async/test_pubsub_manager.py",),
        stand_in="socketio_pubsub",
        options=ASYNCIO,
        at_least=49,
    ),
    Upstream(
        project="python-socketio",
        files=("tests/async/test_manager.py",),
        stand_in="socketio_manager",
        options=ASYNCIO,
        not_applicable={
            "test_manager.py::test_pre_disconnect": ASKS_ITS_SERVER,
            "test_manager.py::test_disconnect": ASKS_ITS_SERVER,
            "test_manager.py::test_disconnect_default_namespace": ASKS_ITS_SERVER,
            "test_manager.py::test_disconnect_twice": ASKS_ITS_SERVER,
            "test_manager.py::test_disconnect_all": ASKS_ITS_SERVER,
            "test_manager.py::test_disconnect_with_callbacks": ASKS_ITS_SERVER,
            "test_manager.py::test_get_participants": ASKS_ITS_SERVER,
            "test_manager.py::test_emit_with_callback": NEEDS_ROOM,
        },
        at_least=24,
    ),
    Upstream(
        project="mcp",
        files=("tests/server/test_subscriptions.py",),
        stand_in="mcp",
        options=("-p", "no:asyncio"),
        at_least=10,
    ),
]


@pytest.fixture(scope="module")
def downloads(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("downloads")


@pytest.mark.parametrize("upstream", UPSTREAMS, ids=lambda upstream: upstream.stand_in)
def test_the_framework_takes_our_class_for_its_own(
    upstream: Upstream, redis_uri: str, tmp_path: Path, downloads: Path
) -> None:
    passed, failed = outcomes(upstream, fetch(upstream.project, downloads), redis_uri, tmp_path)
    listed = set(upstream.not_applicable)
    surprising = {name: text for name, text in failed.items() if name not in listed}
    assert not surprising, "\n".join(f"{name}\n{text}" for name, text in surprising.items())
    assert listed <= failed.keys(), "these pass or are gone: remove them from not_applicable"
    assert len(passed) >= upstream.at_least, "the tests were not found"
