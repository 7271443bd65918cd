"""Explaining a statement, and finding the indexes that would help one, several or the whole workload."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import anyio.to_thread

from agentdb_mcp.advice.hints import hints
from agentdb_mcp.advice.indexes import Index, Key, Table
from agentdb_mcp.advice.plans import Plan
from agentdb_mcp.errors import InvalidArgument, NotAllowed, StatementRefused
from agentdb_mcp.execution import Statement, planning, statistics
from agentdb_mcp.models import Kind, Result, Scope, StatementFacts, Tenant
from agentdb_mcp.policy import Policy
from agentdb_mcp.services.indexing import Advice, Asked, find_indexes
from agentdb_mcp.services.look import Look
from agentdb_mcp.services.queries import Queries
from agentdb_mcp.services.trials import PLANNED, Planned, Relation, Trials, Tried, plan_as_is, read_tables


@dataclass(frozen=True, slots=True)
class Hypothesis:
    """An index as a caller names it; without a schema the table is looked for as in the caller's own statements."""

    table: str
    columns: tuple[str, ...]
    using: str = "btree"
    schema: str | None = None


@dataclass(frozen=True, slots=True)
class Explained:
    """`tried` are the hypothetical indexes, and `cost_without` what the plan costs without them.

    A `generic` plan is that for any values of $1, …
    """

    plan: Plan
    generic: bool
    hints: tuple[str, ...] = ()
    tried: tuple[Tried, ...] = ()
    method: str | None = None
    cost_without: float | None = None
    budget_note: str | None = None
    notes: tuple[str, ...] = ()


class Analysis:
    """Looks at plans and changes nothing; every text goes through the gate with its EXPLAIN before it."""

    def __init__(self, queries: Queries, policy: Policy) -> None:
        self._queries = queries
        self._policy = policy

    async def explain(
        self,
        tenant: Tenant,
        scope: Scope,
        statement: Statement,
        *,
        analyze: bool = False,
        hypothetical: Sequence[Hypothesis] = (),
    ) -> Explained:
        """The statement's plan; with `analyze` it runs, read-only. Raises AgentDBError."""
        planned = Planned.of(statement.sql, statement.params, analyze=analyze)
        _check_together(analyze=analyze, generic=planned.generic, hypothetical=bool(hypothetical))
        seconds = self._policy.limits.timeout_s * (2 if hypothetical else 1)
        async with self._queries.look(tenant, scope, [statement], seconds) as look:
            facts = await look.judge(planned.judged)
            if analyze:
                _check_reads(facts)
            plan = await plan_as_is(look, planned)
            found = Explained(plan, planned.generic)
            if hypothetical:
                found = await self._with_indexes(look, planned, plan, hypothetical)
            tables = await read_tables(look, set(found.plan.relations().values()))
            said = await anyio.to_thread.run_sync(hints, found.plan, tables)
            return replace(found, hints=tuple(said), budget_note=look.budget_note, notes=look.notes)

    async def _with_indexes(
        self, look: Look, planned: Planned, before: Plan, hypothetical: Sequence[Hypothesis]
    ) -> Explained:
        trials = await Trials.of(look, self._policy.analysis.build_max_bytes)
        indexes, tables = await _resolve(look, hypothetical)
        method = trials.method(indexes, tables)
        if method == "build":
            for index in indexes:
                await trials.check_building(index)
        (plan,), tried = await trials.plans(indexes, method, [planned])
        if method == "build":  # which counted the table's rows: the plan without knew less
            (before,), _ = await trials.plans([], method, [planned])
        return Explained(plan, planned.generic, (), tuple(tried), method, before.total_cost)

    async def indexes_for(self, tenant: Tenant, scope: Scope, texts: Sequence[str], max_bytes: int) -> Advice:
        """Indexes for these statements, each as important as the other. Raises AgentDBError, naming the statement."""
        rules = self._policy.analysis
        async with self._queries.look(tenant, scope, [Statement(text) for text in texts], rules.timeout_s) as look:
            trials = await Trials.of(look, rules.build_max_bytes)
            asked = [Asked(number, text) for number, text in enumerate(texts, 1)]
            return await find_indexes(trials, asked, max_bytes, rules.max_trials)

    async def indexes_for_workload(self, tenant: Tenant, scope: Scope, max_bytes: int) -> Advice:
        """Indexes for the statements that took most time so far, by their calls. Raises AgentDBError."""
        rules = self._policy.analysis
        asking = statistics.statements_schema()
        async with self._queries.look(tenant, scope, [asking], rules.timeout_s) as look:
            schema = _statistics_schema(*(await look.read(asking))[0].rows[0])
            top = (await look.read(statistics.top_queries(schema, "total_time", 5 * rules.workload_queries)))[0]
            asked = _workload(top, rules.workload_queries)
            trials = await Trials.of(look, rules.build_max_bytes)
            return await find_indexes(trials, asked, max_bytes, rules.max_trials, lenient=True)


