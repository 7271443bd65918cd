"""The shapes in which usage leaves the product, for the command line and for REST. Pure: reports in, plain fields out.

Money is whole cents, and parts always sum to their total.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby
from typing import Any

from agentdb_mcp.costs import MICROCENTS_PER_CENT
from agentdb_mcp.models import BudgetReport, BudgetState, DatabaseCost, DayCost
from agentdb_mcp.services.sync import Synced

EXCEEDED = frozenset({BudgetState.EXCEEDED, BudgetState.PAUSED})


def usage_fields(report: BudgetReport) -> dict[str, Any]:
    """`{budget, breakdown, periodStart, periodEnd}`, as the platform's usage page reads it."""
    limit, used = _cents(report.limit_microcents), _cents(report.used_microcents)
    return {
        "budget": {
            "tier": report.tier,
            "limitCents": limit,
            "usedCents": used,
            "exceeded": report.state in EXCEEDED,
            "state": str(report.state),
            "remainingCents": max(0, limit - used),
            "committedCents": _cents(report.committed_microcents),
        },
        "breakdown": [_share(each) | {"sizeBytes": each.size_bytes} for each in report.by_database],
        "periodStart": report.period_start,
        "periodEnd": report.period_end,
    }


def history_fields(days: Sequence[DayCost]) -> dict[str, Any]:
    """`{days: [{date, breakdown, costCents}], totalCents}`; days as they come, which is in their order."""
    by_day = [(day, [each.database for each in found]) for day, found in groupby(days, key=lambda each: each.day)]
    return {
        "days": [
            {
                "date": day.isoformat(),
                "breakdown": [_share(each) for each in databases],
                "costCents": sum(each.cents for each in databases),
            }
            for day, databases in by_day
        ],
        "totalCents": sum(each.database.cents for each in days),
    }


def sync_fields(synced: Synced) -> dict[str, Any]:
    """`error_percent`: by how much our estimates missed the billed compute, negative where they were too low."""
    error = synced.error_percent
    return {
        "projects": synced.projects,
        "hours": synced.hours,
        "error_percent": None if error is None else round(error, 2),
    }


def _share(database: DatabaseCost) -> dict[str, Any]:
    owner = {} if database.workspace_id is None else {"workspaceId": database.workspace_id}
    return {"type": str(database.scope), **owner, "name": database.name, "costCents": database.cents}


def _cents(microcents: int) -> int:
    return microcents // MICROCENTS_PER_CENT
