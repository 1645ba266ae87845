"""The program; see :mod:`tests.benchmarks`."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from time import monotonic
from typing import Final

from tests.benchmarks.cases import SCENARIOS, Case, Scenario
from tests.benchmarks.machine import wait_until_calm
from tests.benchmarks.measure import RunFailed, measure
from tests.benchmarks.peers import MODULES, load_peer
from tests.benchmarks.record import Record, append
from tests.benchmarks.report.bars import needed
from tests.servers import ServerError

RESULTS: Final = Path("docs/results")
SMOKE_SECONDS: Final = 0.5
TRIAL_SECONDS: Final = 0.5
BAR_REPS: Final = 5
RUNS: Final = RESULTS / "runs.jsonl"
BARS_FILE: Final = RESULTS / "bars.jsonl"


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks", description="eventbus beside its peers")
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("list", help="show scenarios and peers")
    run = commands.add_parser("run", help="measure, and record")
    run.add_argument("scenarios", nargs="*", choices=[[], *SCENARIOS], metavar="SCENARIO", help="all if none is named")
    run.add_argument("--bars", action="store_true", help="only what the table of bars needs, 5 runs of each")
    run.add_argument("--peers", help="only these, with commas between")
    run.add_argument("--reps", type=int, help="runs of each case (5 where it decides, 15 of latencies, else 3)")
    run.add_argument("--seconds", type=float, help="for which a run sends (2 and 1)")
    run.add_argument("--out", type=Path, help=f"where to record ({RUNS}; with --bars {BARS_FILE}, which is replaced)")
    run.add_argument("--calm", type=float, default=30.0, help="how long to wait for a calm machine before a run (30)")
    run.add_argument("--smoke", action="store_true", help="one very short run of each, nothing recorded")
    growth = commands.add_parser("growth", help="messages and bytes per event, counted by Redis")
    growth.add_argument("--out", type=Path, default=RESULTS / "growth.jsonl")
    join = commands.add_parser("join", help="what nodes cost that join each other, and then are idle")
    join.add_argument("--nodes", type=int, nargs="+", default=[100, 200, 1000], help="how many (%(default)s)")
    join.add_argument("--out", type=Path, default=RESULTS / "joining.jsonl")
    retained = commands.add_parser("retained", help="what retained topics cost, and readers that come back")
    retained.add_argument("--out", type=Path, default=RESULTS / "retained.jsonl")
    topologies = commands.add_parser("topologies", help="what frames cost the servers of each topology")
    topologies.add_argument("names", nargs="*", help="only these")
    topologies.add_argument("--reps", type=int, default=3)
    topologies.add_argument("--out", type=Path, default=RESULTS / "topologies.jsonl")
    report = commands.add_parser("report", help="make tables and plots from what was recorded")
    report.add_argument("files", nargs="*", type=Path, default=[RUNS])
    options = parser.parse_args(arguments)
    match options.command:
        case "list":
            _list()
        case "run":
            return _run(options)
        case "growth":
            from tests.benchmarks.growth import record_growth

            record_growth(options.out)
        case "join":
            from tests.benchmarks.joining import record_joining

            record_joining(options.out, options.nodes)
        case "retained":
            from tests.benchmarks.retained import record_retained

            record_retained(options.out)
        case "topologies":
            from tests.benchmarks.topologies import record_topologies

            record_topologies(options.out, options.reps, options.names)
        case "report":
            from tests.benchmarks.report import write_report

            write_report(options.files)
    return 0


def _list() -> None:
    for scenario in SCENARIOS.values():
        variants = ", ".join(case.variant for case in scenario.cases if case.variant)
        print(f"{scenario.name:10} {scenario.question}" + (f" ({variants})" if variants else ""))
    print("\npeers:", ", ".join(MODULES))


def _run(options: argparse.Namespace) -> int:
    chosen = [SCENARIOS[name] for name in options.scenarios or SCENARIOS]
    only = options.peers.split(",") if options.peers else list(MODULES)
    if unknown := set(only) - set(MODULES):
        print(f"no such peer: {', '.join(sorted(unknown))}; there are {', '.join(MODULES)}", file=sys.stderr)
        return 2
    jobs = list(_jobs(chosen, only))
    if options.bars:
        wanted = needed()
        jobs = [(case, peer) for case, peer in jobs if (case.scenario, case.variant, peer) in wanted]
        options.reps = options.reps or BAR_REPS
    if options.smoke:
        records = [
            _attempt(case, peer, SMOKE_SECONDS, case.senders or load_peer(peer).senders[0]) for case, peer in jobs
        ]
        return 0 if all(record is not None and record.clean for record in records) else 1
    if options.out is None:
        options.out = BARS_FILE if options.bars else RUNS
        if options.bars:
            BARS_FILE.unlink(missing_ok=True)
    tuned = [(case, peer, _tune(case, peer, options)) for case, peer in jobs]
    began = monotonic()
    for turn in range(max(options.reps or scenario.reps for scenario in chosen)):
        for case, peer, senders in tuned:  # the sides take turns, so that a slow minute hits none of them alone
            scenario = SCENARIOS[case.scenario]
            if turn < (options.reps or scenario.reps):
                wait_until_calm(options.calm)
                if (record := _attempt(case, peer, options.seconds or scenario.seconds, senders)) is not None:
                    append(options.out, record)
    print(f"{(monotonic() - began) / 60:.1f} minutes")
    return 0


def _jobs(scenarios: Sequence[Scenario], only: Sequence[str]) -> Iterator[tuple[Case, str]]:
    """Yield each case with each of its sides that is wanted and installed."""
    installed = [peer for peer in only if any(peer in scenario.peers for scenario in scenarios) and _installed(peer)]
    for scenario in scenarios:
        for case in scenario.cases:
            for peer in scenario.peers:
                if peer in installed:
                    yield case, peer


def _installed(peer: str) -> bool:
    try:
        load_peer(peer)
    except ImportError as error:
        print(f"{peer} is left out: {error}; pip install --group bench", file=sys.stderr)
        return False
    return True


def _tune(case: Case, peer: str, options: argparse.Namespace) -> int:
    """Return the number of senders with which the side delivers most and loses nothing."""
    candidates = (case.senders,) if case.senders else load_peer(peer).senders
    if len(candidates) == 1:
        return candidates[0]
    best: tuple[bool, float, int] = (False, 0.0, candidates[0])
    for senders in candidates:
        wait_until_calm(options.calm)
        record = _attempt(case, peer, TRIAL_SECONDS, senders, "trial")
        if record is not None:
            append(options.out, record)
            best = max(best, (record.clean, record.rate, senders))
    return best[2]


def _attempt(case: Case, peer: str, seconds: float, senders: int, phase: str = "measured") -> Record | None:
    try:
        record = measure(case, peer, seconds, senders, phase)
    except (RunFailed, ServerError) as error:
        print(f"{case.scenario} {case.variant} {peer} FAILED: {error}", flush=True)
        return None
    print(record.line(), flush=True)
    return record


if __name__ == "__main__":
    sys.exit(main())
