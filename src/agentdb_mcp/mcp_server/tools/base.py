"""What a tool is, and what it may do."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

from agentdb_mcp.mcp_server.arguments import Arguments
from agentdb_mcp.mcp_server.rendering import Rendered
from agentdb_mcp.models import Scope, Tenant
from agentdb_mcp.policy import Policy
from agentdb_mcp.services import Analysis, Checkpoints, Copying, Health, Pages, Queries, Usage

# How far a call is: a number that grows, and what it means.
Report = Callable[[int, str], Awaitable[None]]


async def _nobody_listens(_progress: int, _message: str) -> None:
    pass


@dataclass(frozen=True, slots=True)
class Operations:
    """What tools may do, for one tenant: services, never a client. `bootstrap.Application.operations` makes it.

    `report` tells the client how far the call is, if the client wants to know.
    """

    tenant: Tenant
    queries: Queries
    usage: Usage | None
    policy: Policy
    pages: Pages
    health: Health
    analysis: Analysis
    copying: Copying
    report: Report = _nobody_listens
    # None where nothing here makes databases.
    checkpoints: Checkpoints | None = None


Handler = Callable[[Operations, Scope, Any], Awaitable[Rendered]]


@dataclass(frozen=True, slots=True)
class Tool:
    name: str
    title: str
    description: str
    arguments: type[Arguments]
    output_schema: dict[str, Any]
    handler: Handler
    read_only: bool = True
    destructive: bool = False
    idempotent: bool = True
    # Where one database is served alone, there is no such tool; the argument `database` is not among its own.
    needs_both: bool = False
