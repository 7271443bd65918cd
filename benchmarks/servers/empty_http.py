"""What the official SDK costs over HTTP: one tool that does nothing, in a session, answered in JSON."""

from __future__ import annotations

import sys
from typing import Any

import uvicorn
from mcp.server.context import ServerRequestContext
from mcp.server.lowlevel import Server
from mcp_types import CallToolRequestParams, CallToolResult, ListToolsResult, PaginatedRequestParams, TextContent, Tool


async def on_list_tools(_: ServerRequestContext[Any], __: PaginatedRequestParams | None) -> ListToolsResult:
    return ListToolsResult(tools=[Tool(name="nothing", input_schema={"type": "object"})])


async def on_call_tool(_: ServerRequestContext[Any], __: CallToolRequestParams) -> CallToolResult:
    return CallToolResult(content=[TextContent(text="ok")])


if __name__ == "__main__":
    server = Server("empty", on_list_tools=on_list_tools, on_call_tool=on_call_tool)
    app = server.streamable_http_app(json_response=True, streamable_http_path="/mcp/agent")
    uvicorn.run(app, port=int(sys.argv[1]), log_level="warning")
