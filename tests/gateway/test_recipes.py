"""The applications that docs/recipes.md shows, served by uvicorn."""

from __future__ import annotations

import ast
import asyncio
import json
import os
import socket
import struct
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from types import FunctionType
from typing import Any, Final
from uuid import uuid4

import pytest

import eventbus
import tests.gateway.needs  # noqa: F401  (before what it looks for)
from tests.docs.test_docs import files_of
from tests.gateway.servers import DEADLINE, until
from tests.servers import HOST, free_port

needs_fastapi: Final = pytest.mark.skipif(
    find_spec("fastapi") is None, reason="fastapi is not installed: pip install --group browser"
)


@contextmanager
def serving(folder: Path, command: list[str], ready: str, **environment: str) -> Iterator[Path]:
    """Run a server in *folder* until the end of the block; gives its log, in which no traceback may appear."""
    log = folder / "log"
    with log.open("wb") as out:
        process = subprocess.Popen(
            [sys.executable, *command], cwd=folder, stdout=out, stderr=out, env={**os.environ, **environment}
        )
    try:
        until(lambda: process.poll() is not None or ready in log.read_text(), f"{command} serves")
        assert process.poll() is None, log.read_text()
        yield log
    finally:
        process.terminate()
        try:
            process.wait(DEADLINE)
        except subprocess.TimeoutExpired:
            process.kill()
            raise
    assert "Traceback" not in log.read_text(), log.read_text()


def shown(name: str, folder: Path, **changes: str) -> Path:
    """Write the file *name* of the page to *folder*, with *changes* of its text; return where."""
    text = files_of("docs/recipes.md")[name]
    for old, new in changes.items():
        assert old in text
        text = text.replace(old, new)
    path = folder / name
    path.parent.mkdir(exist_ok=True)
    path.write_text(text, encoding="utf-8")
    return path


@contextmanager
def served(name: str, folder: Path, **changes: str) -> Iterator[str]:
    """Serve the file *name* of the page by uvicorn; gives where."""
    port = free_port()
    module = shown(name, folder, **changes).stem
    command = ["-W", "error", "-m", "uvicorn", f"{module}:app", "--port", str(port)]
    with serving(folder, command, "running on"):
        yield f"{HOST}:{port}"


def post(url: str) -> Any:
    request = urllib.request.Request(url, method="POST")  # noqa: S310
    with urllib.request.urlopen(request, timeout=DEADLINE) as answer:  # noqa: S310
        return json.load(answer)


def test_starlette_publishes_and_handles(tmp_path: Path) -> None:
    with served("app.py", tmp_path) as place:
        post(f"http://{place}/order/1")
        until(lambda: post(f"http://{place}/order/2")["orders"][:2] == [1, 2], "the orders were handled")


@needs_fastapi
def test_fastapi_holds_a_client_per_websocket(tmp_path: Path) -> None:
    from websockets.sync.client import connect

    with served("api.py", tmp_path) as place:
        assert post(f"http://{place}/tell/alice?text=hi") == {"sent": False}
        with connect(f"ws://{place}/ws/alice") as socket:
            socket.send("me")
            assert json.loads(socket.recv(timeout=DEADLINE)) == {"from": "acme/alice", "data": "me"}
            assert post(f"http://{place}/tell/alice?text=hi") == {"sent": True}
            assert json.loads(socket.recv(timeout=DEADLINE))["data"] == "hi"


@needs_fastapi
def test_a_second_tab_takes_the_client_and_the_first_is_told_not_to_come_back(tmp_path: Path) -> None:
    from websockets.exceptions import ConnectionClosed
    from websockets.sync.client import connect

    with served("api.py", tmp_path) as place, connect(f"ws://{place}/ws/alice") as first:
        first.send("me")
        first.recv(timeout=DEADLINE)
        with connect(f"ws://{place}/ws/alice") as second:
            with pytest.raises(ConnectionClosed) as caught:
                first.recv(timeout=DEADLINE)
            assert caught.value.rcvd is not None
            assert (caught.value.rcvd.code, caught.value.rcvd.reason) == (4001, "connected elsewhere")
            assert post(f"http://{place}/tell/alice?text=hi") == {"sent": True}
            assert json.loads(second.recv(timeout=DEADLINE))["data"] == "hi"


@needs_fastapi
def test_two_tabs_that_reconnect_at_once_do_so_about_once_a_second(tmp_path: Path) -> None:
    from websockets.exceptions import ConnectionClosed
    from websockets.sync.client import connect

    over = threading.Event()

    def tab(place: str) -> None:
        while not over.is_set():
            try:
                with connect(f"ws://{place}/ws/alice") as socket:
                    while not over.is_set():
                        try:
                            socket.recv(timeout=0.1)
                        except TimeoutError:
                            continue
            except ConnectionClosed:
                continue

    with served("api.py", tmp_path) as place:
        log, begun = tmp_path / "log", time.monotonic()
        tabs = [threading.Thread(target=tab, args=(place,)) for _ in range(2)]
        for thread in tabs:
            thread.start()
        try:
            until(lambda: log.read_text().count("[accepted]") > 4, "each tab came back more than once")
            took, accepted = time.monotonic() - begun, log.read_text().count("[accepted]")
        finally:
            over.set()
            for thread in tabs:
                thread.join()
    assert accepted <= 2 + 3 * took


