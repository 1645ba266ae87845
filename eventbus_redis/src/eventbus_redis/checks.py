"""The checks of a Redis server for ``eventbus doctor``."""

from __future__ import annotations

import hashlib
import secrets
from collections.abc import Iterator
from ipaddress import ip_address
from time import time
from types import MappingProxyType
from typing import Final

from redis.exceptions import NoPermissionError, ResponseError

from eventbus_core.backend import BusOptions, Finding, TransportURI
from eventbus_core.errors import EventBusError
from eventbus_redis.commands import Commands
from eventbus_redis.errors import redis_errors
from eventbus_redis.options import RedisOptions
from eventbus_redis.packing import Argument, pack
from eventbus_redis.server import HELLO, PRIMARY, ROLE, Hello, Server, replicas_of

MAX_CLOCK_SKEW: Final = 1.0
TRIAL_EXPIRY: Final = 10_000
"""Milliseconds until the keys of a trial expire, if the user may not delete them."""
OPTIONAL: Final = MappingProxyType(
    {
        **dict.fromkeys(("XADD", "XRANGE", "XDEL"), "retained topics need"),
        "ROLE": "keeps frames out of the replication stream of a server with replicas",
    }
)
"""Commands that a node can do without, and what for."""
MIB: Final = 1024 * 1024


async def check_server(
    server: Server, options: RedisOptions, keys: str, channels: str, *, tag: str = ""
) -> list[Finding]:
    """
    Connect to *server* and return the findings of all checks.

    Args:
        keys: prefix of all key names.
        channels: prefix of all channel names.
        tag: of a slot of the server, if it belongs to a cluster.
    """
    commands = Commands(server, options.command_timeout)
    try:
        await commands.open()
        return [
            await _version(commands, server.uri, tag),
            encryption(server.uri, options),
            await _rights(commands, server.uri, keys, channels, tag),
            *await _settings(commands),
            await _clock(commands),
        ]
    finally:
        commands.close()


async def _version(commands: Commands, uri: TransportURI, tag: str) -> Finding:
    [reply], [role] = await commands.call(HELLO), await commands.send([ROLE], 1)  # the latter may be refused
    with redis_errors(uri):
        hello = Hello.parse(reply)
    detail = f"{hello.server} {hello.version}, {hello.mode}, {hello.role}"
    if hello.role not in PRIMARY:
        return Finding("server", "error", detail, f"{uri} is a replica and rejects writes: name its primary")
    if (replicas := replicas_of(role)) and not tag:
        detail += f" with {replicas} replicas; frames are published by a script that keeps them from these"
    return Finding("server", "ok", detail)


def encryption(uri: TransportURI, options: RedisOptions) -> Finding:
    """Return whether the traffic with *uri* can be read or changed on its way."""
    encrypted = uri.scheme.startswith("rediss")
    if uri.scheme == "unix" or (not encrypted and _is_loopback(uri.host)):
        return Finding("TLS", "ok", "not used; the server is on this machine")
    if not encrypted:
        hint = f"set tls-port and a certificate on the server, and write {uri.scheme.replace('redis', 'rediss', 1)}://"
        return Finding("TLS", "warning", "not used: the password and all events travel in plain text", hint)
    if options.ssl_cert_reqs != "required" or not options.ssl_check_hostname:
        hint = "leave ssl_cert_reqs and ssl_check_hostname at their defaults; ssl_ca_certs names your own authority"
        return Finding("TLS", "warning", "used, but another machine on the way can pose as the server", hint)
    return Finding("TLS", "ok", "used, and the server's certificate is checked")


def _is_loopback(host: str) -> bool:
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host in ("", "localhost")


async def _rights(commands: Commands, uri: TransportURI, keys: str, channels: str, tag: str) -> Finding:
    """
    Run each command that a node runs once, on unused names; the transport itself tries SUBSCRIBE.

    All are in one write: if the connection breaks, the keys have still been deleted, or expire.
    """
    end = f":{{{tag}}}" if tag else ""
    key, channel = f"{keys}:doctor-{secrets.token_hex(8)}{end}", f"{channels}:doctor{end}"
    frames = _cluster_commands(key, channel) if tag else [("ROLE",), ("PUBLISH", channel, "")]
    trials = [*_commands(key), *frames]
    refusals: list[tuple[str, str]] = []
    try:
        replies = await commands.send([pack(*trial) for trial in trials], len(trials))
        with redis_errors(uri):
            for (name, *_), reply in zip(trials, replies, strict=False):  # fewer if the server hung up
                if isinstance(reply, NoPermissionError):
                    refusals.append((str(name), str(reply)))
                elif isinstance(reply, ResponseError):
                    raise reply
    except EventBusError as error:
        return Finding("rights", "unknown", str(error), "correct that first")
    denied = dict.fromkeys(name for name, _ in refusals)
    user = uri.username or "default"
    if not denied:
        return Finding("rights", "ok", f"user {user!r} may run every command that a node needs")
    optional = OPTIONAL.keys() >= denied.keys()
    uses = dict.fromkeys(OPTIONAL[name] for name in denied) if optional else ()
    granted = " ".join(f"+{name.lower()}" for name in denied)
    return Finding(
        "rights",
        "warning" if optional else "error",
        f"user {user!r} may not run {', '.join(denied)}"
        f"{', which ' + ', and '.join(uses) if uses else ''}: {refusals[0][1]}",
        f"ACL SETUSER {user} ~{keys}:* &{channels}:* {granted}",
    )


