"""``eventbus doctor``: checks a broker and a namespace, and says how to correct what is wrong."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from functools import partial
from types import MappingProxyType
from typing import Final

import anyio
import attrs
import typer
from rich.table import Table
from rich.text import Text

from eventbus_core._version import __version__
from eventbus_core.api.bus import Bus
from eventbus_core.api.connect import connect
from eventbus_core.api.discovery import load_backend
from eventbus_core.backend import Finding, Transport, TransportURI
from eventbus_core.cli.arguments import AsJson, UriArgument
from eventbus_core.cli.console import StdoutConsole, print_json
from eventbus_core.cli.probe import examine_broker
from eventbus_core.cli.visit import FLAWED, visitor_name, with_setting
from eventbus_core.errors import EventBusError, NamespaceMismatch
from eventbus_core.options import BusOptions, option_names
from eventbus_core.session.wire import WIRE_VERSION

DOCTOR_EXAMPLES: Final = """
Examples:

  eventbus doctor redis://localhost:6379/0

  EVENTBUS_URI=rediss://user:password@host:6380/0?namespace=staging eventbus doctor --json
"""
ANSWER_TIMEOUT: Final = 2.0
STYLES: Final[Mapping[str, str]] = MappingProxyType(
    {"ok": "green", "warning": "yellow", "error": "red", "unknown": "dim"}
)


def doctor_command(uri: UriArgument, as_json: AsJson = False) -> None:
    """
    Check a broker and a namespace, and say how to correct faults.

    The exit status is 1 if a check finds an error.
    """
    connect(uri)  # raises if the URI is not valid
    findings = anyio.run(_examine, uri)
    if as_json:
        print_json(findings)
    else:
        StdoutConsole().print_table(_table(findings))
    raise typer.Exit(FLAWED if any(finding.level == "error" for finding in findings) else 0)


async def _examine(uri: str) -> list[Finding]:
    findings = await examine_broker(partial(_transport, TransportURI.parse(uri), visitor_name()))
    if any(finding.level == "error" and finding.check == "connection" for finding in findings):
        return findings
    return [*findings, *await _namespace(uri)]


def _transport(uri: TransportURI, visitor: str, suffix: str) -> Transport:
    """Return a transport as the node that *uri* names, since its user may have the rights of no other."""
    kind = load_backend(uri.scheme)
    known = option_names(kind.Options)
    options = {name: value for name, value in uri.options.items() if name in known}
    namespace = str(uri.options.get("namespace", uri.namespace))
    node = str(uri.options.get("node", visitor + suffix))
    return kind(attrs.evolve(uri, namespace=namespace, options=options), node)


async def _namespace(uri: str) -> list[Finding]:
    """
    Join the namespace as a node, and ask the other nodes for their versions. Lanes and retention are those of the
    namespace, unless the URI names them.
    """
    named = "node" in TransportURI.parse(uri).options
    try:
        async with connect(uri) if named else connect(uri, node=visitor_name()) as bus:
            return [_terms(bus, uri), *await _nodes(bus)]
    except NamespaceMismatch as error:
        if (corrected := with_setting(uri, error)) is not None:
            return await _namespace(corrected)
        hint = (
            "give lanes=, retain=, retain_clients= and retain_queues= in the URI as on the other nodes; if the wire "
            "version differs, upgrade the older nodes"
        )
        return [Finding("namespace", "error", str(error), hint)]
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
    with suppress(EventBusError):  # a node that does not answer is missing in `versions`
        versions[node] = (await bus.node_stats(node, timeout=ANSWER_TIMEOUT)).version


def _answers(nodes: Sequence[str], versions: Mapping[str, str]) -> Finding:
    silent = [node for node in nodes if node not in versions]
    if silent:
        hint = "check whether they hang or are overloaded; a node that died disappears when its lease ends"
        return Finding("nodes", "warning", f"{len(nodes)} live, no answer from {', '.join(silent)}", hint)
    return Finding("nodes", "ok", f"{len(nodes)} live, all answer" if nodes else "none is live in this namespace")


def _versions(versions: Mapping[str, str]) -> Finding:
    others = [f"{node} runs {version}" for node, version in sorted(versions.items()) if version != __version__]
    if others:
        hint = "upgrade the older; until then they work together, since their wire version is the same"
        return Finding("versions", "warning", f"{', '.join(others)}; this is {__version__}", hint)
    return Finding("versions", "ok", f"{__version__} on all nodes that answer")


def _table(findings: Sequence[Finding]) -> Table:
    table = Table("check", "", "found", box=None, pad_edge=False)
    for finding in findings:
        found = Text(finding.detail)
        if finding.hint:
            found.append(f"\nhint: {finding.hint}", style="bold")
        table.add_row(finding.check, Text(finding.level, style=STYLES[finding.level]), found)
    return table
