"""Commands as bytes, and the Lua scripts."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from functools import cache
from importlib.resources import files
from typing import Final, TypeAlias

import attrs
import hiredis

Argument: TypeAlias = str | bytes | int

PUBLISH: Final = b"*3\r\n$7\r\nPUBLISH\r\n$"
SPUBLISH: Final = b"*3\r\n$8\r\nSPUBLISH\r\n$"


def pack(*arguments: Argument) -> bytes:
    """Return the bytes of a command; for many arguments this is much faster than redis-py."""
    packed: bytes = hiredis.pack_command(arguments)  # type: ignore[arg-type]  # its stub says: one argument
    return packed


def pack_publish(channel: bytes, data: bytes, command: bytes = PUBLISH) -> tuple[bytes, bytes, bytes]:
    """Return a PUBLISH, or an SPUBLISH, in pieces, without copying *data*."""
    return b"%b%d\r\n%b\r\n$%d\r\n" % (command, len(channel), channel, len(data)), data, b"\r\n"


def pack_frame(script: Script, key: str, channel: bytes, data: bytes) -> tuple[bytes, bytes, bytes]:
    """Return the call of a *script* that publishes, in pieces, without copying *data*."""
    digest, place = script.digest.encode(), key.encode()
    head = b"*6\r\n$7\r\nEVALSHA\r\n$40\r\n%b\r\n$1\r\n1\r\n$%d\r\n%b\r\n$%d\r\n%b\r\n$%d\r\n"
    return head % (digest, len(place), place, len(channel), channel, len(data)), data, b"\r\n"


@attrs.frozen
class Script:
    """A Lua script; the server finds it by the digest of its source."""

    source: str
    digest: str

    def call(self, keys: Sequence[str], *arguments: Argument) -> bytes:
        """Return the command that runs the script."""
        return pack("EVALSHA", self.digest, len(keys), *keys, *arguments)


@cache
def load_script(name: str, before: str = "common") -> Script:
    """Return the script *name*, with the part *before* it, if that is not empty."""
    folder = files("eventbus_redis") / "scripts"
    source = "".join((folder / f"{part}.lua").read_text(encoding="utf-8") for part in (before, name) if part)
    return Script(source, hashlib.sha1(source.encode(), usedforsecurity=False).hexdigest())
