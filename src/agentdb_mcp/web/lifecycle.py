"""Registration, tiers, periods and removal, as the platform's backend calls them."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Depends, Response

from agentdb_mcp.errors import ProvisioningFailed
from agentdb_mcp.models import DatabaseStatus, Scope, TokenScope
from agentdb_mcp.services import reports
from agentdb_mcp.store import DatabaseRow
from agentdb_mcp.web.answers import DatabaseState, UserState
from agentdb_mcp.web.auth import Caller, no_such_user, service, service_or_token
from agentdb_mcp.web.errors import responses
from agentdb_mcp.web.routes import GuardedRoute
from agentdb_mcp.web.shapes import NewTier, NewUser, NewWorkspace, UserId, WorkspaceId
from agentdb_mcp.web.state import State, state
from agentdb_mcp.web.usage_answers import UsageReport

router = APIRouter(prefix="/api", tags=["lifecycle"], responses=responses(ProvisioningFailed), route_class=GuardedRoute)

Service = Annotated[Caller, Depends(service())]
Reader = Annotated[Caller, Depends(service_or_token(TokenScope.EXPLORER, TokenScope.ADMIN))]
Serving = Annotated[State, Depends(state)]
_GONE = frozenset({DatabaseStatus.DELETING, DatabaseStatus.DELETED})


def _documented(status: int, description: str, model: object = None) -> dict[int | str, dict[str, Any]]:
    return {status: {"description": description} | ({"model": model} if model else {})}


@router.post("/users", status_code=201, responses=_documented(200, "The user existed.", DatabaseState))
async def create_user(given: NewUser, _: Service, serving: Serving, response: Response) -> DatabaseState:
    """Register a user with a budget and a global database, all or nothing; who exists is answered as it is."""
    lifecycle = serving.managed.lifecycle
    if await _is_ready(serving, Scope.GLOBAL, given.user_id):
        response.status_code = 200
    tier = given.tier or next(iter(serving.application.policy.tiers))
    return database_state(await lifecycle.create_user(given.user_id, tier))


@router.get("/users/{user_id}")
async def read_user(user_id: UserId, caller: Reader, serving: Serving) -> UserState:
    """A user's databases and their states."""
    caller.user(user_id)
    return await _user_state(serving, user_id)


@router.delete(
    "/users/{user_id}", status_code=202, response_model=UserState, responses=_documented(204, "There is none left.")
)
async def delete_user(user_id: UserId, _: Service, serving: Serving) -> UserState | Response:
    """Remove a user with all databases, in the background; the user's state tells when it is done."""
    lifecycle = serving.managed.lifecycle
    if not await lifecycle.begin_to_delete_user(user_id):
        return Response(status_code=204)
    serving.begin(lambda: lifecycle.delete_user(user_id))
    return await _user_state(serving, user_id)


@router.put("/users/{user_id}/tier", tags=["usage"], response_model_exclude_unset=True)
async def set_tier(user_id: UserId, given: NewTier, _: Service, serving: Serving) -> UsageReport:
    """Change the tier, and the limit with it, in every running server at once. Answers the usage as it is then."""
    await _require_user(serving, user_id)
    report = await serving.managed.usage.set_tier(user_id, given.tier, given.custom_budget_cents)
    return UsageReport(**reports.usage_fields(report))


@router.post("/users/{user_id}/period", tags=["usage"], response_model_exclude_unset=True)
async def reset_period(user_id: UserId, _: Service, serving: Serving) -> UsageReport:
    """Begin a new period now; what was paused resumes. Answers the usage as it is then."""
    await _require_user(serving, user_id)
    return UsageReport(**reports.usage_fields(await serving.managed.usage.reset(user_id)))


@router.post("/workspaces", status_code=201, responses=_documented(200, "The workspace existed.", DatabaseState))
async def create_workspace(given: NewWorkspace, _: Service, serving: Serving, response: Response) -> DatabaseState:
    """Create a workspace with its agent database, all or nothing; what exists is answered as it is."""
    lifecycle = serving.managed.lifecycle
    if await _is_ready(serving, Scope.AGENT, given.workspace_id):
        response.status_code = 200
    name = given.name or given.workspace_id
    return database_state(await lifecycle.create_workspace(given.workspace_id, given.user_id, name))


@router.delete(
    "/workspaces/{workspace_id}",
    status_code=202,
    response_model=DatabaseState,
    responses=_documented(204, "There is none left."),
)
async def delete_workspace(workspace_id: WorkspaceId, _: Service, serving: Serving) -> DatabaseState | Response:
    """Remove a workspace and its database, in the background; the database's status tells when it is gone."""
    lifecycle = serving.managed.lifecycle
    row = await lifecycle.begin_to_delete_workspace(workspace_id)
    if row is None:
        return Response(status_code=204)
    serving.begin(lambda: lifecycle.delete_workspace(workspace_id))
    return database_state(row)


def database_state(row: DatabaseRow) -> DatabaseState:
    return DatabaseState(
        scope=row.scope,
        status=row.status.value,
        workspace_id=row.owner_id if row.scope is Scope.AGENT else None,
        user_id=row.user_id,
        paused=bool(row.paused),
        access_mode=str(row.access_mode),
        ownership=str(row.ownership),
    )


async def _is_ready(serving: State, scope: Scope, owner_id: str) -> bool:
    row = await serving.managed.lifecycle.database(scope, owner_id)
    return row is not None and row.status is DatabaseStatus.READY


async def _user_state(serving: State, user_id: str) -> UserState:
    rows = await serving.managed.lifecycle.databases.of_user(user_id)
    if not rows:
        await _require_user(serving, user_id)
    return UserState(user_id=user_id, databases=[database_state(row) for row in rows])


async def _require_user(serving: State, user_id: str) -> None:
    if not await serving.managed.usage.knows(user_id):
        raise no_such_user(user_id)
