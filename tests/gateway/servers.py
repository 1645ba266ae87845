"""Gateways in processes of their own, and pages in a browser."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final, TypeVar

from tests.servers import HOST, free_port

T = TypeVar("T")
FOLDER: Final = Path(__file__).parents[2] / "examples" / "gateway"
DEADLINE: Final = 120.0


def until(condition: Callable[[], T], what: str) -> T:
    """What *condition* returns, once that is true; fails if it is not by the deadline."""
    end = time.monotonic() + DEADLINE
    while not (answer := condition()):
        assert time.monotonic() < end, f"still not so after {DEADLINE:g} s: {what}"
        time.sleep(0.02)
    return answer


class Gateway:
    """One server, in a process of its own."""

    def __init__(self, name: str, uri: str, log: Path, *options: str) -> None:
        self.name = name
        self.port = free_port()
        self.log = log
        given = ["--port", str(self.port), "--server-id", name, *(["--redis-uri", uri] if uri else []), *options]
        self._command = [sys.executable, "-m", "gateway", *given]
        self.start()

    @property
    def http(self) -> str:
        return f"http://{HOST}:{self.port}/"

    @property
    def ws(self) -> str:
        return f"ws://{HOST}:{self.port}"

    def start(self) -> None:
        """Start its process, again after a former one has ended; the log goes on."""
        with self.log.open("ab") as out:
            nothing = subprocess.DEVNULL
            self.process = subprocess.Popen(self._command, cwd=FOLDER, stdin=nothing, stdout=out, stderr=out)

    def wait(self) -> None:
        """Return once it serves."""
        until(self._serves, f"{self.name} serves")

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()

    def stop(self) -> int:
        self.process.terminate()
        try:
            return self.process.wait(DEADLINE)
        except subprocess.TimeoutExpired:
            self.kill()
            raise

    def _serves(self) -> bool:
        assert self.process.poll() is None, self.log.read_text()
        try:
            with urllib.request.urlopen(self.http, timeout=5) as answer:  # noqa: S310
                return bool(answer.status == 200)
        except (urllib.error.URLError, ConnectionError):
            return False


@contextmanager
def gateways(uri: str, folder: Path, count: int = 3, *options: str) -> Iterator[list[Gateway]]:
    """Run *count* servers with *options*, ``server-1`` and so on."""
    started: list[Gateway] = []
    try:
        names = [f"server-{number}" for number in range(1, count + 1)]
        started.extend(Gateway(name, uri, folder / f"{name}.log", *options) for name in names)
        for gateway in started:
            gateway.wait()
        yield started
    finally:
        for gateway in started:
            gateway.kill()


def find_browser() -> tuple[str, str] | None:
    """The programs of the browser and its driver, if both are there."""
    browser = os.environ.get("EVENTBUS_TEST_BROWSER") or shutil.which("chromium") or shutil.which("chromium-browser")
    driver = shutil.which("chromedriver")
    return (browser, driver) if browser and driver else None
