"""
The counters of a bus as Prometheus metrics: ``pip install 'eventbus[prometheus]'``.

They are read when Prometheus asks for them; the bus itself does nothing for them.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from math import inf
from typing import Any, Final

import attrs

from eventbus_core.bus import Bus
from eventbus_core.histogram import Histogram
from eventbus_core.stats import Stats

try:
    from prometheus_client import REGISTRY, CollectorRegistry
    from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
    from prometheus_client.registry import Collector
except ImportError as error:
    raise ImportError(
        "eventbus_core.prometheus needs prometheus-client: pip install 'eventbus[prometheus]'", name=error.name
    ) from error

__all__ = ("BusCollector", "register")

LABELS: Final = ("namespace", "node")
GAUGES: Final = frozenset({"incarnation", "clients", "waiting_events", "mailbox_events", "pending_requests"})
"""What can fall."""
HISTOGRAMS: Final = frozenset(field.name for field in attrs.fields(Stats) if isinstance(field.default, Histogram))
"""All else is counted, and its metric's name ends in ``_total``."""


class BusCollector(Collector):
    """
    Collects the :class:`Stats` of buses, each field as the metric ``eventbus_<field>``.

    Every metric has the labels ``namespace`` and ``node``; a field that counts by kind has ``kind`` too.
    """

    def __init__(self, *buses: Bus) -> None:
        self._buses = buses

    def collect(self) -> Iterator[Metric]:
        """Yield the metrics as they are now."""
        found = [((bus.namespace, bus.node), bus.stats()) for bus in self._buses]
        return (_family(name, [(labels, getattr(stats, name)) for labels, stats in found]) for name in _FIELDS)

    def describe(self) -> Iterator[Metric]:
        """Yield the metrics without values, by which a registry tells that it has them already."""
        return (_family(name, []) for name in _FIELDS)


def register(*buses: Bus, registry: CollectorRegistry = REGISTRY) -> BusCollector:
    """
    Have *registry* tell of *buses*, which are all of one process; ``registry.unregister`` undoes it.

    Raises:
        ValueError: it tells of other buses already; register all in one call.
    """
    collector = BusCollector(*buses)
    registry.register(collector)
    return collector


def _family(name: str, values: list[tuple[tuple[str, str], Any]]) -> Metric:
    if name in HISTOGRAMS:
        return _histogram(name, values)
    by_kind = any(isinstance(value, Mapping) for _, value in values)
    make = GaugeMetricFamily if name in GAUGES else CounterMetricFamily
    family = make(f"eventbus_{name}", _HELP.get(name, name), labels=(*LABELS, "kind") if by_kind else LABELS)
    for place, value in values:
        if by_kind:
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
    """Return what the docstring of :class:`Stats` says of each field; nothing if docstrings were left out."""
    entries = re.findall(r"^ {8}(\w+): (.+(?:\n {12}.+)*)", Stats.__doc__ or "", re.MULTILINE)
    return {name: " ".join(text.split()) for name, text in entries}


_HELP: Final = documented()
_FIELDS: Final = [field.name for field in attrs.fields(Stats) if field.name not in ("node", "version")]
