"""The SDK's server with our tools, resources and prompts."""

from __future__ import annotations

from contextlib import AbstractContextManager
from dataclasses import replace
from typing import Any, Final, Protocol

from mcp.server.context import ServerRequestContext
from mcp.server.lowlevel import Server
from mcp.shared.exceptions import MCPError
from mcp_types import (
    INVALID_PARAMS,
    CallToolRequestParams,
    CallToolResult,
    GetPromptRequestParams,
    GetPromptResult,
    ListPromptsResult,
    ListResourcesResult,
    ListResourceTemplatesResult,
    ListToolsResult,
    PaginatedRequestParams,
    ReadResourceRequestParams,
    ReadResourceResult,
    TextContent,
    Tool,
)

from agentdb_mcp import __version__
from agentdb_mcp.mcp_server import described, prompts, resources, seen
from agentdb_mcp.mcp_server.calling import has_tool, run_tool
from agentdb_mcp.mcp_server.tools import Operations
from agentdb_mcp.mcp_server.tools.base import Report
from agentdb_mcp.models import Scope
from agentdb_mcp.policy import LimitRules
from agentdb_mcp.services.origin import using_tool

# The code that the SDK, too, answers a cancelled request with over HTTP.
REQUEST_CANCELLED: Final = -32800
_WENT_AWAY: Final = "The client went away."


class Calls(Protocol):
    """What a call may do, for its time; where the caller goes away meanwhile, the block is cancelled."""

    def __call__(self, context: ServerRequestContext[Any]) -> AbstractContextManager[Operations]: ...


def build_server(calls: Calls, limits: LimitRules, fixed_scope: Scope | None = None) -> Server[Any]:
    """A server whose calls find their tenant by `calls`; with `fixed_scope` tools take no `database` argument."""
    listed = list_tools(limits, fixed_scope)
    schemas = {tool.name: tool.input_schema for tool in listed}

    async def on_list_tools(_: ServerRequestContext[Any], __: PaginatedRequestParams | None) -> ListToolsResult:
        return ListToolsResult(tools=listed)

    async def on_call_tool(context: ServerRequestContext[Any], params: CallToolRequestParams) -> CallToolResult:
        with calls(context) as operations, seen.identified(context.request_id):
            heard = replace(operations, report=_reporter(context))
            parent = seen.traceparent(context.meta)
            return await call_tool(heard, params.name, dict(params.arguments or {}), fixed_scope, parent)
        raise MCPError(REQUEST_CANCELLED, _WENT_AWAY)

    async def on_list_resources(_: ServerRequestContext[Any], __: PaginatedRequestParams | None) -> ListResourcesResult:
        return ListResourcesResult(resources=resources.list_resources(fixed_scope))

    async def on_list_templates(
        _: ServerRequestContext[Any], __: PaginatedRequestParams | None
    ) -> ListResourceTemplatesResult:
        return ListResourceTemplatesResult(resource_templates=resources.list_templates(fixed_scope))

    async def on_read_resource(
        context: ServerRequestContext[Any], params: ReadResourceRequestParams
    ) -> ReadResourceResult:
        with calls(context) as operations, using_tool("resources/read"):
            return await resources.read_resource(operations, params.uri, fixed_scope)
        raise MCPError(REQUEST_CANCELLED, _WENT_AWAY)

    async def on_list_prompts(_: ServerRequestContext[Any], __: PaginatedRequestParams | None) -> ListPromptsResult:
        return ListPromptsResult(prompts=prompts.list_prompts(fixed_scope))

    async def on_get_prompt(_: ServerRequestContext[Any], params: GetPromptRequestParams) -> GetPromptResult:
        return prompts.get_prompt(params.name, params.arguments or {}, fixed_scope)

    return Server(
        described.NAME,
        version=__version__,
        title=described.TITLE,
        instructions=described.INSTRUCTIONS,
        on_list_tools=on_list_tools,
        on_call_tool=on_call_tool,
        get_tool_input_schema=schemas.get,
        on_list_resources=on_list_resources,
        on_list_resource_templates=on_list_templates,
        on_read_resource=on_read_resource,
        on_list_prompts=on_list_prompts,
        on_get_prompt=on_get_prompt,
    )


def list_tools(limits: LimitRules, fixed_scope: Scope | None = None) -> list[Tool]:
    """What `tools/list` answers."""
    return [Tool.model_validate(each) for each in described.describe_tools(limits, fixed_scope)]


async def call_tool(
    operations: Operations,
    name: str,
    arguments: dict[str, Any],
    fixed_scope: Scope | None = None,
    parent: str | None = None,
) -> CallToolResult:
    """Run one tool; what goes wrong is an answer too. Raises MCPError for a tool that there is not.

    `parent` is a W3C traceparent.
    """
    if not has_tool(name):
        raise MCPError(INVALID_PARAMS, f"There is no tool {name[:80]!r}; tools/list names them.")
    answer, is_error = await run_tool(operations, name, arguments, fixed_scope, parent)
    return CallToolResult(
        content=[TextContent(text=answer.text)], structured_content=answer.structured, is_error=is_error
    )


def _reporter(context: ServerRequestContext[Any]) -> Report:
    """Progress notifications, where the request has a token for them; else nothing."""

    async def report(progress: int, message: str) -> None:
        await context.session.report_progress(progress, message=message)

    return report
