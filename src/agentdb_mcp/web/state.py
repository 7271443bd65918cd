"""What routes work with, for the time that the server runs."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field

from anyio.abc import TaskGroup
from fastapi import Request

from agentdb_mcp.bootstrap import Application, Managed
from agentdb_mcp.errors import AgentDBError
from agentdb_mcp.logs import get_logger
from agentdb_mcp.mcp_server.http import McpEndpoint
from agentdb_mcp.services import Browse
from agentdb_mcp.services.throttle import Throttle
from agentdb_mcp.web.auth import Authenticator
from agentdb_mcp.web.readiness import Readiness

log = get_logger(__name__)


@dataclass(slots=True)
class State:
    """`background` runs what a request began and does not wait for; None before the start and after the end."""

    application: Application
    managed: Managed
    authenticator: Authenticator
    browse: Browse
    throttle: Throttle
    endpoints: Mapping[str, McpEndpoint]
    readiness: Readiness
    public_url: str | None = None
    patience_s: float = 30.0
    background: TaskGroup | None = None
    stopping: bool = field(default=False)

    def begin(self, work: Callable[[], Awaitable[None]]) -> None:
        """Go on with it after the answer. What fails, or does not get done in time, `reconcile` completes."""
        if self.background is not None:
            self.background.start_soon(_log_failure, work)


async def _log_failure(work: Callable[[], Awaitable[None]]) -> None:
    try:
        await work()
    except AgentDBError as error:
        log.warning("background work failed", code=error.code)


def state(request: Request) -> State:
    """FastAPI's dependency."""
    found: State = request.app.state.serving
    return found