@needs_fastapi
def test_a_websocket_that_breaks_while_it_is_written_to_logs_nothing(tmp_path: Path) -> None:
    from websockets.sync.client import connect

    with served("api.py", tmp_path) as place:
        for abrupt in (True, False) * 3:
            with connect(f"ws://{place}/ws/alice") as client:
                client.send("me")
                client.recv(timeout=DEADLINE)
                for _ in range(20):
                    client.send("x" * 10_000)  # each is written back
                if abrupt:
                    client.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                    client.socket.close()  # resets the connection, without a closing frame
        until(lambda: post(f"http://{place}/tell/bob?text=hi") == {"sent": False}, "the server goes on")


def test_server_sent_events_reach_the_page_and_its_end_releases_the_client(tmp_path: Path) -> None:
    with served("sse.py", tmp_path, **{"linger=30.0": "linger=0.0"}) as place:
        tell = f"http://{place}/tell/alice?text=hi"
        assert post(tell) == {"sent": False}
        with urllib.request.urlopen(f"http://{place}/events/alice", timeout=DEADLINE) as stream:
            assert stream.headers["Content-Type"].startswith("text/event-stream")
            assert [stream.readline(), stream.readline()] == [b": connected\n", b"\n"]
            assert post(tell) == {"sent": True}
            assert [stream.readline(), stream.readline()] == [b"event: message\n", b'data: "hi"\n']
        until(lambda: post(tell) == {"sent": False}, "the client was released")


def test_a_second_page_of_server_sent_events_ends_the_first(tmp_path: Path) -> None:
    with served("sse.py", tmp_path) as place:
        with pytest.raises(urllib.error.HTTPError, match="404"):
            urllib.request.urlopen(f"http://{place}/events/a%20b", timeout=DEADLINE)
        url = f"http://{place}/events/alice"
        with (
            urllib.request.urlopen(url, timeout=DEADLINE) as first,
            urllib.request.urlopen(url, timeout=DEADLINE) as second,
        ):
            assert first.read() == b": connected\n\n"
            assert post(f"http://{place}/tell/alice?text=hi") == {"sent": True}
            assert [second.readline() for _ in range(3)][-1] == b"event: message\n"


def test_a_page_of_a_room_resumes_after_the_last_event_that_it_got(tmp_path: Path) -> None:
    """As an EventSource does that connects again: with the id of that event."""

    def lines(since: str, count: int) -> list[str]:
        request = urllib.request.Request(f"http://{place}/rooms/42", headers={"Last-Event-ID": since} if since else {})
        with urllib.request.urlopen(request, timeout=DEADLINE) as stream:  # noqa: S310
            return [stream.readline().decode().rstrip("\n") for _ in range(count)]

    with served("rooms.py", tmp_path) as place:
        first = lines("", 4)
        assert first[1:] == ["event: resumed", "data: 0", ""]
        for text in ("one", "two", "three"):
            assert post(f"http://{place}/rooms/42?text={text}") == {"kept": True}
        again = lines(first[0].removeprefix("id: "), 3 + 2 * 4)
        assert again[:2] == ["event: resumed", "data: 3"]
        assert [line for line in again if line.startswith("data")] == ["data: 3", 'data: "one"', 'data: "two"']
        last = lines(again[7].removeprefix("id: "), 7)
        assert [line for line in last if line.startswith("data")] == ["data: 1", 'data: "three"']
        assert lines("rubbish", 2) == ["event: missed", 'data: {"events":0,"reason":"unknown_position"}']


