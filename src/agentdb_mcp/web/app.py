"""The HTTP application: routes, who may call them, and what runs beside them."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass

import anyio
from fastapi import FastAPI
from starlette.middleware.cors import CORSMiddleware

from agentdb_mcp import __version__
from agentdb_mcp.bootstrap import Application, check_many_tenants
from agentdb_mcp.mcp_server.http import Answers
from agentdb_mcp.services import Browse
from agentdb_mcp.services.throttle import Throttle
from agentdb_mcp.web import activity, databases, errors, explorer, health, lifecycle, mcp, system_servers, tokens, usage
from agentdb_mcp.web.auth import Authenticator
from agentdb_mcp.web.document import Api, add_page
from agentdb_mcp.web.middleware import BoundedBody, KnownHosts, RequestIds
from agentdb_mcp.web.readiness import Readiness
from agentdb_mcp.web.state import State

LOOPBACK = ("localhost", "127.0.0.1", "[::1]")


@dataclass(frozen=True, slots=True)
class HttpOptions:
    """`sessions` and `answers` are how MCP is spoken; `hosts` and `origins` who may ask for what.

    `patience_s` is how long a client may take to send a request.
    """

    hosts: Sequence[str] = LOOPBACK
    origins: Sequence[str] = ()
    public_url: str | None = None
    sessions: bool = False
    answers: Answers = "json"
    patience_s: float = 30.0


def build_app(application: Application, options: HttpOptions) -> FastAPI:
    """Raises ConfigurationError without a control database, or with one tenant's own: HTTP serves many tenants."""
    check_many_tenants(application.settings)
    managed = application.managed()
    limits = application.policy.limits
    serving = State(
        application,
        managed,
        Authenticator(managed.tokens, application.settings.service_key),
        Browse(application.queries),
        Throttle(
            calls_per_window=limits.explorer_calls_per_window, window_s=limits.explorer_window_s, concurrent_calls=0
        ),
        mcp.endpoints(application, sessions=options.sessions, answers=options.answers),
        Readiness(managed.control),
        options.public_url,
        options.patience_s,
    )

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        async with AsyncExitStack() as stack:
            await stack.enter_async_context(managed.tokens.following())
            for endpoint in serving.endpoints.values():
                await stack.enter_async_context(endpoint.running())
            serving.background = await stack.enter_async_context(anyio.create_task_group())
            try:
                yield
            finally:  # also when one of them failed: this process should get no more requests
                serving.stopping = True
            serving.background.cancel_scope.cancel()

    app = Api(
        title="agentdb-mcp",
        version=__version__,
        description="Postgres databases for AI agents: lifecycle, usage and data. MCP is at /mcp.",
        lifespan=lifespan,
        docs_url=None,
        redoc_url=None,
        redirect_slashes=False,  # by the Host header, wherever that leads
    )
    app.state.serving = serving
    errors.install(app)
    for module in (lifecycle, usage, activity, tokens, databases, system_servers, health):
        app.include_router(module.router)
    add_page(app)
    app.router.routes[:0] = mcp.routes(application, serving.endpoints)  # asked for most, found first
    explorer.install(app, serving)
    app.add_middleware(BoundedBody, timeout_s=options.patience_s)
    if options.origins:
        app.add_middleware(
            CORSMiddleware,
            allow_origins=options.origins,
            allow_methods=["*"],
            allow_headers=["*"],
            expose_headers=["mcp-session-id", "x-request-id"],
        )
    app.add_middleware(KnownHosts, hosts=options.hosts, origins=options.origins)
    app.add_middleware(RequestIds)
    return app
