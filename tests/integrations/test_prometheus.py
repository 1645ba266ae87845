"""What Prometheus gets is what the bus counts: every field of Stats, named and documented."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import attrs
import pytest
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.parser import text_string_to_metric_families

import eventbus
from eventbus_core.integrations.prometheus import GAUGES, HISTOGRAMS, documented, register
from tests.support import buses, take

DOCS = Path(__file__).parents[2] / "docs"
NO_METRICS = ("node", "version", "server")
FIELDS = [field.name for field in attrs.fields(eventbus.Stats)]


def metric_of(field: str) -> str:
    return f"eventbus_{field}" if field in GAUGES | HISTOGRAMS else f"eventbus_{field}_total"


def type_of(field: str) -> str:
    return "gauge" if field in GAUGES else "histogram" if field in HISTOGRAMS else "counter"


def scraped(registry: CollectorRegistry) -> dict[str, Any]:
    """The families that Prometheus would read, by the names of their samples."""
    families = text_string_to_metric_families(generate_latest(registry).decode())
    return {metric_of(family.name.removeprefix("eventbus_")): family for family in families}


async def test_every_field_is_a_metric_with_its_value_and_its_documentation() -> None:
    async with eventbus.connect(node="server-1", namespace="metrics") as bus, bus.client("acme/alice"):
        await bus.send("acme/alice", "greeting", {})
        registry = CollectorRegistry()
        register(bus, registry=registry)
        families = scraped(registry)
        stats = bus.stats()
    assert families.keys() == {metric_of(field) for field in FIELDS if field not in NO_METRICS}
    for field in FIELDS:
        value = getattr(stats, field)
        if isinstance(value, int | float):
            (sample,) = families[metric_of(field)].samples
            assert sample.value == value, field
            assert sample.labels == {"namespace": "metrics", "node": "server-1"}
        if field not in NO_METRICS:
            assert families[metric_of(field)].documentation not in ("", field)
    assert families["eventbus_accepted_total"].samples[0].value == 1
    assert [(sample.labels["kind"], sample.value) for sample in families["eventbus_state"].samples] == [("open", 1)]


async def test_a_histogram_is_one_for_prometheus_too() -> None:
    async with buses("memory://", 2, namespace="metrics") as (a, b), b.client("bob") as bob:
        for number in range(5):
            await a.send("bob", "n", number)
        await take(bob, 5)
        registry = CollectorRegistry()
        register(a, registry=registry)
        family = scraped(registry)["eventbus_frame_events"]
        stats = a.stats()
    assert family.type == "histogram"
    values = {(sample.name, sample.labels.get("le")): sample.value for sample in family.samples}
    assert values["eventbus_frame_events_count", None] == stats.frame_events.count
    assert values["eventbus_frame_events_sum", None] == stats.frame_events.total == 5
    assert values["eventbus_frame_events_bucket", "+Inf"] == stats.frame_events.count
    bounds = [float(le) for name, le in values if le is not None]
    assert bounds[:4] == [1, 2, 4, 8]
    buckets = [value for (_, le), value in values.items() if le is not None]
    assert buckets == sorted(buckets)


async def test_counters_by_kind_have_a_label(monkeypatch: pytest.MonkeyPatch) -> None:
    async with eventbus.connect(node="server-1") as bus:
        stats = attrs.evolve(bus.stats(), refused={"malformed": 2, "foreign": 1})
        monkeypatch.setattr(type(bus), "stats", lambda _: stats)
        registry = CollectorRegistry()
        register(bus, registry=registry)
        samples = scraped(registry)["eventbus_refused_total"].samples
    assert {sample.labels["kind"]: sample.value for sample in samples} == {"malformed": 2, "foreign": 1}


async def test_what_is_counted_by_server_has_that_label() -> None:
    async with eventbus.connect(node="server-1") as bus:
        registry = CollectorRegistry()
        register(bus, registry=registry)
        (sample,) = scraped(registry)["eventbus_partitions"].samples
    assert sample.labels == {"namespace": "default", "node": "server-1", "server": ""}
    assert sample.value == 2


async def test_several_buses_share_their_metrics_and_differ_by_label() -> None:
    registry = CollectorRegistry()
    async with eventbus.connect(node="server-1") as one, eventbus.connect(node="server-2") as two:
        collector = register(one, two, registry=registry)
        samples = scraped(registry)["eventbus_clients"].samples
        assert [sample.labels["node"] for sample in samples] == ["server-1", "server-2"]
        with pytest.raises(eventbus.ConfigurationError, match=r"already has the metrics.*with all buses") as refused:
            register(one, registry=registry)
        assert refused.value.__suppress_context__
        registry.unregister(collector)
        assert scraped(registry) == {}


def test_the_dashboard_asks_for_metrics_that_exist() -> None:
    board = json.loads((DOCS / "grafana.json").read_text(encoding="utf-8"))
    expressions = [target["expr"] for panel in board["panels"] for target in panel.get("targets", ())]
    named = {name.removesuffix("_bucket") for text in expressions for name in re.findall(r"\beventbus_\w+", text)}
    assert named == {metric_of(field) for field in FIELDS if field not in (*NO_METRICS, "incarnation")}


def test_the_page_lists_every_metric_with_its_documentation() -> None:
    page = (DOCS / "observability.md").read_text(encoding="utf-8")
    listed = re.findall(r"^\| `(\w+)` \| `(eventbus_\w+)` \| (\w+) \| (.+) \|$", page, re.MULTILINE)
    assert listed == [
        (field, metric_of(field), type_of(field), documented()[field]) for field in FIELDS if field not in NO_METRICS
    ]


@pytest.mark.parametrize(
    ("module", "missing", "extra"),
    [("prometheus", "prometheus_client", "prometheus"), ("otel", "opentelemetry", "otel")],
)
def test_says_what_to_install_when_its_extra_is_missing(module: str, missing: str, extra: str) -> None:
    code = f"import sys; sys.modules[{missing!r}] = None; import eventbus_core.integrations.{module}"
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert ended.returncode == 1
    assert f"pip install 'eventbus[{extra}]'" in ended.stderr.splitlines()[-1]


def test_importing_eventbus_imports_neither() -> None:
    code = "import eventbus, sys; print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert {"prometheus_client", "opentelemetry"}.isdisjoint(loaded)
