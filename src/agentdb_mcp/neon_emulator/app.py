"""Routes, the key, and the one place where a fault becomes an answer."""

from __future__ import annotations

import asyncio
import hmac
import logging
import traceback
import uuid
from collections.abc import Awaitable, Callable

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from agentdb_mcp.neon_emulator.bodies import Fields
from agentdb_mcp.neon_emulator.errors import ApiError, error_response
from agentdb_mcp.neon_emulator.handlers import Handlers
from agentdb_mcp.neon_emulator.parameters import path_identifiers

PREFIX = "/api/v2"

Handler = Callable[[Request], Awaitable[Fields]]

logger = logging.getLogger(__name__)


class Doorway:
    """What every call passes on its way in and out: the place for faults and limits that hold for all of them."""

    def __init__(self, api_key: str) -> None:
        self._expected = f"Bearer {api_key}".encode()

    def __call__(self, handler: Handler, status: int = 200) -> Callable[[Request], Awaitable[Response]]:
        async def answer(request: Request) -> Response:
            request_id = str(uuid.uuid4())
            try:
                self._check_key(request)
                path_identifiers(request)
                return JSONResponse(await handler(request), status_code=status)
            except ApiError as error:
                return error_response(error, request_id)
            except ClientDisconnect:
                return Response(status_code=499)  # nobody is there to read it
            except asyncio.CancelledError:
                # Only the server's end cancels a request, and what it had begun is undone: safe to send again.
                return error_response(ApiError(503, "the server is shutting down"), request_id)
            except Exception as error:  # noqa: BLE001 - its text can quote rows, so neither caller nor log may see it
                logger.error("request %s failed: %s", request_id, _place(error))
                return error_response(ApiError(500, "internal server error"), request_id)

        return answer

    def _check_key(self, request: Request) -> None:
        scheme, _, key = request.headers.get("authorization", "").partition(" ")
        given = f"{scheme.capitalize()} {key.strip()}".encode()
        if not hmac.compare_digest(given, self._expected):
            raise ApiError(401, "authentication is required: the API key is missing or not valid")


def _place(error: Exception) -> str:
    """The kind of an unexpected error and where it arose."""
    last = traceback.extract_tb(error.__traceback__)[-1]
    sqlstate = getattr(error, "sqlstate", None)
    kind = type(error).__name__ + (f" {sqlstate}" if sqlstate else "")
    return f"{kind} at {last.filename}:{last.lineno}"


def build_app(handlers: Handlers, api_key: str) -> Starlette:
    door = Doorway(api_key)
    unknown = door(handlers.unknown)

    async def refused_by_router(request: Request, _error: Exception) -> Response:
        return await unknown(request)

    project = "/projects/{project_id}"
    branch = project + "/branches/{branch_id}"
    role = branch + "/roles/{role_name}"
    calls: list[tuple[str, str, Handler]] = [
        ("GET", "/users/me", handlers.current_user),
        ("GET", "/users/me/organizations", handlers.organizations),
        ("GET", "/projects/shared", handlers.shared_projects),
        ("GET", "/projects", handlers.list_projects),
        ("POST", "/projects", handlers.create_project),
        ("GET", project, handlers.get_project),
        ("PATCH", project, handlers.change_project),
        ("DELETE", project, handlers.delete_project),
        ("GET", project + "/connection_uri", handlers.connection_uri),
        ("GET", project + "/branches", handlers.list_branches),
        ("GET", branch, handlers.get_branch),
        ("GET", branch + "/roles", handlers.list_roles),
        ("GET", role, handlers.get_role),
        ("GET", role + "/reveal_password", handlers.reveal_password),
        ("POST", role + "/reset_password", handlers.reset_password),
        ("GET", branch + "/databases", handlers.list_databases),
        ("GET", branch + "/endpoints", handlers.list_branch_endpoints),
        ("GET", project + "/endpoints", handlers.list_endpoints),
        ("GET", project + "/endpoints/{endpoint_id}", handlers.get_endpoint),
        ("GET", project + "/operations", handlers.list_operations),
        ("GET", project + "/operations/{operation_id}", handlers.get_operation),
    ]
    routes = [
        Route(PREFIX + path, door(handler, 201 if (method, path) == ("POST", "/projects") else 200), methods=[method])
        for method, path, handler in calls
    ]
    # Unknown paths and methods: the router's own answers have neither the key's check nor Neon's shape.
    app = Starlette(routes=routes, exception_handlers={HTTPException: refused_by_router})
    app.router.redirect_slashes = False
    return app
