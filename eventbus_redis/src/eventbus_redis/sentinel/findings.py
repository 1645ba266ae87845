"""The checks of sentinels for ``eventbus doctor``, and of what a fail-over can lose."""

from __future__ import annotations

from typing import Final

from eventbus_core.backend import Finding
from eventbus_core.errors import EventBusError
from eventbus_redis.checks import read_settings
from eventbus_redis.commands import Commands
from eventbus_redis.sentinel.watch import Sentinels
from eventbus_redis.server import Server

MIN_SENTINELS: Final = 3
MAX_LAG: Final = 2
LOSS: Final = "a former primary that was cut off, or is being replaced, takes claims that are lost"


def judge_sentinels(sentinels: Sentinels) -> Finding:
    """Return whether the sentinels that the URI names are enough, and agree."""
    reports, faults = sentinels.reports, sentinels.faults
    choices = {report.choice.primary for report in reports.values()}
    known = max((int(report.facts.get(b"num-other-sentinels", 0)) + 1 for report in reports.values()), default=0)
    detail = f"{len(reports)} of {len(sentinels.servers)} answer, and name {' and '.join(map(str, choices))}"
    if faults:
        return Finding("sentinels", "warning", f"{detail}: {next(iter(faults.values()))}", "start or repair the others")
    if len(choices) > 1:
        return Finding("sentinels", "error", detail, "SENTINEL RESET on those that are wrong, or wait until they agree")
    if known > len(sentinels.servers):
        return Finding("sentinels", "warning", f"{detail}; they know {known}", "name all of them in the URI")
    if known < MIN_SENTINELS:
        return Finding("sentinels", "warning", detail, "run three or more, on machines of their own")
    return Finding("sentinels", "ok", detail)


def judge_replicas(facts: dict[str, str], replicas: int) -> Finding:
    """Return whether the primary stops taking writes once its replicas do not follow it, by its settings."""
    needed, lag = int(facts["min-replicas-to-write"]), int(facts["min-replicas-max-lag"])
    detail = f"min-replicas-to-write {needed}, min-replicas-max-lag {lag}, {replicas} replicas"
    hint = f"CONFIG SET min-replicas-to-write 1 min-replicas-max-lag {MAX_LAG}, on each server and in its file"
    if replicas == 0:
        return Finding("replicas", "error", f"{detail}: no server can take over", "start a replica")
    if needed == 0:
        return Finding("replicas", "warning", f"{detail}: {LOSS}", hint)
    if lag > MAX_LAG or lag == 0:
        return Finding("replicas", "warning", f"{detail}: for longer than {MAX_LAG} s {LOSS}", hint)
    if needed >= replicas:
        text = f"{detail}: if one replica is down, no node can claim, and delivery ends with the lease"
        return Finding("replicas", "warning", text, "start one replica more")
    return Finding("replicas", "ok", detail)


async def check_sentinels(server: Server, sentinels: Sentinels, timeout: float) -> list[Finding]:
    """Return the findings about *sentinels*, and about the replicas of *server*, their primary."""
    commands = Commands(server, timeout)
    try:
        await commands.open()
        facts = await read_settings(commands, "min-replicas-to-write", "min-replicas-max-lag")
        replicas = max((int(report.facts.get(b"num-slaves", 0)) for report in sentinels.reports.values()), default=0)
        found = judge_replicas(facts, replicas)
    except EventBusError as error:
        text = f"CONFIG GET min-replicas-*: {error.__cause__ or error}"
        found = Finding("replicas", "unknown", text, "grant +config|get to this user for this check")
    finally:
        commands.close()
    return [judge_sentinels(sentinels), found]
