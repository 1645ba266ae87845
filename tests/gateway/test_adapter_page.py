"""What a real browser sees of ``eventbus[starlette]``: the FastAPI example on three workers."""

from __future__ import annotations

import os
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any, Final
from uuid import uuid4

import pytest

import tests.gateway.needs  # noqa: F401  (before what it looks for)
from tests.gateway.servers import find_browser, until
from tests.servers import HOST, free_port

pytest.importorskip("selenium", reason="selenium is not installed: pip install --group browser")
pytest.importorskip("fastapi", reason="fastapi is not installed: pip install --group browser")

from tests.gateway.browser import browser

FOLDER: Final = Path(__file__).parents[2] / "examples" / "frameworks"
SCRIPT: Final = """
    window.seen = {socket: [], stream: [], code: null};
    window.socket = new WebSocket(`ws://${location.host}/chat/${arguments[0]}`);
    window.socket.onmessage = event => window.seen.socket.push(JSON.parse(event.data));
    window.socket.onclose = event => { window.seen.code = event.code; };
    window.stream = new EventSource(`/listen/${arguments[0]}-reader`);
    window.stream.addEventListener("chat.lobby", event => window.seen.stream.push(JSON.parse(event.data)));
    window.stream.addEventListener("$sys.taken_over", () => { window.stream.close(); window.seen.taken = true; });
"""
found = find_browser()
pytestmark = pytest.mark.skipif(
    found is None, reason="no chromium with its chromedriver on PATH (Debian: chromium, chromium-driver)"
)


@pytest.fixture
def site(redis_uri: str, tmp_path: Path) -> Iterator[str]:
    port, log = free_port(), tmp_path / "log"
    uri = f"{redis_uri}?namespace=page-{uuid4().hex}"
    command = [sys.executable, "-m", "uvicorn", "fastapi_chat:app", "--host", HOST, "--port", str(port)]
    with log.open("wb") as out:
        process = subprocess.Popen(
            [*command, "--workers", "3"], cwd=FOLDER, env={**os.environ, "EVENTBUS_URI": uri}, stdout=out, stderr=out
        )
    try:
        until(lambda: _answers(port), "the workers serve")
        yield f"http://{HOST}:{port}"
    finally:
        process.terminate()
        try:
            process.wait(20)
        finally:
            process.kill()
        assert "Traceback" not in log.read_text(), log.read_text()


def _answers(port: int) -> bool:
    try:
        urllib.request.urlopen(f"http://{HOST}:{port}/none", timeout=5).close()
    except urllib.error.HTTPError:
        return True
    except OSError:
        return False
    return True


def opened(driver: Any, site: str, name: str) -> str:
    """Open a window that is connected as *name*, by a websocket and by a stream; return its handle."""
    driver.switch_to.new_window("window")
    driver.get(f"{site}/none")
    driver.execute_script(SCRIPT, name)
    ready = "return window.socket.readyState === 1 && window.stream.readyState === 1"
    until(lambda: driver.execute_script(ready), f"{name} is connected")
    return str(driver.current_window_handle)


def shows(driver: Any, kind: str, texts: list[str]) -> bool:
    return bool(driver.execute_script(f"return window.seen.{kind}.map(event => event.data).sort()") == texts)


def test_windows_on_three_workers_share_a_room_and_a_name_has_one_window(site: str, tmp_path: Path) -> None:
    assert found is not None
    with browser(found, tmp_path / "profile") as driver:
        windows = [opened(driver, site, name) for name in ("alice", "bob", "carol")]
        for number, window in enumerate(windows):
            driver.switch_to.window(window)
            driver.execute_script("window.socket.send(arguments[0])", f"hello {number}")
        for window in windows:
            driver.switch_to.window(window)
            for kind in ("socket", "stream"):
                until(partial(shows, driver, kind, ["hello 0", "hello 1", "hello 2"]), f"the {kind} shows all")
        opened(driver, site, "alice")
        driver.switch_to.window(windows[0])
        until(lambda: driver.execute_script("return window.seen.code") == 4001, "the first window is told")
        until(lambda: driver.execute_script("return window.seen.taken"), "the first stream has ended for good")
