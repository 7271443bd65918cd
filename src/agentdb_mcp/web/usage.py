"""What users cost, and the sync of it."""

from __future__ import annotations

from datetime import date, timedelta
from typing import Annotated

from fastapi import APIRouter, Depends, Query

from agentdb_mcp.errors import ProvisioningFailed
from agentdb_mcp.models import TokenScope
from agentdb_mcp.services import reports
from agentdb_mcp.web.answers import SyncResult
from agentdb_mcp.web.auth import Caller, no_such_user, service, service_or_token
from agentdb_mcp.web.errors import responses
from agentdb_mcp.web.routes import GuardedRoute
from agentdb_mcp.web.shapes import UserId
from agentdb_mcp.web.state import State, state
from agentdb_mcp.web.usage_answers import History, UsageReport

router = APIRouter(prefix="/api", tags=["usage"], responses=responses(ProvisioningFailed), route_class=GuardedRoute)

Reader = Annotated[Caller, Depends(service_or_token(TokenScope.EXPLORER, TokenScope.ADMIN))]
Serving = Annotated[State, Depends(state)]
DAYS = 30


@router.get("/users/{user_id}/usage", response_model_exclude_unset=True)
async def usage(user_id: UserId, caller: Reader, serving: Serving) -> UsageReport:
    """The month as it stands now: budget, and cost by database in cents that sum to the total."""
    await _check(user_id, caller, serving)
    return UsageReport(**reports.usage_fields(await serving.managed.usage.report(user_id)))


@router.get("/users/{user_id}/usage/history", response_model_exclude_unset=True)
async def history(
    user_id: UserId,
    caller: Reader,
    serving: Serving,
    since: Annotated[date | None, Query(alias="from", description="The first day (UTC), else 30 days ago.")] = None,
    until: Annotated[date | None, Query(alias="to", description="The last day (UTC), else today.")] = None,
) -> History:
    """Cost by day and database."""
    await _check(user_id, caller, serving)
    last = until or serving.managed.usage.clock().date()
    first = since or max(last, date.min + timedelta(DAYS)) - timedelta(DAYS - 1)
    return History(**reports.history_fields(await serving.managed.usage.history(user_id, first, last)))


@router.post("/sync")
async def sync(_: Annotated[Caller, Depends(service())], serving: Serving) -> SyncResult:
    """Read the provider's consumption now, and replace estimates by it."""
    return SyncResult(**reports.sync_fields(await serving.managed.sync().run()))


async def _check(user_id: str, caller: Caller, serving: State) -> None:
    caller.user(user_id)
    if not await serving.managed.usage.knows(user_id):
        raise no_such_user(user_id)
