"""`agentdb_mcp.metrics`, and what the control database says, as Prometheus's text."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import anyio
from prometheus_client import CollectorRegistry, PlatformCollector, ProcessCollector, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from agentdb_mcp import metrics
from agentdb_mcp.bootstrap import Managed
from agentdb_mcp.errors import AgentDBError
from agentdb_mcp.store.jobs import JobStore

# A scrape does not wait longer for the control database: what it would have said is left out.
PATIENCE_S = 5.0


async def scrape(managed: Managed) -> bytes:
    """The process's own figures, and the fleet's where the control database answers."""
    registry = CollectorRegistry()
    ProcessCollector(registry=registry)
    PlatformCollector(registry=registry)
    registry.register(_Families([*_own(managed), *await _fleet(managed)]))
    return generate_latest(registry)


class _Families(Collector):
    def __init__(self, families: Iterable[Metric]) -> None:
        self._families = list(families)

    def collect(self) -> Iterable[Metric]:
        return self._families


def _own(managed: Managed) -> Iterator[Metric]:
    for counter in metrics.COUNTERS:
        rising = CounterMetricFamily(counter.name, counter.help, labels=counter.labels)
        for labels, value in _values(counter):
            rising.add_metric(labels, value)
        yield rising
    for gauge in metrics.GAUGES:
        current = GaugeMetricFamily(gauge.name, gauge.help, labels=gauge.labels)
        for labels, value in _values(gauge):
            current.add_metric(labels, value)
        yield current
    for histogram in metrics.HISTOGRAMS:
        family = HistogramMetricFamily(histogram.name, histogram.help, labels=histogram.labels)
        for labels, spread in list(histogram.values.items()):
            family.add_metric(labels, list(_cumulated(histogram.bounds, spread)), spread.sum)
        yield family
    states = GaugeMetricFamily(
        "agentdb_budgets", "Users known to this process, by the state of budget.", labels=["state"]
    )
    for state, users in managed.usage.budgets.states().items():
        states.add_metric([state], users)
    yield states
    room = GaugeMetricFamily("agentdb_connections_limit", "How many connections this process may have open.")
    room.add_metric([], managed.policy.limits.max_connections)
    yield room
    waiting = GaugeMetricFamily("agentdb_audit_waiting", "Audit entries that are not stored yet.")
    waiting.add_metric([], managed.audit.waiting)
    yield waiting


def _values(family: metrics.Counter | metrics.Gauge) -> list[tuple[metrics.Labels, float]]:
    """What has no labels is there from the beginning."""
    return list(family.values.items()) or ([] if family.labels else [((), 0.0)])


def _cumulated(bounds: tuple[float, ...], spread: metrics.Spread) -> Iterator[tuple[str, float]]:
    total = 0
    for bound, count in zip((*bounds, "+Inf"), spread.buckets, strict=True):
        total += count
        yield str(bound), total


async def _fleet(managed: Managed) -> list[Metric]:
    """The same from every process: of these, a dashboard takes the largest and not the sum."""
    up = GaugeMetricFamily("agentdb_control_database_up", "Whether the control database answered this scrape.")
    databases = GaugeMetricFamily("agentdb_databases", "Databases by status, as their rows say.", labels=["status"])
    late = GaugeMetricFamily("agentdb_job_overdue_seconds", "By how much a background job is late.", labels=["job"])
    failed = GaugeMetricFamily("agentdb_job_failed", "Whether a job's last run failed.", labels=["job"])
    try:
        with anyio.fail_after(PATIENCE_S):
            for status, count in (await managed.lifecycle.databases.by_status()).items():
                databases.add_metric([status], count)
            for job in await JobStore(managed.control).all():
                late.add_metric([job.name], job.overdue_s)
                failed.add_metric([job.name], float(job.last_error is not None))
    except (AgentDBError, TimeoutError):
        up.add_metric([], 0)
        return [up]
    up.add_metric([], 1)
    return [up, databases, late, failed]
