"""``eventbus doctor``: whether a broker serves the bus well, and how to mend what does not."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from types import MappingProxyType
from typing import Final

import anyio
import attrs
import msgspec
import typer
from rich.table import Table
from rich.text import Text

from eventbus_core._version import __version__
from eventbus_core.bus import Bus
from eventbus_core.cli.demo.table import stdout_console
from eventbus_core.cli.visit import FLAWED, AsJson, UriArgument, visitor_name
from eventbus_core.connect import connect
from eventbus_core.diagnosis import Finding, Level
from eventbus_core.discovery import load_backend
from eventbus_core.errors import EventBusError, NamespaceMismatch
from eventbus_core.options import BusOptions, option_names
from eventbus_core.transport import Transport
from eventbus_core.uri import TransportURI
from eventbus_core.wire import WIRE_VERSION

EXAMPLES: Final = """
Examples:

  eventbus doctor redis://localhost:6379/0

  EVENTBUS_URI=rediss://user:password@host:6380/0?namespace=staging eventbus doctor --json
"""
ANSWER_TIMEOUT: Final = 2.0
STYLES: Final[Mapping[Level, str]] = MappingProxyType(
    {"ok": "green", "warning": "yellow", "error": "red", "unknown": "dim"}
)


def doctor_command(uri: UriArgument, as_json: AsJson = False) -> None:
    """Check a broker and a namespace there, and say how to mend what is wrong; with an error, the exit status is 1."""
    connect(uri)  # raises what is wrong with the URI itself
    findings = anyio.run(_examine, uri)
    if as_json:
        typer.echo(msgspec.json.encode(findings).decode())
    else:
        stdout_console().print(_table(findings))
    raise typer.Exit(FLAWED if any(finding.level == "error" for finding in findings) else 0)


async def _examine(uri: str) -> list[Finding]:
    findings = await _transport(uri).diagnose()
    if any(finding.level == "error" and finding.check == "connection" for finding in findings):
        return findings
    return [*findings, *await _namespace(uri)]


def _transport(uri: str) -> Transport:
    parsed = TransportURI.parse(uri)
    kind = load_backend(parsed.scheme)
    known = option_names(kind.Options)
    options = {name: value for name, value in parsed.options.items() if name in known}
    namespace = str(parsed.options.get("namespace", parsed.namespace))
    return kind(attrs.evolve(parsed, namespace=namespace, options=options), visitor_name())


async def _namespace(uri: str) -> list[Finding]:
    """Enter the namespace as a node, and ask the others how they are."""
    named = "node" in TransportURI.parse(uri).options
    try:
        async with connect(uri) if named else connect(uri, node=visitor_name()) as bus:
            return [_terms(bus, uri), *await _nodes(bus)]
    except NamespaceMismatch as error:
        mend = "write lanes=... into the URI as the other nodes have it; if the wire version differs, upgrade the older"
        return [Finding("namespace", "error", str(error), mend)]
    except EventBusError as error:
        return [Finding("namespace", "error", str(error))]


def _terms(bus: Bus, uri: str) -> Finding:
    lanes = TransportURI.parse(uri).options.get("lanes", BusOptions().lanes)
    return Finding("namespace", "ok", f"{bus.namespace}: {lanes} lanes, wire version {WIRE_VERSION}")


async def _nodes(bus: Bus) -> list[Finding]:
    nodes = [node.id for node in await bus.nodes() if node.id != bus.node]
    versions: dict[str, str] = {}
    async with anyio.create_task_group() as asking:
        for node in nodes:
            asking.start_soon(_ask, bus, node, versions)
    return [_answers(nodes, versions), _versions(versions)]


async def _ask(bus: Bus, node: str, versions: dict[str, str]) -> None:
    with suppress(EventBusError):  # who says nothing is not in `versions`
        versions[node] = (await bus.node_stats(node, timeout=ANSWER_TIMEOUT)).version


def _answers(nodes: Sequence[str], versions: Mapping[str, str]) -> Finding:
    silent = [node for node in nodes if node not in versions]
    if silent:
        mend = "look whether they hang or are overloaded; one that died is gone with its lease"
        return Finding("nodes", "warning", f"{len(nodes)} live, no answer from {', '.join(silent)}", mend)
    return Finding("nodes", "ok", f"{len(nodes)} live, all answer")


def _versions(versions: Mapping[str, str]) -> Finding:
    others = [f"{node} runs {version}" for node, version in sorted(versions.items()) if version != __version__]
    if others:
        mend = "upgrade the older; meanwhile they understand each other, as their wire version is the same"
        return Finding("versions", "warning", f"{', '.join(others)}; this is {__version__}", mend)
    return Finding("versions", "ok", f"{__version__}, as all who answer")


def _table(findings: Sequence[Finding]) -> Table:
    table = Table("check", "", "found", box=None, pad_edge=False)
    for finding in findings:
        found = Text(finding.detail)
        if finding.mend:
            found.append(f"\nmend: {finding.mend}", style="bold")
        table.add_row(finding.check, Text(finding.level, style=STYLES[finding.level]), found)
    return table
