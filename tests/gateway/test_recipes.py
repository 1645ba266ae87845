"""The applications that docs/recipes.md shows, served by uvicorn."""

from __future__ import annotations

import json
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

import tests.gateway.needs  # noqa: F401  (before what it looks for)
from tests.docs.test_docs import files_of
from tests.gateway.servers import DEADLINE, until
from tests.servers import HOST, free_port


@contextmanager
def served(name: str, folder: Path) -> Iterator[str]:
    """Serve the file *name* of the page; gives where."""
    (folder / name).write_text(files_of("docs/recipes.md")[name], encoding="utf-8")
    port = free_port()
    command = [sys.executable, "-W", "error", "-m", "uvicorn", f"{Path(name).stem}:app", "--port", str(port)]
    log = folder / "log"
    with log.open("wb") as out:
        process = subprocess.Popen(command, cwd=folder, stdout=out, stderr=out)
    try:
        until(lambda: process.poll() is not None or "running on" in log.read_text(), f"{name} is served")
        assert process.poll() is None, log.read_text()
        yield f"{HOST}:{port}"
    finally:
        process.terminate()
        try:
            process.wait(DEADLINE)
        except subprocess.TimeoutExpired:
            process.kill()
            raise
    assert "Traceback" not in log.read_text()


def post(url: str) -> Any:
    request = urllib.request.Request(url, method="POST")  # noqa: S310
    with urllib.request.urlopen(request, timeout=20) as answer:  # noqa: S310
        return json.load(answer)


def test_starlette_publishes_and_handles(tmp_path: Path) -> None:
    with served("app.py", tmp_path) as place:
        post(f"http://{place}/order/1")
        until(lambda: post(f"http://{place}/order/2")["orders"][:2] == [1, 2], "the orders were handled")


@pytest.mark.skipif(find_spec("fastapi") is None, reason="fastapi is not installed: pip install --group browser")
def test_fastapi_holds_a_client_per_websocket(tmp_path: Path) -> None:
    from websockets.sync.client import connect

    with served("api.py", tmp_path) as place:
        assert post(f"http://{place}/tell/alice?text=hi") == {"sent": False}
        with connect(f"ws://{place}/ws/alice") as socket:
            socket.send("me")
            assert json.loads(socket.recv(timeout=20)) == {"from": "acme/alice", "data": "me"}
            assert post(f"http://{place}/tell/alice?text=hi") == {"sent": True}
            assert json.loads(socket.recv(timeout=20))["data"] == "hi"
