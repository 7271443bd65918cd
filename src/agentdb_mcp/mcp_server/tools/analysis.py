"""Tools that explain statements and find indexes for them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

from pydantic import Field

from agentdb_mcp.execution import Statement
from agentdb_mcp.mcp_server import rendering, schemas
from agentdb_mcp.mcp_server.arguments import Arguments
from agentdb_mcp.mcp_server.rendering import Rendered
from agentdb_mcp.mcp_server.tools.base import Operations, Tool
from agentdb_mcp.models import Scope
from agentdb_mcp.services.analysis import Explained, Hypothesis
from agentdb_mcp.services.indexing import Advice, Asked, Recommendation

MEGABYTE = 1_000_000
# A statement of the workload is shown so far.
_SHOWN_CHARACTERS = 300


class HypotheticalIndex(Arguments):
    # Names are looked up in the catalog; bounds of theirs would only make the list of tools longer.
    table: str = Field(description="Its table.")
    columns: list[str] = Field(min_length=1, description="Its columns.")
    using: Literal["btree", "hash", "brin", "gin", "gist"] = Field(default="btree", description="Its kind.")
    schema_name: str = Field(default="", alias="schema", description="The table's schema.")


class ExplainQuery(Arguments):
    sql: str = Field(min_length=1, description="One SQL statement.")
    params: list[Any] = Field(default=[], max_length=1000, description="Values for $1, $2, …")
    analyze: bool = Field(default=False, description="Run it, read-only, and tell what happened.")
    hypothetical_indexes: list[HypotheticalIndex] = Field(
        default=[], max_length=8, description="Plan as if these existed."
    )


class IndexSearch(Arguments):
    max_index_size_mb: int = Field(default=1000, ge=1, le=1_000_000, description="MB for all new indexes.")
    method: Literal["dta"] = Field(default="dta", description="Greedy, by cost.")


class AnalyzeQueryIndexes(IndexSearch):
    queries: list[str] = Field(min_length=1, max_length=10, description="SQL statements, one in each.")


async def _explain_query(do: Operations, scope: Scope, given: ExplainQuery) -> Rendered:
    hypothetical = [
        Hypothesis(one.table, tuple(one.columns), one.using, one.schema_name or None)
        for one in given.hypothetical_indexes
    ]
    statement = Statement(given.sql, given.params)
    found = await do.analysis.explain(do.tenant, scope, statement, analyze=given.analyze, hypothetical=hypothetical)
    return _explained(found)


def _explained(found: Explained) -> Rendered:
    fields: dict[str, Any] = {
        "plan": found.plan.document,
        "plan_text": found.plan.text(),
        "total_cost": found.plan.total_cost,
        "advice": list(found.hints),
    }
    lines = [fields["plan_text"], *(f"Advice: {hint}" for hint in found.hints)]
    if found.tried:
        used = found.plan.used_indexes()
        fields["hypothetical"] = {
            "method": found.method,
            "cost_without": found.cost_without,
            "indexes": [
                {"name": one.name, "sql": one.index.sql(), "size_bytes": one.size_bytes, "used": one.name in used}
                for one in found.tried
            ],
        }
        lines += [
            f"{one.name} is {one.index.sql()} ({one.size_bytes:,} bytes): {'used' if one.name in used else 'not used'}."
            for one in found.tried
        ]
        lines.append(f"Without, it costs {found.cost_without:,.2f}; so, {found.plan.total_cost:,.2f}.")
    notes = [*found.notes]
    if found.generic:
        notes.append("The plan is for any values of $1, …; give params for one of certain values.")
    return rendering.remarked(fields, rendering.framed("\n".join(lines)), found.budget_note, notes)


async def _analyze_query_indexes(do: Operations, scope: Scope, given: AnalyzeQueryIndexes) -> Rendered:
    size = given.max_index_size_mb * MEGABYTE
    return _advised(await do.analysis.indexes_for(do.tenant, scope, given.queries, size))


async def _analyze_workload_indexes(do: Operations, scope: Scope, given: IndexSearch) -> Rendered:
    size = given.max_index_size_mb * MEGABYTE
    return _advised(await do.analysis.indexes_for_workload(do.tenant, scope, size))


def _advised(found: Advice) -> Rendered:
    fields: dict[str, Any] = {
        "recommendations": [_recommendation(one) for one in found.recommendations],
        "queries": [_query(one) for one in found.asked],
        "method": found.method,
        "trials": found.tried,
    }
    if found.remarks:
        fields["remarks"] = list(found.remarks)
    return rendering.remarked(fields, rendering.framed(_advice_text(found)), found.budget_note, found.notes)


def _recommendation(one: Recommendation) -> dict[str, Any]:
    return {
        "sql": one.index.sql(),
        "size_bytes": one.size_bytes,
        "cost_before": round(one.cost_before, 2),
        "cost_after": round(one.cost_after, 2),
        "queries": list(one.queries),
    }


def _query(one: Asked) -> dict[str, Any]:
    fields: dict[str, Any] = {"number": one.number, "query": one.sql[:_SHOWN_CHARACTERS]}
    known = {"calls": one.calls, "cost_before": one.cost_before, "cost_after": one.cost_after, "skipped": one.skipped}
    return fields | {name: value for name, value in known.items() if value is not None}


def _advice_text(found: Advice) -> str:
    lines = []
    if not found.recommendations:
        lines.append("No index lowers the cost of these statements by a useful share.")
    lines += [
        f"{one.index.sql()}; about {one.size_bytes:,} bytes; the cost of {_numbers(one.queries)} goes from"
        f" {one.cost_before:,.0f} to {one.cost_after:,.0f}"
        for one in found.recommendations
    ]
    for asked in found.asked:
        said = f"skipped: {asked.skipped}" if asked.skipped else f"{asked.cost_before:,.0f} → {asked.cost_after:,.0f}"
        lines.append(f"Query {asked.number} ({said}): {' '.join(asked.sql[:_SHOWN_CHARACTERS].split())}")
    return "\n".join([*lines, *found.remarks])


def _numbers(queries: Sequence[int]) -> str:
    return f"{'query' if len(queries) == 1 else 'queries'} {', '.join(map(str, queries))}"


_EXPLAINED = schemas.answer(plan={"type": "object"}, total_cost={"type": "number"}, advice={"type": "array"})
_ADVISED = schemas.answer(recommendations={"type": "array"}, queries={"type": "array"})

TOOLS = (
    Tool(
        "explain_query",
        "Explain a statement",
        "Its plan and cost, and advice in words. Nothing runs without analyze.",
        ExplainQuery,
        _EXPLAINED,
        _explain_query,
    ),
    Tool(
        "analyze_query_indexes",
        "Find indexes for statements",
        "Indexes that would make these statements cheaper, tried in their plans. Creates none.",
        AnalyzeQueryIndexes,
        _ADVISED,
        _analyze_query_indexes,
    ),
    Tool(
        "analyze_workload_indexes",
        "Find indexes for the workload",
        "As analyze_query_indexes, for the statements that took most time so far.",
        IndexSearch,
        _ADVISED,
        _analyze_workload_indexes,
    ),
)
