"""For load balancers and operators: `/healthz`, `/readyz`, `/metrics`."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Depends, Response
from prometheus_client import CONTENT_TYPE_LATEST

from agentdb_mcp.web.answers import Health
from agentdb_mcp.web.auth import Caller, service
from agentdb_mcp.web.errors import responses
from agentdb_mcp.web.metrics import scrape
from agentdb_mcp.web.routes import GuardedRoute
from agentdb_mcp.web.state import State, state

router = APIRouter(tags=["operation"], route_class=GuardedRoute)

Serving = Annotated[State, Depends(state)]


@router.get("/healthz")
async def healthz() -> Health:
    """Whether the process answers at all."""
    return Health(status="ok")


@router.get("/readyz", responses={503: {"model": Health}})
async def readyz(serving: Serving, response: Response) -> Health:
    """Whether it should get requests: not while it stops, nor while the control database is away."""
    if serving.stopping:
        response.status_code = 503
        return Health(status="stopping")
    if not await serving.readiness.ok():
        response.status_code = 503
        return Health(status="unavailable")
    return Health(status="ok")


@router.get(
    "/metrics",
    response_class=Response,
    responses=responses() | {200: {"content": {"text/plain": {"example": "# TYPE python_info gauge"}}}},
)
async def metrics(_: Annotated[Caller, Depends(service())], serving: Serving) -> Response:
    """Prometheus's text format; takes the service key as a bearer token."""
    return Response(await scrape(serving.managed), media_type=CONTENT_TYPE_LATEST)
