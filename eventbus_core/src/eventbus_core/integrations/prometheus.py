"""
The counters of buses as Prometheus metrics: ``pip install 'eventbus[prometheus]'``.

They are read when Prometheus scrapes them; the bus itself does no work for them.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterator, Mapping
from math import inf
from typing import Any, Final

import attrs

from eventbus_core.api.bus import Bus
from eventbus_core.errors import ConfigurationError
from eventbus_core.observability.histogram import Histogram
from eventbus_core.observability.stats import Stats

try:
    from prometheus_client import REGISTRY, CollectorRegistry
    from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
    from prometheus_client.registry import Collector
except ImportError as error:
    raise ImportError(
        "eventbus_core.integrations.prometheus needs prometheus-client: pip install 'eventbus[prometheus]'",
        name=error.name,
    ) from error

__all__ = ("BusCollector", "register")

LABELS: Final = ("namespace", "node")
GAUGES: Final = frozenset(
    {
        *("incarnation", "clients", "waiting_events", "mailbox_events", "pending_requests", "waiting_appends"),
        *("partitions", "waiting_by_server", "lingering", "state", "queued_events"),
    }
)
"""The fields whose values can fall."""
BY_SERVER: Final = frozenset({"partitions", "waiting_by_server"})
"""The fields that count by server; all others that count by something do so by kind."""
HISTOGRAMS: Final = frozenset(field.name for field in attrs.fields(Stats) if isinstance(field.default, Histogram))
"""The histograms. All other fields are counters, and the names of their metrics end in ``_total``."""


class BusCollector(Collector):
    """
    Collects the :class:`Stats` of buses; each field is the metric ``eventbus_<field>``.

    Every metric has the labels ``namespace`` and ``node``; a field that counts by kind also has ``kind``, and one that
    counts by server of the broker has ``server``, which is empty if the backend knows of one only. The
    state is a kind, too: ``eventbus_state`` of the present one is 1.
    """

    def __init__(self, *buses: Bus) -> None:
        self._buses = buses

    def collect(self) -> Iterator[Metric]:
        """Yield the metrics with their current values."""
        found = [((bus.namespace, bus.node), bus.stats()) for bus in self._buses]
        return (_family(name, [(labels, getattr(stats, name)) for labels, stats in found]) for name in _FIELDS)

    def describe(self) -> Iterator[Metric]:
        """Yield the metrics without values; a registry detects duplicates by them."""
        return (_family(name, []) for name in _FIELDS)


def register(*buses: Bus, registry: CollectorRegistry = REGISTRY) -> BusCollector:
    """
    Add the metrics of *buses*, which are all buses of this process, to *registry*.

    ``registry.unregister`` removes the returned collector.

    Raises:
        ConfigurationError: *registry* already has the metrics of a bus; pass all buses in one call.
    """
    collector = BusCollector(*buses)
    try:
        registry.register(collector)
    except ValueError:  # prometheus_client lists every metric twice
        raise ConfigurationError(
            "the registry already has the metrics of a bus; call register(...) once, with all buses of the process, "
            "or registry.unregister(...) the former collector first"
        ) from None
    return collector


def _family(name: str, values: list[tuple[tuple[str, str], Any]]) -> Metric:
    if name in HISTOGRAMS:
        return _histogram(name, values)
    values = [(place, {value: 1} if isinstance(value, str) else value) for place, value in values]
    counts = any(isinstance(value, Mapping) for _, value in values)
    label = "server" if name in BY_SERVER else "kind"
    make = GaugeMetricFamily if name in GAUGES else CounterMetricFamily
    family = make(f"eventbus_{name}", _HELP.get(name, name), labels=(*LABELS, label) if counts else LABELS)
    for place, value in values:
        if counts:
            for kind, number in value.items():
                family.add_metric((*place, kind), number)
        else:
            family.add_metric(place, value)
    return family


def _histogram(name: str, values: list[tuple[tuple[str, str], Histogram]]) -> Metric:
    family = HistogramMetricFamily(f"eventbus_{name}", _HELP.get(name, name), labels=LABELS)
    for place, value in values:
        buckets = [("+Inf" if bound == inf else str(bound), float(count)) for bound, count in value.cumulative()]
        family.add_metric(place, buckets, value.total)
    return family


def documented() -> dict[str, str]:
    """Return the description of each field in the docstring of :class:`Stats`; empty under ``python -OO``."""
    entries = re.findall(r"^ {4}(\w+): (.+(?:\n {8}.+)*)", inspect.getdoc(Stats) or "", re.MULTILINE)
    return {name: " ".join(text.split()) for name, text in entries}


_HELP: Final = documented()
_FIELDS: Final = [field.name for field in attrs.fields(Stats) if field.name not in ("node", "version", "server")]
