"""The tool that shows the month's budget."""

from __future__ import annotations

from agentdb_mcp.errors import InvalidArgument
from agentdb_mcp.mcp_server import rendering, schemas
from agentdb_mcp.mcp_server.arguments import Arguments
from agentdb_mcp.mcp_server.rendering import Rendered
from agentdb_mcp.mcp_server.tools.base import Operations, Tool
from agentdb_mcp.models import Scope


class GetBudget(Arguments):
    pass


async def _get_budget(do: Operations, _scope: Scope, _: GetBudget) -> Rendered:
    if do.usage is None:
        return rendering.unmanaged_budget()
    if do.tenant.user_id is None:
        raise InvalidArgument("The server does not know whose call this is.", hint="Set AGENTDB_USER_ID.")
    known = await do.usage.knows(do.tenant.user_id)
    report = await (do.usage.report(do.tenant.user_id) if known else do.usage.forecast())
    return rendering.budget(report, sorted(do.policy.statements.of(report.state).allow))


TOOLS = (
    Tool(
        "get_budget",
        "See what is left of the month's budget",
        "The user's monthly limit over all databases, what is used, by database, and what is allowed now.",
        GetBudget,
        schemas.BUDGET,
        _get_budget,
    ),
)
