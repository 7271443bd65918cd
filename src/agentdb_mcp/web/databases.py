"""A tenant's two databases, as the explorer and the platform's pages see them: the same routes for each.

Everything runs the way an agent's statement does: same gate, same walls, same budget.
"""

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Depends, Query, Request

from agentdb_mcp.errors import (
    BudgetExceeded,
    ProvisioningFailed,
    SqlError,
    StatementRefused,
    StatementTimeout,
)
from agentdb_mcp.execution import Sink, Statement
from agentdb_mcp.mcp_server.rendering import as_objects, result_fields
from agentdb_mcp.models import Scope, Tenant, TokenScope
from agentdb_mcp.services.browse import Order
from agentdb_mcp.services.queries import Answer, waking_notes
from agentdb_mcp.web.activity import acts
from agentdb_mcp.web.answers import ColumnInfo, DatabaseState, MaskedConnection, Rows, TableInfo, Tables
from agentdb_mcp.web.auth import Caller, no_such_user, no_such_workspace, service_or_token, token
from agentdb_mcp.web.errors import responses
from agentdb_mcp.web.exporting import Export
from agentdb_mcp.web.lifecycle import database_state
from agentdb_mcp.web.routes import GuardedRoute
from agentdb_mcp.web.shapes import SchemaName, Sql, TableName, TablePage, UserId, WorkspaceId
from agentdb_mcp.web.state import State, state

router = APIRouter(
    prefix="/api",
    tags=["databases"],
    responses=responses(ProvisioningFailed, StatementRefused, BudgetExceeded, SqlError, StatementTimeout),
    route_class=GuardedRoute,
)
_FILE: dict[int | str, dict[str, Any]] = {
    200: {
        "content": {
            "text/csv": {"example": "id,body\r\n1,first\r\n"},
            "application/json": {"example": [{"id": 1, "body": "first"}]},
        },
        "description": "The file.",
    }
}
MASKED = "postgresql://…:…@…/…"

Serving = Annotated[State, Depends(state)]
Explorer = Annotated[Caller, Depends(token(TokenScope.EXPLORER))]
Watcher = Annotated[Caller, Depends(service_or_token(TokenScope.EXPLORER, TokenScope.ADMIN))]


async def _of_workspace(workspace_id: str, caller: Caller, serving: State) -> Tenant:
    """Raises NotFound unless the workspace is there, and the caller's."""
    tenant = caller.tenant(workspace_id)
    workspace = await serving.managed.lifecycle.identity.workspace(workspace_id)
    if workspace is None or tenant.user_id not in (None, workspace.owner_id):
        raise no_such_workspace(workspace_id)
    return tenant


async def _of_user(user_id: str, caller: Caller, serving: State) -> Tenant:
    caller.user(user_id)
    if not await serving.managed.usage.knows(user_id):
        raise no_such_user(user_id)
    return Tenant(user_id, caller.token.tenant.workspace_id if caller.token else None)


async def _agent(
    workspace_id: WorkspaceId, caller: Explorer, serving: Serving, request: Request
) -> tuple[Tenant, Scope]:
    acts(caller, request)
    return await _of_workspace(workspace_id, caller, serving), Scope.AGENT


async def _global(user_id: UserId, caller: Explorer, serving: Serving, request: Request) -> tuple[Tenant, Scope]:
    acts(caller, request)
    return await _of_user(user_id, caller, serving), Scope.GLOBAL


async def _watched_agent(workspace_id: WorkspaceId, caller: Watcher, serving: Serving) -> tuple[str, Scope]:
    await _of_workspace(workspace_id, caller, serving)
    return workspace_id, Scope.AGENT


async def _watched_global(user_id: UserId, caller: Watcher, serving: Serving) -> tuple[str, Scope]:
    await _of_user(user_id, caller, serving)
    return user_id, Scope.GLOBAL


def _add_routes(path: str, used: Callable[..., object], watched: Callable[..., object]) -> None:
    """The routes of one kind of database. (FastAPI cannot read local names in annotations that are postponed.)"""

    @router.get(path)
    async def status(of: Annotated[tuple[str, Scope], Depends(watched)], serving: Serving) -> DatabaseState:
        """Whether there is a database yet, and how it is."""
        owner_id, scope = of
        row = await serving.managed.lifecycle.database(scope, owner_id)
        return database_state(row) if row is not None else DatabaseState(scope=scope, status="none")

    @router.get(f"{path}/tables")
    async def tables(of: Annotated[tuple[Tenant, Scope], Depends(used)], serving: Serving) -> Tables:
        """Tables and views with their columns."""
        with _throttled(serving, of):
            found = await serving.browse.tables(*of)
        return Tables(tables=[_table(fields) for fields in as_objects(found)], notes=list(waking_notes([found])))

    @router.post(f"{path}/query")
    async def query(given: TablePage, of: Annotated[tuple[Tenant, Scope], Depends(used)], serving: Serving) -> Rows:
        """A page of a table's rows."""
        order = [Order(each.column, each.descending) for each in given.order_by]
        table = (given.schema_name, given.table)
        with _throttled(serving, of):
            return _rows(await serving.browse.page(*of, table, limit=given.limit, offset=given.offset, order_by=order))

    @router.post(f"{path}/execute")
    async def execute(given: Sql, of: Annotated[tuple[Tenant, Scope], Depends(used)], serving: Serving) -> Rows:
        """Run one statement."""
        statement = Statement(given.sql, given.params)
        with _throttled(serving, of):
            return _rows(await serving.application.queries.execute(*of, [statement], max_rows=given.max_rows))

    @router.get(f"{path}/export", status_code=200, response_class=Export, responses=_FILE)
    async def export(
        of: Annotated[tuple[Tenant, Scope], Depends(used)],
        serving: Serving,
        table: TableName,
        schema: SchemaName = "public",
        form: Annotated[Literal["csv", "json"], Query(alias="format")] = "csv",
    ) -> Export:
        """All rows of a table, streamed as a file."""

        async def read(sink: Sink) -> None:
            with _throttled(serving, of):
                await serving.browse.export(*of, (schema, table), sink)

        return Export(table, form, read)

    @router.get(f"{path}/connection")
    async def connection(of: Annotated[tuple[Tenant, Scope], Depends(used)], serving: Serving) -> MaskedConnection:
        """How the database is reached, masked: nobody but the server sees a connection string."""
        tenant, scope = of
        owner_id = tenant.workspace_id if scope is Scope.AGENT else tenant.user_id
        row = await serving.managed.lifecycle.database(scope, owner_id or "")
        return MaskedConnection(connection=MASKED, status="none" if row is None else str(row.status))


_add_routes("/workspaces/{workspace_id}/database", _agent, _watched_agent)
_add_routes("/users/{user_id}/global-database", _global, _watched_global)


@contextmanager
def _throttled(serving: State, of: tuple[Tenant, Scope]) -> Iterator[None]:
    """By user, over all of the user's databases. Raises RateLimited."""
    with serving.throttle.call(Tenant(of[0].user_id)):
        yield


def _table(fields: dict[str, Any]) -> TableInfo:
    columns = fields.get("columns", [])
    parsed = json.loads(columns) if isinstance(columns, str) else columns
    return TableInfo(
        schema_name=fields["schema"],
        name=fields["name"],
        type=fields["type"],
        rows=fields.get("rows"),
        size_bytes=fields.get("size_bytes"),
        comment=fields.get("comment"),
        columns=[ColumnInfo(**column) for column in parsed],
    )


def _rows(answer: Answer) -> Rows:
    return Rows(**result_fields(answer.results[0]), notes=list(answer.notes), budget_note=answer.budget_note)