def _cluster_commands(key: str, channel: str) -> Iterator[tuple[Argument, ...]]:
    yield from (("GET", key), ("CLUSTER", "INFO"), ("CLUSTER", "SLOTS"), ("SPUBLISH", channel, ""))


def _commands(key: str) -> Iterator[tuple[Argument, ...]]:
    row, order, members, entries = f"{key}:h", f"{key}:z", f"{key}:s", f"{key}:x"
    script = "return 1"
    yield from (
        ("TIME",),
        ("HSET", row, "field", 1),
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
        ("SISMEMBER", members, "member"),
        ("XADD", entries, "1-1", "field", 1),
        ("XRANGE", entries, "-", "+"),
        *(("PEXPIRE", name, TRIAL_EXPIRY) for name in (row, order, members, entries)),
        ("HDEL", row, "field"),
        ("ZREM", order, "member"),
        ("SREM", members, "member"),
        ("SPOP", members, 1),
        ("XDEL", entries, "1-1"),
        ("DEL", row, order, members, entries),
        ("SCRIPT", "LOAD", script),
        ("EVALSHA", hashlib.sha1(script.encode(), usedforsecurity=False).hexdigest(), 0),
    )


async def read_settings(commands: Commands, *names: str) -> dict[str, str]:
    """
    Return the settings *names* of a server.

    Raises:
        EventBusError: it does not tell them all.
    """
    [reply] = await commands.call(pack("CONFIG", "GET", *names))
    texts = [text.decode() for text in reply]
    settings = dict(zip(texts[::2], texts[1::2], strict=True))
    if missing := [name for name in names if name not in settings]:
        raise EventBusError(f"the answer lacks {', '.join(missing)}")
    return settings


async def _settings(commands: Commands) -> list[Finding]:
    names = ("client-output-buffer-limit", "maxmemory", "maxmemory-policy")
    try:
        settings = await read_settings(commands, *names)
    except EventBusError as error:
        hint = "grant +config|get to this user for this check, or ask the operator of the server"
        return [Finding(name, "unknown", f"CONFIG GET: {_reason(error)}", hint) for name in ("output buffer", "memory")]
    return [
        _output_buffer(settings["client-output-buffer-limit"].split()),
        _memory(int(settings["maxmemory"]), settings["maxmemory-policy"]),
    ]


def _reason(error: BaseException) -> str:
    return str(error.__cause__ or error)


def _output_buffer(words: list[str]) -> Finding:
    """Return whether the bytes that may be in flight to one node fit into the limits for pub/sub."""
    at = words.index("pubsub")
    hard, soft, seconds = map(int, words[at + 1 : at + 4])
    budget = BusOptions().receive_budget
    limits = ", ".join(
        [_size(hard) if hard else "no hard limit", f"{_size(soft)} for {seconds} s" if soft else ""]
    ).removesuffix(", ")
    if 0 < hard < 2 * budget or 0 < soft < budget:
        hint = f"CONFIG SET client-output-buffer-limit 'pubsub {4 * budget} {budget} 60', and in the server's file too"
        detail = f"subscribers are cut at {limits}; up to {_size(budget)} (receive_budget) may be in flight to a node"
        return Finding("output buffer", "warning", detail, hint)
    return Finding("output buffer", "ok", f"subscribers are cut at {limits}" if hard or soft else "no limits")


def _size(number: int) -> str:
    return f"{number / MIB:g} MiB" if number >= MIB else f"{number / 1024:g} KiB"


def _memory(limit: int, policy: str) -> Finding:
    shown = f"maxmemory {limit / MIB:,.0f} MiB, {policy}" if limit else f"no maxmemory, {policy}"
    if policy == "noeviction":
        return Finding("memory", "ok", shown)
    hint = "CONFIG SET maxmemory-policy noeviction, or give the bus a server of its own"
    if limit:
        return Finding("memory", "error", f"{shown}: when memory is short, Redis deletes owners of clients", hint)
    return Finding("memory", "warning", f"{shown}: once maxmemory is set, Redis may delete owners of clients", hint)


async def _clock(commands: Commands) -> Finding:
    before = time()
    [(seconds, microseconds)] = await commands.call(pack("TIME"))
    after = time()
    skew = int(seconds) + int(microseconds) / 1_000_000 - (before + after) / 2
    detail = f"the server's clock is {abs(skew) * 1000:,.0f} ms {'ahead of' if skew > 0 else 'behind'} this one"
    if abs(skew) > MAX_CLOCK_SKEW:
        hint = "synchronise both by NTP; leases use the server's clock alone, but 'expires' uses those of the nodes"
        return Finding("clock", "warning", detail, hint)
    return Finding("clock", "ok", detail)