def _check_together(*, analyze: bool, generic: bool, hypothetical: bool) -> None:
    if analyze and hypothetical:
        raise InvalidArgument(
            "analyze runs the statement, which cannot use indexes that there are not.",
            hint="Leave analyze or hypothetical_indexes out.",
        )
    if analyze and generic:
        raise InvalidArgument(
            "analyze runs the statement, which takes values for its $1, …", hint="Give one value for each in params."
        )


def _check_reads(facts: StatementFacts) -> None:
    if facts.certain and facts.kinds == {Kind.READ}:
        return
    because = f" ({facts.why})" if facts.why and facts.why != "EXPLAIN" else ""
    raise StatementRefused(
        f"analyze runs the statement, and it is not certain that this one only reads{because}.",
        hint="Leave analyze out: a plan by itself runs nothing.",
    )


def _statistics_schema(schema: object, version: object, loaded: object, available: object, usable: object) -> str:
    """Of what `statistics.statements_schema` found. Raises NotAllowed."""
    if schema is not None and loaded and usable:
        recent = tuple(int(part) for part in str(version).split(".")) >= statistics.OLDEST_VERSION
        if recent:
            return str(schema)
    why = "is not installed here" if loaded and available else "is not loaded by the server"
    raise NotAllowed(
        f"There are no statistics of statements: {statistics.EXTENSION} {why if schema is None else 'cannot be read'}.",
        hint="Name the statements yourself with analyze_query_indexes.",
    )


def _workload(top: Result, most: int) -> list[Asked]:
    """The statements that plans are made of, cut texts left out."""
    names = [column.name for column in top.columns]
    rows = [dict(zip(names, row, strict=True)) for row in top.rows]
    whole = [row for row in rows if len(str(row["query"])) == row["query_chars"] and PLANNED.match(str(row["query"]))]
    return [Asked(number, str(row["query"]), int(str(row["calls"]))) for number, row in enumerate(whole[:most], 1)]


async def _resolve(look: Look, hypothetical: Sequence[Hypothesis]) -> tuple[list[Index], dict[Relation, Table]]:
    """The indexes on tables and columns that there are. Raises InvalidArgument naming what there is not."""
    path = [str(schema) for schema in _listed((await look.run([planning.path()]))[0].rows[0][0])]
    wanted = {(schema, one.table) for one in hypothetical for schema in ([one.schema] if one.schema else path)}
    tables = await read_tables(look, wanted)
    indexes = []
    for number, one in enumerate(hypothetical):
        schemas = [one.schema] if one.schema else path
        table = next((tables[schema, one.table] for schema in schemas if (schema, one.table) in tables), None)
        table = _checked(f"hypothetical_indexes[{number}]", one, table)
        indexes.append(Index(table.schema, table.name, tuple(Key(name) for name in one.columns), one.using))
    return indexes, tables


def _listed(value: object) -> list[object]:
    return value if isinstance(value, list) else []


def _checked(place: str, one: Hypothesis, table: Table | None) -> Table:
    if table is None:
        where = f"in schema {one.schema}" if one.schema else "in the search path"
        raise InvalidArgument(
            f"{place}.table: there is no table {one.table!r} {where}.",
            hint=f"{'Its schema goes into schema, beside table; ' if '.' in one.table else ''}list_objects shows what"
            " there is.",
        )
    if not table.indexable:
        raise InvalidArgument(
            f"{place}.table: {one.table!r} is not a plain table or a materialized view.",
            hint="Of a partitioned table, name none: explain a statement on one of its plain tables.",
        )
    for name in one.columns:
        if name not in table.columns:
            raise InvalidArgument(
                f"{place}.columns: {table.schema}.{table.name} has no column {name!r}.",
                hint="get_object_details shows its columns; expressions are not possible here.",
            )
    return table
