"""The checks of a cluster for ``eventbus doctor``."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import attrs

from eventbus_core.backend import Address, BusOptions, Finding
from eventbus_core.errors import EventBusError
from eventbus_redis.checks import check_server, read_settings
from eventbus_redis.cluster.slot_map import SlotRange, View
from eventbus_redis.cluster.slots import SLOTS, slot_tag
from eventbus_redis.cluster.topology import Topology
from eventbus_redis.commands import Commands
from eventbus_redis.options import RedisOptions

LEVELS: Final = ("ok", "unknown", "warning", "error")
HINT_FAULTS: Final = (
    "start it or have its replica promoted, or give all servers the same users: until then its partitions wait"
)
PROMOTION: Final = 5.0
"""Seconds that the promotion of a replica took at most, beyond the time after which its primary counts as dead."""


async def check_cluster(topology: Topology, options: RedisOptions, root: str) -> list[Finding]:
    """
    Return the findings of all checks of the cluster, and of those of its primaries the worst of each kind.

    *root* is the beginning of the names of keys and channels.

    Raises:
        TransportUnavailable, ConfigurationError: no server answers, or all refuse this node.
    """
    view = await topology.look()
    primaries = {part.primary: part for part in view.ranges}
    whole = [_slots(view), _replicas(view)]
    reports: dict[Address, list[Finding]] = {}
    faults: list[EventBusError] = []
    for address, part in primaries.items():
        try:
            reports[address] = await _check_primary(topology, options, root, part)
        except EventBusError as error:
            faults.append(error)
    if faults:
        whole.append(Finding("primaries", "error", "; ".join(map(str, faults)), HINT_FAULTS))
    by_check = zip(*reports.values(), strict=True)
    return [*whole, *(_worst(list(reports), found) for found in by_check)]


async def _check_primary(topology: Topology, options: RedisOptions, root: str, part: SlotRange) -> list[Finding]:
    """Return the findings about the primary of *part*; raise if it cannot be reached, or refuses this node."""
    server = topology.server(part.primary)
    found = await check_server(server, options, root, root, tag=slot_tag(part.start))
    commands = Commands(server, options.command_timeout)
    try:
        return [*found, await _promotion(commands)]
    finally:
        commands.close()


def _worst(addresses: Sequence[Address], found: Sequence[Finding]) -> Finding:
    worst = max(found, key=lambda finding: LEVELS.index(finding.level))
    if len(set(found)) == 1:
        return worst
    return attrs.evolve(worst, detail=f"{addresses[found.index(worst)]}: {worst.detail}")


def _slots(view: View) -> Finding:
    served = sum(part.end - part.start + 1 for part in view.ranges)
    primaries = len({part.primary for part in view.ranges})
    detail = f"{primaries} primaries for {served:,} of {SLOTS:,} slots, epoch {view.epoch}"
    if served < SLOTS:
        hint = "redis-cli --cluster fix: the partitions of slots without a primary wait"
        return Finding("cluster", "error", detail, hint)
    return Finding("cluster", "ok", detail)


def _replicas(view: View) -> Finding:
    alone = {part.primary for part in view.ranges if not part.replicas}
    if not alone:
        return Finding("replicas", "ok", "each primary has one")
    hint = "add a replica to each: if a primary without one dies, its partitions wait until it is back"
    return Finding("replicas", "warning", f"none for {', '.join(map(str, sorted(alone)))}", hint)


async def _promotion(commands: Commands) -> Finding:
    """Return whether a replica is promoted before leases end."""
    try:
        settings = await read_settings(commands, "cluster-node-timeout")
    except EventBusError as error:
        hint = "grant +config|get to this user for this check, or ask the operator of the cluster"
        return Finding("promotion", "unknown", f"CONFIG GET: {error.__cause__ or error}", hint)
    seconds = int(settings["cluster-node-timeout"]) / 1000 + PROMOTION
    lease = BusOptions().lease
    detail = f"a dead primary is replaced within about {seconds:g} s"
    if seconds <= lease:
        return Finding("promotion", "ok", detail)
    hint = (
        f"CONFIG SET cluster-node-timeout {int((lease - PROMOTION) * 1000)} on each server, or a lease above "
        f"{seconds:g}: else all leases end if the directory's primary dies"
    )
    return Finding("promotion", "warning", f"{detail}; the default lease is {lease:g} s", hint)