def test_a_websocket_and_a_phone_resume_after_the_last_event_that_they_got(tmp_path: Path) -> None:
    from websockets.sync.client import connect

    def fetched(since: str) -> dict[str, Any]:
        with urllib.request.urlopen(f"http://{place}/rooms/42?since={since}", timeout=DEADLINE) as answer:
            found: dict[str, Any] = json.load(answer)
            return found

    with served("phones.py", tmp_path, **{"events=500": "events=5"}) as place:
        phone = fetched("")
        assert (phone["events"], phone["missed"], phone["gap"]) == ([], 0, None)
        with connect(f"ws://{place}/rooms/42?since=") as page:
            begun = json.loads(page.recv(timeout=DEADLINE))["position"]
            for text in ("one", "two", "three"):
                page.send(text)
            events = [json.loads(page.recv(timeout=DEADLINE)) for _ in range(3)]
            assert [event["data"] for event in events] == ["one", "two", "three"]
        for since, texts in ((begun, ["one", "two", "three"]), (events[1]["position"], ["three"])):
            with connect(f"ws://{place}/rooms/42?since={since}") as page:
                first = json.loads(page.recv(timeout=DEADLINE))
                assert (first["missed"], first["gap"], first.get("position")) == (0, None, None)
                assert [json.loads(page.recv(timeout=DEADLINE))["data"] for _ in texts] == texts
        phone = fetched(phone["position"])
        assert [event["data"] for event in phone["events"]] == ["one", "two", "three"]
        assert fetched(phone["position"])["events"] == []
        with connect(f"ws://{place}/rooms/42?since={phone['position']}") as page:
            page.recv(timeout=DEADLINE)
            for number in range(7):
                page.send(f"{number}")
            for _ in range(7):
                page.recv(timeout=DEADLINE)
        late = fetched(phone["position"])
        assert (late["missed"], late["gap"]) == (2, "trimmed")
        assert [event["data"] for event in late["events"]] == ["2", "3", "4", "5", "6"]
        assert fetched(late["position"])["events"] == []


def test_each_worker_of_uvicorn_is_a_node_of_its_own(redis_uri: str, tmp_path: Path) -> None:
    uri = f"{redis_uri}?namespace={uuid4().hex}"
    shown("app.py", tmp_path, **{'"memory://"': repr(uri)})
    command = ["-m", "uvicorn", "app:app", "--port", str(free_port()), "--workers", "2"]
    with serving(tmp_path, command, "running on"), eventbus.connect_blocking(uri) as bus:
        until(lambda: len(bus.nodes()) == 3, "both workers are nodes")


@pytest.mark.skipif(find_spec("gunicorn") is None, reason="gunicorn is not installed: pip install --group browser")
def test_each_worker_of_gunicorn_is_a_node_of_its_own_and_leaves_when_it_stops(redis_uri: str, tmp_path: Path) -> None:
    uri = f"{redis_uri}?namespace={uuid4().hex}"
    shown("wsgi.py", tmp_path)
    shown("gunicorn.conf.py", tmp_path)
    port = free_port()
    command = ["-m", "gunicorn", "wsgi:app", "--workers", "2", "--preload", "--bind", f"{HOST}:{port}"]
    with eventbus.connect_blocking(uri) as bus:
        viewed: list[str] = []

        @bus.on("page.viewed")
        def view(event: eventbus.Event) -> None:
            viewed.append(event.data["path"])

        with serving(tmp_path, command, "Booting worker", BUS_URI=uri):
            until(lambda: len(bus.nodes()) == 3, "both workers are nodes")
            answered: set[str] = set()

            def ask() -> bool:
                with urllib.request.urlopen(f"http://{HOST}:{port}/cats", timeout=DEADLINE) as answer:
                    answered.add(json.load(answer)["node"])
                return len(answered) == 2

            # A worker that has opened its bus and not served yet may not hear that it is to stop.
            until(ask, "both workers serve")
            assert answered < {node.id for node in bus.nodes()}
            until(lambda: "/cats" in viewed, "the page view arrived")
        assert [node.id for node in bus.nodes()] == [bus.node]


def test_the_cells_of_a_notebook_run_one_after_the_other_as_tasks_of_one_loop() -> None:
    cells = [text for name, text in files_of("docs/recipes.md").items() if name.startswith("notebook/")]
    cells[1] = cells[1].replace("alice.receive", "answer = alice.receive")
    names: dict[str, Any] = {}

    async def cell(text: str) -> None:
        waits = FunctionType(compile(text, "cell", "exec", ast.PyCF_ALLOW_TOP_LEVEL_AWAIT), names)()
        if waits is not None:
            await waits

    async def notebook() -> None:
        for text in cells:
            await asyncio.create_task(cell(text))

    asyncio.run(notebook())
    assert names["answer"] == "hello"


@pytest.mark.skipif(
    find_spec("pytest_asyncio") is None, reason="pytest-asyncio is not installed: pip install --group browser"
)
def test_the_fixture_for_pytest_asyncio_opens_and_closes_a_bus_for_each_test(tmp_path: Path) -> None:
    for name in files_of("docs/recipes.md"):
        if name.startswith("asyncio_tests/"):
            shown(name, tmp_path)
    options = ["-p", "pytest_asyncio.plugin", "-o", "asyncio_default_fixture_loop_scope=function"]
    command = [sys.executable, "-W", "error", "-m", "pytest", "-q", *options, "asyncio_tests"]
    environment = {**os.environ, "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"}
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert "1 passed" in done.stdout, done.stdout + done.stderr
    assert done.returncode == 0
