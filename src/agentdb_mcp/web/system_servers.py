"""The two hidden MCP servers of every workspace, for a platform's backend that lists and calls their tools itself."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Depends, Request

from agentdb_mcp.errors import NotFound
from agentdb_mcp.mcp_server.calling import has_tool
from agentdb_mcp.mcp_server.server import call_tool, list_tools
from agentdb_mcp.models import Scope, Tenant
from agentdb_mcp.store import WorkspaceRow
from agentdb_mcp.web.activity import acts
from agentdb_mcp.web.answers import SystemServer, SystemServers, SystemTool, SystemTools, TextPart, ToolResult
from agentdb_mcp.web.auth import Caller, no_such_workspace, service
from agentdb_mcp.web.errors import responses
from agentdb_mcp.web.routes import GuardedRoute
from agentdb_mcp.web.shapes import OfWorkspace, ToolCall
from agentdb_mcp.web.state import State, state

router = APIRouter(prefix="/api/mcp", tags=["mcp"], responses=responses(), route_class=GuardedRoute)

Service = Annotated[Caller, Depends(service())]
Serving = Annotated[State, Depends(state)]
NAMES = {Scope.AGENT: "Agent Database", Scope.GLOBAL: "Global Database"}
IDS = {Scope.AGENT: "agentdb-agent", Scope.GLOBAL: "agentdb-global"}


@router.get("/system-servers")
async def system_servers(workspace_id: OfWorkspace, _: Service, serving: Serving, request: Request) -> SystemServers:
    """The workspace's two servers; opens no connection to a database and makes none."""
    await _workspace(serving, workspace_id)
    base = (serving.public_url or str(request.base_url)).rstrip("/")
    return SystemServers(
        servers=[
            SystemServer(
                id=IDS[scope],
                name=name,
                scope=scope,
                transport="streamable-http",
                url=f"{base}/mcp/{scope}",
                tool_count=len(list_tools(serving.application.policy.limits, scope)),
            )
            for scope, name in NAMES.items()
        ]
    )


@router.get("/system-tools", response_model_exclude_unset=True)
async def system_tools(workspace_id: OfWorkspace, _: Service, serving: Serving) -> SystemTools:
    """The tools of both servers with their schemas; opens no connection to a database and makes none."""
    await _workspace(serving, workspace_id)
    tools: list[SystemTool] = []
    for scope, name in NAMES.items():
        for tool in list_tools(serving.application.policy.limits, scope):
            fields = tool.model_dump(mode="json", by_alias=True, exclude_none=True)
            tools.append(SystemTool(server_id=IDS[scope], server_name=name, **fields))
    return SystemTools(tools=tools)


@router.post("/tools/execute")
async def execute_tool(given: ToolCall, caller: Service, serving: Serving, request: Request) -> ToolResult:
    """Run a tool for an agent of the workspace. What goes wrong with the call itself is a result with `isError`."""
    workspace = await _workspace(serving, given.workspace_id)
    if not has_tool(given.tool_name):
        raise NotFound(f"There is no tool {given.tool_name!r}.", hint="GET /api/mcp/system-tools lists them.")
    scope = next(scope for scope, identifier in IDS.items() if identifier == given.server_id)
    acts(caller, request)
    operations = serving.application.operations(Tenant(workspace.owner_id, workspace.id))
    result = await call_tool(operations, given.tool_name, given.arguments, scope)
    return ToolResult(
        content=[TextPart(type="text", text=part.text) for part in result.content if part.type == "text"],
        structured_content=result.structured_content,
        is_error=bool(result.is_error),
    )


async def _workspace(serving: State, workspace_id: str) -> WorkspaceRow:
    found = await serving.managed.lifecycle.identity.workspace(workspace_id)
    if found is None:
        raise no_such_workspace(workspace_id)
    return found
