"""The machine: what it is, what else it does, and how fast it is at the moment."""

from __future__ import annotations

import os
import platform
from collections.abc import Iterable
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from threading import Event, Thread
from time import monotonic, sleep, thread_time_ns
from typing import Final, Self

import msgspec

ROUNDS: Final = 300
CALM: Final = 0.1  # of a core
LOOK: Final = 0.3


def describe() -> str:
    """Return the machine in a line."""
    model = platform.processor() or platform.machine()
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        names = [line.partition(":")[2].strip() for line in cpuinfo.read_text().splitlines() if "model name" in line]
        model = names[0] if names else model
    return f"{os.cpu_count()} x {model}, {platform.system()} {platform.release()}, {platform.machine()}"


def versions(libraries: Iterable[str]) -> dict[str, str]:
    """Return the versions of Python and of *libraries*."""
    found = {"python": platform.python_version()}
    for library in libraries:
        try:
            found[library] = version(library)
        except PackageNotFoundError:
            found[library] = "?"
    return found


def busy() -> float:
    """Return the CPU seconds that the whole machine has used so far; 0 where it does not say."""
    stat = Path("/proc/stat")
    if not stat.exists():
        return 0.0
    user, nice, system, _idle, _iowait, irq, softirq, steal = map(int, stat.read_text().split()[1:9])
    return (user + nice + system + irq + softirq + steal) / os.sysconf("SC_CLK_TCK")


def wait_until_calm(limit: float) -> None:
    """Wait until nothing else uses the machine, for at most *limit* seconds."""
    end = monotonic() + limit
    calm = False
    while not calm and monotonic() < end:
        before = busy()
        sleep(LOOK)
        calm = busy() - before < CALM * LOOK


class Speed(Thread):
    """
    How many thousand small encodings and decodings a CPU second holds, sampled while it runs.

    Virtual CPUs change their speed by half from one second to the next, with no other sign of it.
    It takes about 2 % of a core.
    """

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self._samples: list[float] = []
        self._ended = Event()

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self.join()

    def run(self) -> None:
        encode, decode = msgspec.msgpack.encode, msgspec.msgpack.decode
        while not self._ended.wait(0.05):
            began = thread_time_ns()
            for number in range(ROUNDS):
                decode(encode({"n": number, "t": began, "body": "x" * 84}))
            self._samples.append(ROUNDS * 1e6 / max(1, thread_time_ns() - began))

    @property
    def value(self) -> float:
        return sum(self._samples) / max(1, len(self._samples))
