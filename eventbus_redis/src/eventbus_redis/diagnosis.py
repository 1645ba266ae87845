"""What ``eventbus doctor`` looks at in a Redis server."""

from __future__ import annotations

import hashlib
import secrets
from collections.abc import Iterator
from ipaddress import ip_address
from time import time
from typing import Final

from redis.exceptions import NoPermissionError

from eventbus_core import BusOptions, EventBusError, Finding, TransportURI
from eventbus_core.diagnosis import no_connection
from eventbus_redis.commands import Argument, Commands, pack
from eventbus_redis.options import RedisOptions
from eventbus_redis.server import Server

MOST_SKEW: Final = 1.0
FORGET: Final = 10_000  # milliseconds, for what a trial leaves behind if it may not delete
MIB: Final = 1024 * 1024


async def examine(server: Server, options: RedisOptions, keys: str, channels: str) -> list[Finding]:
    """
    Return what is to be said of *server* by one that is connected to it.

    Args:
        keys: what the names of all keys begin with.
        channels: what the names of all channels begin with.
    """
    commands = Commands(server, options.command_timeout)
    try:
        await commands.open()
        return [
            await _version(commands, server.uri),
            encryption(server.uri, options),
            await _rights(commands, server.uri, keys, channels),
            *await _settings(commands),
            await _clock(commands),
        ]
    except EventBusError as error:
        return [no_connection(error)]
    finally:
        await commands.aclose()


async def _version(commands: Commands, uri: TransportURI) -> Finding:
    [reply] = await commands.call(pack("HELLO"))
    facts = dict(zip(reply[::2], reply[1::2], strict=True))
    name, version, mode, role = (facts[key].decode() for key in (b"server", b"version", b"mode", b"role"))
    detail = f"{name} {version}, {mode}, {role}"
    if role != "master":
        return Finding("server", "error", detail, f"{uri} is a replica and takes no writes: name its primary")
    return Finding("server", "ok", detail)


def encryption(uri: TransportURI, options: RedisOptions) -> Finding:
    """Say whether what travels between *uri* and here can be read or changed on the way."""
    if uri.scheme == "unix" or (uri.scheme != "rediss" and _is_loopback(uri.host)):
        return Finding("TLS", "ok", "not in use; the server is on this machine")
    if uri.scheme != "rediss":
        mend = "set tls-port and a certificate on the server, and write rediss://"
        return Finding("TLS", "warning", "not in use: the password and all events travel in the clear", mend)
    if options.ssl_cert_reqs != "required" or not options.ssl_check_hostname:
        mend = "leave ssl_cert_reqs and ssl_check_hostname as they are by default; ssl_ca_certs names an authority"
        return Finding("TLS", "warning", "in use, but whoever sits between can pass for the server", mend)
    return Finding("TLS", "ok", "in use, and the server's certificate is checked")


def _is_loopback(host: str) -> bool:
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host in ("", "localhost")


async def _rights(commands: Commands, uri: TransportURI, keys: str, channels: str) -> Finding:
    """Do all that a node does once, with names that nobody uses; SUBSCRIBE is tried by the transport itself."""
    lacking: list[str] = []
    refusals: list[str] = []
    for command in _commands(f"{keys}:doctor-{secrets.token_hex(8)}", f"{channels}:doctor"):
        try:
            await commands.call(pack(*command))
        except EventBusError as error:
            if not isinstance(error.__cause__, NoPermissionError):
                return Finding("rights", "unknown", str(error), "mend that first")
            lacking.append(str(command[0]))
            refusals.append(str(error.__cause__))
    user = uri.username or "default"
    if not lacking:
        return Finding("rights", "ok", f"user {user!r} may do all that a node does")
    granted = " ".join(f"+{name.lower()}" for name in dict.fromkeys(lacking))
    return Finding(
        "rights",
        "error",
        f"user {user!r} may not do {', '.join(dict.fromkeys(lacking))}: {refusals[0]}",
        f"ACL SETUSER {user} ~{keys}:* &{channels}:* {granted}",
    )


