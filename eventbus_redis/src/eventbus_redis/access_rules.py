"""The least rights of users, as Redis access lists say them. No I/O."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from eventbus_core.backend import Role

_DIRECTORY: Final = (
    "evalsha script|load time hset hget hmget hdel zadd zrem zscore zcount zrange zrangebyscore sadd srem spop "
    "sismember del pexpire hscan sscan role"
)
_ROLES: Final[dict[Role, str]] = {
    "node": "xadd xdel xrange",
    "observer": "xrange",
    "doctor": "xadd xdel xrange config|get",
}
_CLUSTER: Final = "get cluster|info cluster|slots"


def server_rules(
    role: Role, node: str, roots: Sequence[str], channels: str, *, cluster: bool = False, database: int = 0
) -> str:
    """
    Return the rules for a server that carries partitions, and the directory and history.

    The user may publish to every channel of the namespace, but subscribe only to those of *node*: one selector each.

    Args:
        role: what the user does.
        node: the id of its node, in which ``*`` stands for any text.
        roots: beginnings of the names of keys.
        channels: beginning of the names of channels.
        cluster: whether the server belongs to a cluster.
        database: its number.
    """
    sharded = "s" if cluster else ""
    commands = f"{_DIRECTORY} {_ROLES[role]} {sharded}unsubscribe {_CLUSTER if cluster else ''}".split()
    if database:
        commands.append("select")
    own = [f"n:{node}:*", "all:*", "l:*"] if cluster else [f"n:{node}", "all", "l:*", f"p:{node}"]
    return " ".join(
        [
            "resetkeys",
            *(f"~{root}:*" for root in roots),
            "resetchannels -@all",
            *(f"+{command}" for command in commands),
            f"(+{sharded}publish &{channels}:*)",
            f"(+{sharded}subscribe {' '.join(f'&{channels}:{name}' for name in own)})",
        ]
    )


def sentinel_rules() -> str:
    """Return the rules for a sentinel, the same for every role."""
    return "resetkeys resetchannels &+switch-master -@all +subscribe +sentinel|master +sentinel|get-master-addr-by-name"
