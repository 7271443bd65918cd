"""What was done with a user's databases: the audit log, page by page."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Depends, Query, Request
from pydantic import BaseModel, Field

from agentdb_mcp.models import Scope, TokenScope
from agentdb_mcp.services.audit import MAX_PAGE
from agentdb_mcp.services.audit_fields import entry_fields
from agentdb_mcp.services.origin import Origin, act_as
from agentdb_mcp.settings import MAX_ID_LENGTH
from agentdb_mcp.store import AuditDecision
from agentdb_mcp.web.answers import like
from agentdb_mcp.web.auth import Caller, no_such_user, service_or_token
from agentdb_mcp.web.errors import responses
from agentdb_mcp.web.routes import GuardedRoute
from agentdb_mcp.web.shapes import UserId
from agentdb_mcp.web.state import State, state

router = APIRouter(prefix="/api", tags=["usage"], responses=responses(), route_class=GuardedRoute)

Reader = Annotated[Caller, Depends(service_or_token(TokenScope.EXPLORER, TokenScope.ADMIN))]
Serving = Annotated[State, Depends(state)]
Workspace = Annotated[
    str | None, Query(min_length=1, max_length=MAX_ID_LENGTH, pattern=r"^[^\x00-\x1f\x7f]+$", examples=["w1"])
]


_ENTRY = {
    "sequence": 17,
    "at": "2026-11-23T12:00:00.123456Z",
    "user_id": "u1",
    "workspace_id": "w1",
    "scope": "agent",
    "database_id": "0b0c5f3e-8f6e-4a53-9f5e-1d6a2b9f4c11",
    "source": "mcp",
    "principal": "stdio",
    "tool": "execute_sql",
    "kinds": ["read"],
    "objects": ["public.notes"],
    "decision": "failed",
    "code": "sql_error",
    "sqlstate": "42P01",
    "duration_ms": 3.205,
    "rows": 0,
    "request_id": "5f2c7b9a01d3e4f6",
    "statement_hash": "9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08",
    "previous_hash": "60303ae22b998861bce3b28f33eec1be758a213c86c93c076dbe9f558c11c752",
    "hash": "fd61a03af4f77d870fc21e05e7e80678095c92d808cfb3b5c279ee04c74aca13",
}


def acts(caller: Caller, request: Request) -> None:
    """Say in the audit log who does what, for the rest of this request."""
    principal = caller.token.token_id if caller.token else "service"
    act_as(Origin("rest", principal, request.scope["route"].name))


class ActivityEntry(BaseModel):
    """One call. `rows` is how many it gave or changed, `code` the error's; nothing of the statement but its hash."""

    model_config = like(_ENTRY)

    sequence: int
    at: str = Field(description="When it began, ISO 8601 in UTC.")
    user_id: str
    workspace_id: str | None
    scope: Scope | None
    database_id: str | None
    source: str = Field(description="mcp, rest, explorer or cli; audit for what the log says of itself.")
    principal: str | None = Field(description="A token's id, `service` or `stdio`.")
    tool: str | None = Field(description="Or the route's name.")
    kinds: list[str]
    objects: list[str] = Field(description="Names that the gate found.")
    decision: AuditDecision
    code: str | None
    sqlstate: str | None
    duration_ms: float
    rows: int | None
    statement_hash: str | None
    request_id: str | None = Field(description="As answered in `x-request-id`; over stdio one of ours.")
    previous_hash: str
    hash: str


class Activity(BaseModel):
    """The newest first. `next` is the `before` of the next page, null after the last one."""

    model_config = like({"entries": [_ENTRY], "next": 17})

    entries: list[ActivityEntry]
    next: int | None


@router.get("/users/{user_id}/activity")
async def activity(
    user_id: UserId,
    caller: Reader,
    serving: Serving,
    workspace_id: Workspace = None,
    scope: Scope | None = None,
    decision: AuditDecision | None = None,
    before: Annotated[int | None, Query(ge=1, le=2**63 - 1, description="Sequences below this one.")] = None,
    limit: Annotated[int, Query(ge=1, le=MAX_PAGE)] = 100,
) -> Activity:
    """What was done with the user's databases, a few seconds ago and before; of a workspace, for a token bound to it.

    The log outlives its user for the platform's backend.
    """
    caller.user(user_id)
    bound = caller.token.tenant.workspace_id if caller.token else None
    if bound is not None and workspace_id is not None:
        caller.tenant(workspace_id)
    entries = await serving.managed.audit.entries(
        user_id, workspace_id=bound or workspace_id, scope=scope, decision=decision, before=before, limit=limit
    )
    if not entries and not await serving.managed.usage.knows(user_id):
        raise no_such_user(user_id)
    return Activity(
        entries=[ActivityEntry(**entry_fields(entry)) for entry in entries],
        next=entries[-1].sequence if len(entries) == limit else None,
    )
