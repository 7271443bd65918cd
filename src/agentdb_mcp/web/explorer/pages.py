"""The addresses of pages, and what each shows."""

from __future__ import annotations

from typing import Annotated

from fastapi import Query
from nicegui import Client, ui
from starlette.requests import Request

from agentdb_mcp.errors import AgentDBError
from agentdb_mcp.web.explorer import activity, database, overview, sql
from agentdb_mcp.web.explorer.layout import View, frame, problem, view_of
from agentdb_mcp.web.explorer.work import Place

Name = Annotated[str, Query(max_length=63)]


def declare() -> None:
    """Register them, once a process."""

    @ui.page("/")
    async def overview_page(request: Request, client: Client) -> None:
        await overview.show(view_of(request, client))

    @ui.page("/activity")
    async def activity_page(request: Request, client: Client) -> None:
        await activity.show(view_of(request, client))

    @ui.page("/global")
    async def global_page(
        request: Request, client: Client, table: Name = "", schema: Name = "public", tab: Name = "data"
    ) -> None:
        view = view_of(request, client)
        await database.show(view, view.work.everybodys(), (schema, table) if table else None, tab)

    @ui.page("/global/sql")
    async def global_sql_page(request: Request, client: Client) -> None:
        view = view_of(request, client)
        await sql.show(view, view.work.everybodys())

    @ui.page("/agent/{workspace_id}")
    async def agent_page(
        request: Request,
        client: Client,
        workspace_id: str,
        table: Name = "",
        schema: Name = "public",
        tab: Name = "data",
    ) -> None:
        view = view_of(request, client)
        if (place := await _agent(view, workspace_id)) is not None:
            await database.show(view, place, (schema, table) if table else None, tab)

    @ui.page("/agent/{workspace_id}/sql")
    async def agent_sql_page(request: Request, client: Client, workspace_id: str) -> None:
        view = view_of(request, client)
        if (place := await _agent(view, workspace_id)) is not None:
            await sql.show(view, place)


async def _agent(view: View, workspace_id: str) -> Place | None:
    try:
        return await view.work.do(lambda: view.work.agent(workspace_id))
    except AgentDBError as error:
        with frame(view, "Not found", "agent"):
            problem(error)
        return None
