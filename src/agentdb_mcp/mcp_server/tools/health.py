"""Tools that show how a database fares."""

from __future__ import annotations

from collections import Counter
from typing import Annotated, Any

from pydantic import AfterValidator, Field
from pydantic_core import PydanticCustomError

from agentdb_mcp.advice.health import Finding
from agentdb_mcp.execution.statistics import SortBy
from agentdb_mcp.mcp_server import rendering, schemas
from agentdb_mcp.mcp_server.arguments import Arguments
from agentdb_mcp.mcp_server.encoding import compact
from agentdb_mcp.mcp_server.rendering import Rendered, framed
from agentdb_mcp.mcp_server.tools.base import Operations, Tool
from agentdb_mcp.models import Scope
from agentdb_mcp.services.health import HEALTH_TYPES, Report
from agentdb_mcp.services.queries import waking_notes

# Of one statement's text in an answer.
MOST_CHARS = 2_000


class GetTopQueries(Arguments):
    sort_by: SortBy = Field(
        default="resources",
        description="resources: those with a large part of the time, blocks or WAL.",
    )
    limit: int = Field(default=10, ge=1, le=100, description="Queries at most.")


def _known(given: str) -> str:
    if unknown := [each for each in _types(given) if each not in {"all", *HEALTH_TYPES}]:
        known = ", ".join(["all", *HEALTH_TYPES])
        raise PydanticCustomError(
            "health_type", "There is no {name}; there are {known}", {"name": repr(unknown[0][:80]), "known": known}
        )
    return given


def _types(given: str) -> list[str]:
    return [each.strip() for each in given.split(",")]


class AnalyzeDbHealth(Arguments):
    health_type: Annotated[str, AfterValidator(_known)] = Field(
        default="all",
        max_length=100,
        description=f"all, or with commas between them some of {', '.join(HEALTH_TYPES)}.",
    )


async def _get_top_queries(do: Operations, scope: Scope, given: GetTopQueries) -> Rendered:
    result = await do.health.top_queries(do.tenant, scope, given.sort_by, given.limit, MOST_CHARS)
    rows = rendering.as_objects(result)
    return rendering.listing(
        "queries", rows, empty="No query was counted since the server started.", notes=waking_notes([result])
    )


async def _analyze_db_health(do: Operations, scope: Scope, given: AnalyzeDbHealth) -> Rendered:
    asked = _types(given.health_type)
    types = [each for each in HEALTH_TYPES if "all" in asked or each in asked]
    report = await do.health.analyze(do.tenant, scope, types)
    findings = [_fields(each) for each in report.findings]
    fields: dict[str, Any] = {"findings": findings, "figures": report.figures, "not_seen": list(report.not_seen)}
    notes = [*report.notes, *([_omitted(report)] if report.omitted else [])]
    if notes:
        fields["notes"] = notes
    unseen = [f"Not seen: {', '.join(report.not_seen)}."] if report.not_seen else []
    body = framed("\n".join(compact(each) for each in [*findings, report.figures]))
    return Rendered(fields, "\n".join([_summary(report), body, *unseen, *notes]))


def _fields(finding: Finding) -> dict[str, Any]:
    return {
        "severity": str(finding.severity),
        "check": finding.check,
        "object": finding.object,
        "why": finding.why,
        "sql": list(finding.sql),
    }


def _summary(report: Report) -> str:
    if not report.findings:
        return "Nothing was found that needs attention."
    counts = Counter(str(each.severity) for each in report.findings)
    return f"Findings: {', '.join(f'{number} {severity}' for severity, number in counts.items())}."


def _omitted(report: Report) -> str:
    return f"{report.omitted} more findings are not shown; mend these first, or ask for one health_type."


TOOLS = (
    Tool(
        "get_top_queries",
        "Find the costliest queries",
        "The queries that cost most here, from pg_stat_statements: calls, times, rows, shares.",
        GetTopQueries,
        schemas.TOP_QUERIES,
        _get_top_queries,
    ),
    Tool(
        "analyze_db_health",
        "Check the database's health",
        "What is wrong with indexes, tables, sequences, constraints, connections or storage cost: why, and SQL that"
        " mends it.",
        AnalyzeDbHealth,
        schemas.HEALTH,
        _analyze_db_health,
    ),
)
