"""What an operator counts. Adding up costs a dictionary look-up; `web/metrics.py` gives it to Prometheus.

Labels have few values: never a user, a workspace, a database or a text of anybody's.
"""

from __future__ import annotations

from bisect import bisect_left
from dataclasses import dataclass, field

Labels = tuple[str, ...]
# Seconds. The gate and the walls are below the first two, waking a compute near one, limits at fifteen.
SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 15.0, 30.0, 60.0)
# Of background jobs, which may take half an hour.
JOB_SECONDS = (0.01, 0.1, 0.5, 1.0, 5.0, 15.0, 60.0, 300.0, 900.0, 1800.0)


@dataclass(frozen=True, slots=True)
class Counter:
    """Rises only. `name` is without `_total`, which Prometheus adds."""

    name: str
    help: str
    labels: Labels = ()
    values: dict[Labels, float] = field(default_factory=dict)

    def add(self, *labels: str, by: float = 1) -> None:
        self.values[labels] = self.values.get(labels, 0) + by


@dataclass(slots=True)
class Spread:
    """How many seconds, by bucket; the last bucket has no bound."""

    buckets: list[int]
    sum: float = 0.0


@dataclass(frozen=True, slots=True)
class Histogram:
    """Seconds that things took."""

    name: str
    help: str
    labels: Labels = ()
    values: dict[Labels, Spread] = field(default_factory=dict)
    bounds: tuple[float, ...] = SECONDS

    def observe(self, seconds: float, *labels: str) -> None:
        spread = self.values.get(labels)
        if spread is None:
            spread = self.values[labels] = Spread([0] * (len(self.bounds) + 1))
        spread.buckets[bisect_left(self.bounds, seconds)] += 1
        spread.sum += seconds


@dataclass(frozen=True, slots=True)
class Gauge:
    """Rises and falls."""

    name: str
    help: str
    labels: Labels = ()
    values: dict[Labels, float] = field(default_factory=dict)

    def add(self, *labels: str, by: float = 1) -> None:
        self.values[labels] = self.values.get(labels, 0) + by


CALLS = Counter(
    "agentdb_calls", "Calls that reached a database or were refused on the way to it.", ("source", "tool", "outcome")
)
CALL_SECONDS = Histogram(
    "agentdb_call_seconds", "How long calls took, waiting and waking included.", ("source", "tool")
)
REFUSED = Counter(
    "agentdb_refused",
    "Calls that policy, budget or a limit refused, by the kinds of their statements.",
    ("code", "kinds"),
)
CONNECTION_WAIT_SECONDS = Histogram("agentdb_connection_wait_seconds", "How long calls waited for their turn.")
KILLED = Counter("agentdb_watchdog_killed", "Backends that the watchdog ended, or failed to.", ("outcome",))
PROVISIONED = Counter("agentdb_provisioning", "Databases made or removed, by how that ended.", ("work", "outcome"))
PROVISIONING_SECONDS = Histogram("agentdb_provisioning_seconds", "How long making or removing took.", ("work",))
NEON_REQUESTS = Counter("agentdb_neon_requests", "Requests to Neon's API, repetitions included.", ("method", "status"))
NEON_WAIT_SECONDS = Counter("agentdb_neon_limit_wait_seconds", "Time waited to stay below Neon's limits.")
NEON_REQUEST_SECONDS = Histogram("agentdb_neon_request_seconds", "How long Neon's API took to answer.", ("method",))

SYNCED_CU_SECONDS = Counter(
    "agentdb_synced_cu_seconds", "Compute of settled hours, as we had estimated it and as Neon bills it.", ("whose",)
)
CONNECTIONS = Gauge("agentdb_connections", "Connections of this process to tenants' databases, or room for one in use.")
WAITING = Gauge("agentdb_connection_waiting", "Calls that wait for their turn at a connection.")

CONNECTION_OPEN_SECONDS = Histogram(
    "agentdb_connection_open_seconds", "How long connections took to open, waking a sleeping compute included."
)
HTTP_ANSWERS = Counter("agentdb_http_answers", "HTTP requests by the status that they were answered with.", ("status",))
AUDIT_DROPPED = Counter("agentdb_audit_dropped", "Audit entries that did not fit into memory and were only counted.")
SYNCED = Counter("agentdb_synced", "Projects that a sync asked for, and hours that it settled.", ("what",))
RECONCILED = Counter("agentdb_reconcile_findings", "What reconcile found to differ, by kind.", ("kind",))
JOBS = Counter("agentdb_job_runs", "Runs of background jobs in this process, by how they ended.", ("job", "outcome"))
JOB_RUN_SECONDS = Histogram("agentdb_job_run_seconds", "How long they took.", ("job",), bounds=JOB_SECONDS)

COUNTERS = (
    CALLS,
    REFUSED,
    HTTP_ANSWERS,
    KILLED,
    PROVISIONED,
    NEON_REQUESTS,
    NEON_WAIT_SECONDS,
    SYNCED_CU_SECONDS,
    SYNCED,
    RECONCILED,
    JOBS,
    AUDIT_DROPPED,
)
GAUGES = (CONNECTIONS, WAITING)
HISTOGRAMS = (
    CALL_SECONDS,
    CONNECTION_WAIT_SECONDS,
    CONNECTION_OPEN_SECONDS,
    PROVISIONING_SECONDS,
    NEON_REQUEST_SECONDS,
    JOB_RUN_SECONDS,
)