def _commands(key: str, channel: str) -> Iterator[tuple[Argument, ...]]:
    row, order, members = f"{key}:h", f"{key}:z", f"{key}:s"
    script = "return 1"
    yield from (
        ("TIME",),
        ("HSET", row, "field", 1),
        ("HINCRBY", row, "field", 1),
        ("HGET", row, "field"),
        ("HMGET", row, "field"),
        ("HSCAN", row, 0),
        ("ZADD", order, 1, "member"),
        ("ZSCORE", order, "member"),
        ("ZCOUNT", order, 0, 1),
        ("ZRANGE", order, 0, -1),
        ("ZRANGEBYSCORE", order, 0, 1),
        ("SADD", members, "member"),
        ("SSCAN", members, 0),
        *(("PEXPIRE", name, FORGET) for name in (row, order, members)),
        ("EXISTS", row),
        ("HDEL", row, "field"),
        ("ZREM", order, "member"),
        ("SREM", members, "member"),
        ("SPOP", members, 1),
        ("DEL", row, order, members),
        ("SCRIPT", "LOAD", script),
        ("EVALSHA", hashlib.sha1(script.encode(), usedforsecurity=False).hexdigest(), 0),
        ("PUBLISH", channel, ""),
    )


async def _settings(commands: Commands) -> list[Finding]:
    names = ("client-output-buffer-limit", "maxmemory", "maxmemory-policy")
    try:
        [reply] = await commands.call(pack("CONFIG", "GET", *names))
    except EventBusError as error:
        mend = "allow +config|get to this user for once, or ask whoever runs the server"
        return [Finding(name, "unknown", f"CONFIG GET: {_reason(error)}", mend) for name in ("output buffer", "memory")]
    texts: list[str] = [text.decode() for text in reply]
    settings = dict(zip(texts[::2], texts[1::2], strict=True))
    return [
        _output_buffer(settings["client-output-buffer-limit"].split()),
        _memory(int(settings["maxmemory"]), settings["maxmemory-policy"]),
    ]


def _reason(error: BaseException) -> str:
    return str(error.__cause__ or error)


def _output_buffer(words: list[str]) -> Finding:
    """Say whether all that a node may be sent before it has handled some fits into the limits for pub/sub."""
    at = words.index("pubsub")
    hard, soft, seconds = map(int, words[at + 1 : at + 4])
    budget = BusOptions().receive_budget
    limits = ", ".join(
        [_size(hard) if hard else "no hard limit", f"{_size(soft)} for {seconds} s" if soft else ""]
    ).removesuffix(", ")
    if 0 < hard < 2 * budget or 0 < soft < budget:
        mend = f"CONFIG SET client-output-buffer-limit 'pubsub {4 * budget} {budget} 60', and in the server's file too"
        detail = f"subscribers are cut at {limits}; up to {_size(budget)} (receive_budget) may be under way to a node"
        return Finding("output buffer", "warning", detail, mend)
    return Finding("output buffer", "ok", f"subscribers are cut at {limits}" if hard or soft else "no limits")


def _size(number: int) -> str:
    return f"{number / MIB:g} MiB" if number >= MIB else f"{number / 1024:g} KiB"


def _memory(limit: int, policy: str) -> Finding:
    shown = f"maxmemory {limit / MIB:,.0f} MiB, {policy}" if limit else f"no maxmemory, {policy}"
    if policy == "noeviction":
        return Finding("memory", "ok", shown)
    mend = "CONFIG SET maxmemory-policy noeviction, or give the bus a server of its own"
    if limit:
        return Finding("memory", "error", f"{shown}: when memory is short, who holds which client is forgotten", mend)
    return Finding("memory", "warning", f"{shown}: with a maxmemory, who holds which client can be forgotten", mend)


async def _clock(commands: Commands) -> Finding:
    before = time()
    [(seconds, microseconds)] = await commands.call(pack("TIME"))
    after = time()
    skew = int(seconds) + int(microseconds) / 1_000_000 - (before + after) / 2
    detail = f"the server's clock is {abs(skew) * 1000:,.0f} ms {'ahead of' if skew > 0 else 'behind'} this one"
    if abs(skew) > MOST_SKEW:
        mend = "set both by NTP; leases go by the server's clock alone, but 'expires' by those of the nodes"
        return Finding("clock", "warning", detail, mend)
    return Finding("clock", "ok", detail)
