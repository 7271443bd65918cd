"""What a worker shows of itself on a small port of its own: `/healthz` and `/metrics`."""

from __future__ import annotations

import hashlib
import hmac

from prometheus_client import CONTENT_TYPE_LATEST
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from agentdb_mcp.bootstrap import Managed
from agentdb_mcp.models import Secret
from agentdb_mcp.web.metrics import scrape


def build_monitor(managed: Managed, service_key: Secret | None) -> Starlette:
    """`/metrics` takes the service key as a bearer token, where there is one; settings see to it that strangers cannot
    ask where there is none.
    """

    async def healthz(_: Request) -> Response:
        return JSONResponse({"status": "ok"})

    async def metrics(request: Request) -> Response:
        if service_key is not None and not _holds(request, service_key):
            return Response("It takes the service key.\n", 401, {"WWW-Authenticate": "Bearer"}, "text/plain")
        return Response(await scrape(managed), media_type=CONTENT_TYPE_LATEST)

    return Starlette(routes=[Route("/healthz", healthz), Route("/metrics", metrics)])


def _holds(request: Request, key: Secret) -> bool:
    given = request.headers.get("authorization", "").partition(" ")
    return given[0].lower() == "bearer" and hmac.compare_digest(_digest(given[2].strip()), _digest(key.reveal()))


def _digest(text: str) -> bytes:
    """Of one length for any text: how long a comparison takes says nothing of the key."""
    return hashlib.sha256(text.encode()).digest()
