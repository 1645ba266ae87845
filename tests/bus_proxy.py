"""What stands between the servers of a cluster, and can cut them off from each other."""

from __future__ import annotations

import socket
from collections.abc import Callable
from contextlib import suppress
from threading import Thread

from tests.servers import HOST


class BusProxy:
    """
    Passes on connections of other servers to one server's *target* port, or swallows what comes.

    Attributes:
        port: where it listens.
    """

    def __init__(self, target: int) -> None:
        self._target = target
        self._listener = socket.create_server((HOST, 0))
        self.port: int = self._listener.getsockname()[1]
        self._swallows: Callable[[str], bool] = lambda source: False
        self._open: set[socket.socket] = set()
        Thread(target=self._accept, daemon=True).start()

    def swallow(self, swallows: Callable[[str], bool]) -> None:
        """From now on, pass nothing on from or to the addresses for which *swallows* returns true."""
        self._swallows = swallows

    def cut(self) -> None:
        """Close all connections, so that new ones are made."""
        for end in list(self._open):
            _shut(end)

    def close(self) -> None:
        """Close all connections, and the port."""
        _shut(self._listener)
        self.cut()

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                near, (source, _) = self._listener.accept()
                Thread(target=self._serve, args=(near, source), daemon=True).start()

    def _serve(self, near: socket.socket, source: str) -> None:
        with suppress(OSError):
            far = socket.create_connection((HOST, self._target))
            self._open |= {near, far}
            Thread(target=self._pump, args=(far, near, source), daemon=True).start()
            self._pump(near, far, source)
        _shut(near)

    def _pump(self, one: socket.socket, other: socket.socket, source: str) -> None:
        with suppress(OSError):
            while data := one.recv(65_536):
                if not self._swallows(source):
                    other.sendall(data)
        _shut(one)
        _shut(other)
        self._open -= {one, other}


def _shut(end: socket.socket) -> None:
    with suppress(OSError):
        end.shutdown(socket.SHUT_RDWR)
    end.close()
