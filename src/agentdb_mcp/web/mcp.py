"""`/mcp`, `/mcp/agent` and `/mcp/global`: MCP for whoever holds a token with the scope `mcp`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from starlette.requests import Request
from starlette.routing import Route
from starlette.types import Receive, Send
from starlette.types import Scope as AsgiScope

from agentdb_mcp.bootstrap import Application
from agentdb_mcp.errors import AgentDBError
from agentdb_mcp.mcp_server.http import Answers, McpEndpoint
from agentdb_mcp.mcp_server.http_calls import HttpCall
from agentdb_mcp.models import Scope, TokenScope
from agentdb_mcp.web.auth import authenticator
from agentdb_mcp.web.errors import error_response

PATHS = {"/mcp": None, "/mcp/agent": Scope.AGENT, "/mcp/global": Scope.GLOBAL}


def endpoints(application: Application, *, sessions: bool, answers: Answers) -> dict[str, McpEndpoint]:
    """By path."""
    limits = application.policy.limits
    return {path: McpEndpoint(limits, scope, sessions=sessions, answers=answers) for path, scope in PATHS.items()}


def routes(application: Application, served: Mapping[str, McpEndpoint]) -> list[Route]:
    return [
        Route(path, _Guarded(application, endpoint, path), include_in_schema=False) for path, endpoint in served.items()
    ]


@dataclass(frozen=True, slots=True)
class _Guarded:
    """Sees who calls before anything of the request is read."""

    application: Application
    endpoint: McpEndpoint
    path: str

    async def __call__(self, scope: AsgiScope, receive: Receive, send: Send) -> None:
        request = Request(scope)
        try:
            token = await authenticator(request).token(request, TokenScope.MCP)
        except AgentDBError as error:
            await error_response(request, error)(scope, receive, send)
            return
        call = HttpCall(self.application.operations(token.tenant), principal=token.token_id)
        await self.endpoint.handle(call, scope, receive, send)
