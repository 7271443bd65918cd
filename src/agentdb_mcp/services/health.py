"""How a database fares: its costliest queries, and what is wrong with it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal, TypeVar, get_args

from agentdb_mcp import gate
from agentdb_mcp.advice import health as advice
from agentdb_mcp.advice.health import Cents, Finding, Thresholds
from agentdb_mcp.costs import MICROCENTS_PER_CENT, Prices, month_microcents
from agentdb_mcp.errors import NotAllowed, SqlError
from agentdb_mcp.execution import Statement, health, statistics
from agentdb_mcp.execution.statistics import EXTENSION, OLDEST_VERSION, SortBy
from agentdb_mcp.models import AccessMode, BudgetState, Result, Scope, Tenant
from agentdb_mcp.policy import Policy
from agentdb_mcp.services.queries import NOT_PERMITTED, Queries, waking_notes
from agentdb_mcp.services.rows import identifier
from agentdb_mcp.services.usage import Usage

HealthType = Literal["index", "connection", "vacuum", "sequence", "replication", "buffer", "constraint", "growth"]
HEALTH_TYPES: tuple[HealthType, ...] = get_args(HealthType)
# An answer holds so many findings, the worst; and so many of the largest tables.
MOST_FINDINGS, LARGEST = 100, 5

_READS: dict[HealthType, dict[str, Callable[[], Statement]]] = {
    "index": {"foreign keys": health.foreign_keys},
    "connection": {"connections": health.connections, "transactions": health.transactions},
    "vacuum": {"tables": health.tables},
    "sequence": {"sequences": health.sequences},
    "buffer": {"buffers": health.buffers},
    "constraint": {"constraints": health.unchecked_constraints},
    "growth": {"size": health.size, "tables": health.tables},
}
# What reads a source that may be hidden: the source, and what is not seen without it.
_HIDEABLE: dict[HealthType, dict[str, tuple[Callable[[], Statement], str, str]]] = {
    "connection": {
        "all connections": (health.connections_of_the_server, "pg_stat_activity", "connections of other roles"),
        "limit": (health.connections_of_the_role, "pg_roles", "the role's own limit of connections"),
    },
    "replication": {
        "slots": (health.slots, "pg_replication_slots", "replication slots"),
        "standbys": (health.standbys, "pg_stat_replication", "standbys"),
    },
}
Row = TypeVar("Row")


@dataclass(frozen=True, slots=True)
class Report:
    """Findings, the worst first, figures by name, and what could not be seen; `omitted` findings did not fit."""

    findings: Sequence[Finding]
    figures: dict[str, Any]
    not_seen: Sequence[str]
    omitted: int = 0
    notes: tuple[str, ...] = ()


@dataclass(slots=True)
class _Seen:
    results: dict[str, Result] = field(default_factory=dict)
    missing: list[str] = field(default_factory=list)

    def rows(self, name: str, row: Callable[..., Row]) -> list[Row]:
        """None where it was not read; columns that are null keep their default."""
        return [row(**each) for each in self.plain(name)]

    def plain(self, name: str) -> list[dict[str, Any]]:
        result = self.results.get(name)
        if result is None:
            return []
        names = [column.name for column in result.columns]
        pairs = (zip(names, row, strict=True) for row in result.rows)
        return [{key: value for key, value in pair if value is not None} for pair in pairs]

    def value(self, name: str, column: str) -> int | None:
        rows = self.plain(name)
        return int(rows[0][column]) if rows and column in rows[0] else None


@dataclass(frozen=True, slots=True)
class Health:
    """Reads as the agent, and judges by `thresholds`."""

    queries: Queries
    policy: Policy
    usage: Usage | None = None
    thresholds: Thresholds = field(default_factory=Thresholds)

    async def top_queries(self, tenant: Tenant, scope: Scope, sort_by: SortBy, limit: int, most_chars: int) -> Result:
        """Rows of `statistics.top_queries`. Raises NotAllowed where there are no such statistics, AgentDBError."""
        (found,) = await self.queries.catalog(tenant, scope, [statistics.statements_schema()])
        schema = self._statements_schema(*found.rows[0])
        statement = statistics.top_queries(schema, sort_by, limit, most_chars=most_chars)
        (result,) = await self.queries.catalog(tenant, scope, [statement])
        return replace(result, opening_s=found.opening_s + result.opening_s)

    def _statements_schema(
        self, schema: object, version: object, loaded: object, available: object, usable: object
    ) -> str:
        """The schema, or NotAllowed with what is to be run, and by whom."""
        if not loaded or not available:
            hint = (
                f"Its operator adds it to shared_preload_libraries, restarts it, and runs CREATE EXTENSION {EXTENSION};"
            )
            raise NotAllowed(f"The server does not load {EXTENSION}: there are no statistics of statements.", hint=hint)
        if schema is None:
            missing = f"The extension {EXTENSION} is not installed in this database."
            by_agent = EXTENSION in self.policy.extensions.allow
            who = (
                "Run it with execute_sql:"
                if by_agent
                else "The operator adds it to the policy's [extensions] allow, or the database's owner runs:"
            )
            raise NotAllowed(missing, hint=f"{who} CREATE EXTENSION {EXTENSION};")
        if tuple(int(part) for part in str(version).split(".")) < OLDEST_VERSION:
            hint = f"Its owner runs: ALTER EXTENSION {EXTENSION} UPDATE;"
            raise NotAllowed(f"The extension {EXTENSION} {version} is too old.", hint=hint)
        if not usable:
            name = identifier(str(schema))
            hint = f"Its owner runs GRANT USAGE ON SCHEMA {name} TO this role, whose name SELECT CURRENT_USER gives."
            raise NotAllowed(f"{EXTENSION} is in the schema {name}, which this role may not use.", hint=hint)
        return str(schema)

    async def analyze(self, tenant: Tenant, scope: Scope, types: Iterable[HealthType] = HEALTH_TYPES) -> Report:
        """Look at these parts of the database. What may not be read is told in the report. Raises AgentDBError."""
        wanted = [each for each in HEALTH_TYPES if each in set(types)]
        seen = await self._look(tenant, scope, wanted)
        mode, payer = await self.queries.calls.terms(tenant, scope)
        cents = self._cents() if payer else None
        findings = self._judge(wanted, seen, cents)
        figures = _figures(wanted, seen, cents)
        if (size := seen.value("size", "size_bytes")) is not None and cents and payer and self.usage:
            budget = (await self.usage.report(payer)).limit_microcents / MICROCENTS_PER_CENT
            findings += advice.judge_growth(size, cents(size), budget, self.thresholds)
        shown = advice.sorted_findings(findings)
        found = [self._as_permitted(each, mode) for each in shown[:MOST_FINDINGS]]
        notes = waking_notes(list(seen.results.values()))
        return Report(found, figures, seen.missing, max(0, len(shown) - MOST_FINDINGS), notes)

    async def _look(self, tenant: Tenant, scope: Scope, wanted: Sequence[HealthType]) -> _Seen:
        seen, reads = _Seen(), dict[str, Statement]()
        hideable = {name: each for kind in wanted for name, each in _HIDEABLE.get(kind, {}).items()}
        if hideable:
            (sources,) = await self.queries.catalog(tenant, scope, [health.sources()])
            open_sources = {str(row[0]) for row in sources.rows}
            for name, (read, source, what) in hideable.items():
                if source in open_sources:
                    reads[name] = read()
                else:
                    seen.missing.append(f"{what} ({source} is hidden from this role)")
        reads |= {name: read() for kind in wanted for name, read in _READS.get(kind, {}).items()}
        if "index" in wanted:
            reads["indexes"] = health.indexes(self.thresholds.bloated_bytes)
        if not reads:
            return seen
        try:
            results = await self.queries.catalog(tenant, scope, list(reads.values()))
            seen.results = dict(zip(reads, results, strict=True))
        except SqlError as error:
            if error.sqlstate != NOT_PERMITTED:
                raise
            await self._look_one_by_one(tenant, scope, reads, seen)
        seen.missing += [
            f"{name} past the first {len(result.rows):,}" for name, result in seen.results.items() if result.truncated
        ]
        return seen

    async def _look_one_by_one(self, tenant: Tenant, scope: Scope, reads: dict[str, Statement], seen: _Seen) -> None:
        """Where something is forbidden that Postgres allows everyone, the rest is still seen."""
        for name, read in reads.items():
            try:
                (seen.results[name],) = await self.queries.catalog(tenant, scope, [read])
            except SqlError as error:
                if error.sqlstate != NOT_PERMITTED:
                    raise
                seen.missing.append(f"{name} (this role may not read them)")

    def _judge(self, wanted: Sequence[HealthType], seen: _Seen, cents: Cents) -> list[Finding]:
        limits = self.thresholds
        indexes, keys = seen.rows("indexes", advice.Index), seen.rows("foreign keys", advice.ForeignKey)
        findings = advice.judge_indexes(indexes, keys, limits, cents)
        if "indexes" in seen.results:
            findings += advice.judge_foreign_keys(keys, indexes, limits)
        if "vacuum" in wanted:
            findings += advice.judge_tables(seen.rows("tables", advice.Table), limits)
        findings += advice.judge_sequences(seen.rows("sequences", advice.Sequence), limits)
        findings += advice.judge_constraints(seen.rows("constraints", advice.Unchecked))
        findings += advice.judge_transactions(seen.rows("transactions", advice.Transaction), limits)
        for row in seen.plain("buffers"):
            findings += advice.judge_buffers(row["what"], row["hit"], row["read"], limits)
        slots, standbys = seen.rows("slots", advice.Slot), seen.rows("standbys", advice.Standby)
        findings += advice.judge_replication(slots, standbys, limits)
        own, most = seen.value("connections", "own"), seen.value("connections", "most")
        everybody = seen.value("all connections", "used")
        if own is not None:
            findings += advice.judge_connections("The agent", own, seen.value("limit", "most") or most, limits)
        if everybody is not None:
            findings += advice.judge_connections("The server", everybody, most, limits)
        return findings

    def _as_permitted(self, finding: Finding, mode: AccessMode) -> Finding:
        """Without its SQL where the gate would refuse it to the agent, whatever the budget."""
        for sql in finding.sql:
            facts = gate.classify(sql, gate.TextLimits.of(self.policy.limits))
            decision = gate.decide(facts, policy=self.policy, mode=mode, budget=BudgetState.OK)
            if not decision.allowed:
                why = f"{finding.why} It cannot be mended from here: {decision.message}"
                return replace(finding, why=why, sql=())
        return finding

    def _cents(self) -> Callable[[int], float]:
        prices = Prices.of(self.policy.prices)
        return lambda size: month_microcents(size, prices) / MICROCENTS_PER_CENT


def _figures(wanted: Sequence[HealthType], seen: _Seen, cents: Cents) -> dict[str, Any]:
    """What was measured, whether it is a finding or not."""
    figures: dict[str, Any] = {}
    tables = seen.plain("tables")
    if "connection" in wanted:
        figures["connections"] = seen.value("connections", "own")
    if "vacuum" in wanted:
        figures["oldest_transaction_age"] = max((int(each["age"]) for each in tables), default=0)
    for row in seen.plain("buffers"):
        rate = advice.hit_rate(row["hit"], row["read"])
        figures[f"{row['what']}_hit_rate"] = None if rate is None else round(rate, 4)
    if "growth" in wanted:
        size = seen.value("size", "size_bytes") or 0
        figures["size_bytes"] = size
        if cents:
            figures["cents_per_month"] = round(cents(size), 4)
        figures["largest"] = [{key: each[key] for key in ("name", "size_bytes")} for each in tables[:LARGEST]]
    return figures
