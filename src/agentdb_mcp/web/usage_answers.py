"""What REST answers of usage: exactly what `services.reports` gives. Money is whole cents, moments are in UTC."""

from __future__ import annotations

from pydantic import BaseModel

from agentdb_mcp.models import BudgetState, Scope
from agentdb_mcp.web.answers import like_camel


class Share(BaseModel):
    """What one database cost; `workspaceId` is there for an agent's."""

    model_config = like_camel({"type": "agent", "workspaceId": "w1", "name": "Research", "costCents": 12})

    type: Scope
    workspace_id: str | None = None
    name: str
    cost_cents: int


class SizedShare(Share):
    model_config = like_camel(
        {"type": "agent", "workspaceId": "w1", "name": "Research", "costCents": 12, "sizeBytes": 8_000_000}
    )

    size_bytes: int


class Budget(BaseModel):
    """`committedCents` is what stored data will cost until the period ends if it stays as large as it is."""

    model_config = like_camel()

    tier: str
    limit_cents: int
    used_cents: int
    exceeded: bool
    state: BudgetState
    remaining_cents: int
    committed_cents: int


class UsageReport(BaseModel):
    """A user's month."""

    model_config = like_camel(
        {
            "budget": {
                "tier": "free",
                "limitCents": 200,
                "usedCents": 12,
                "exceeded": False,
                "state": "ok",
                "remainingCents": 188,
                "committedCents": 1,
            },
            "breakdown": [
                {"type": "global", "name": "global", "costCents": 0, "sizeBytes": 7_500_000},
                {"type": "agent", "workspaceId": "w1", "name": "Research", "costCents": 12, "sizeBytes": 8_000_000},
            ],
            "periodStart": "2026-11-01T00:00:00Z",
            "periodEnd": "2026-12-01T00:00:00Z",
        }
    )

    budget: Budget
    breakdown: list[SizedShare]
    period_start: str
    period_end: str


class Day(BaseModel):
    model_config = like_camel()

    date: str
    breakdown: list[Share]
    cost_cents: int


class History(BaseModel):
    """Days that cost something, in their order."""

    model_config = like_camel(
        {
            "days": [
                {
                    "date": "2026-11-02",
                    "breakdown": [{"type": "agent", "workspaceId": "w1", "name": "Research", "costCents": 12}],
                    "costCents": 12,
                }
            ],
            "totalCents": 12,
        }
    )

    days: list[Day]
    total_cents: int
