"""Routes, the key, and the one place where a fault becomes an answer."""

from __future__ import annotations

import asyncio
import hmac
import logging
import traceback
import uuid
from collections.abc import Awaitable, Callable, Sequence

import anyio
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route
from starlette.types import Receive, Scope, Send

from agentdb_mcp.neon_emulator.account_handlers import AccountHandlers
from agentdb_mcp.neon_emulator.answers import Answers
from agentdb_mcp.neon_emulator.bodies import Fields
from agentdb_mcp.neon_emulator.branch_handlers import BranchHandlers
from agentdb_mcp.neon_emulator.errors import ApiError, error_response
from agentdb_mcp.neon_emulator.faults import Fault, Faults, RateLimit
from agentdb_mcp.neon_emulator.handlers import ProjectHandlers
from agentdb_mcp.neon_emulator.parameters import path_identifiers
from agentdb_mcp.neon_emulator.projects import Projects
from agentdb_mcp.neon_emulator.snapshot_handlers import SnapshotHandlers
from agentdb_mcp.neon_emulator.state import Organization

PREFIX = "/api/v2"
PROJECT = "/projects/{project_id}"
BRANCHES = PROJECT + "/branches"
BRANCH = BRANCHES + "/{branch_id}"
ROLE = BRANCH + "/roles/{role_name}"
SNAPSHOTS = PROJECT + "/snapshots"
ENDPOINT = PROJECT + "/endpoints/{endpoint_id}"
CREATED = {("POST", path) for path in ("/projects", BRANCHES, BRANCH + "/roles", BRANCH + "/databases")}

Handler = Callable[[Request], Awaitable[Fields]]
Call = tuple[str, str, Handler]

logger = logging.getLogger(__name__)


class Doorway:
    """What every call passes on its way in and out: the key, the rate limit, and faults that were asked for."""

    def __init__(
        self, api_key: str, organizations: Sequence[Organization], faults: Faults, rate_limit: RateLimit
    ) -> None:
        self._keys = [(api_key, organizations), *((found.api_key, [found]) for found in organizations)]
        self._organizations = organizations
        self._faults = faults
        self._rate_limit = rate_limit

    def __call__(self, handler: Handler, status: int = 200) -> Callable[[Request], Awaitable[Response]]:
        async def answer(request: Request) -> Response:
            request_id = str(uuid.uuid4())
            try:
                fault = self._faults.strike(request.method, request.url.path.removeprefix(PREFIX))
                if fault is None:
                    return await self._answer(request, handler, status)
                return await self._faulty(fault, request, handler, status)
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

    async def _answer(self, request: Request, handler: Handler, status: int) -> Response:
        request.state.organizations = self._check_key(request)
        request.state.all_organizations = self._organizations
        self._rate_limit.check()
        path_identifiers(request)
        return JSONResponse(await handler(request), status_code=status)

    async def _faulty(self, fault: Fault, request: Request, handler: Handler, status: int) -> Response:
        """A refusal by the handler itself is an effect, too, and gives way to the fault."""
        await anyio.sleep(fault.delay_before)
        response: Response | None = None
        if fault.effect:
            try:
                response = await self._answer(request, handler, status)
            except ApiError as error:
                response = error_response(error)
        await anyio.sleep(fault.delay_after)
        if fault.drop:
            return _NoResponse()
        if (refusal := fault.as_error()) is not None:
            raise refusal
        return response or _NoResponse()

    def _check_key(self, request: Request) -> Sequence[Organization]:
        """The organizations that the key opens: its own, or all for the personal key."""
        scheme, _, key = request.headers.get("authorization", "").partition(" ")
        opened = [
            organizations
            for known, organizations in self._keys
            if hmac.compare_digest(key.strip().encode(), known.encode())
        ]
        if scheme.lower() != "bearer" or not opened:
            raise ApiError(401, "authentication is required: the API key is missing or not valid")
        return opened[0]


class _NoResponse(Response):
    """The connection ends without an answer."""

    async def __call__(self, scope: Scope, receive: Receive, _send: Send) -> None:
        scope["abort"]()
        while (await receive())["type"] != "http.disconnect":
            pass


def _place(error: Exception) -> str:
    """The kind of an unexpected error and where it arose."""
    last = traceback.extract_tb(error.__traceback__)[-1]
    sqlstate = getattr(error, "sqlstate", None)
    kind = type(error).__name__ + (f" {sqlstate}" if sqlstate else "")
    return f"{kind} at {last.filename}:{last.lineno}"


def build_app(projects: Projects, answers: Answers, door: Doorway) -> Starlette:
    on_projects, on_branches = ProjectHandlers(projects, answers), BranchHandlers(projects, answers)
    on_account = AccountHandlers(projects, answers)
    unknown = door(on_account.unknown)

    async def refused_by_router(request: Request, _error: Exception) -> Response:
        return await unknown(request)

    calls = [*_account_calls(on_account), *_project_calls(on_projects), *_branch_calls(on_branches)]
    calls += _snapshot_calls(SnapshotHandlers(projects, answers))
    routes = [
        Route(PREFIX + path, door(handler, 201 if (method, path) in CREATED else 200), methods=[method])
        for method, path, handler in calls
    ]
    # Unknown paths and methods: the router's own answers have neither the key's check nor Neon's shape.
    app = Starlette(routes=routes, exception_handlers={HTTPException: refused_by_router})
    app.router.redirect_slashes = False
    return app


def _account_calls(on: AccountHandlers) -> list[Call]:
    return [
        ("GET", "/users/me", on.current_user),
        ("GET", "/users/me/organizations", on.organizations),
        ("GET", "/organizations/{org_id}", on.get_organization),
        ("POST", "/organizations/{source_org_id}/projects/transfer", on.transfer_projects),
        ("GET", "/consumption_history/v2/projects", on.consumption),
        ("GET", "/projects/shared", on.shared_projects),
    ]


def _project_calls(on: ProjectHandlers) -> list[Call]:
    return [
        ("GET", "/projects", on.list_projects),
        ("POST", "/projects", on.create_project),
        ("GET", PROJECT, on.get_project),
        ("PATCH", PROJECT, on.change_project),
        ("DELETE", PROJECT, on.delete_project),
        ("POST", PROJECT + "/recover", on.recover_project),
        ("GET", PROJECT + "/connection_uri", on.connection_uri),
        ("GET", PROJECT + "/operations", on.list_operations),
        ("GET", PROJECT + "/operations/{operation_id}", on.get_operation),
    ]


def _branch_calls(on: BranchHandlers) -> list[Call]:
    return [
        ("GET", BRANCHES, on.list_branches),
        ("POST", BRANCHES, on.create_branch),
        ("GET", BRANCHES + "/count", on.count_branches),
        ("GET", BRANCH, on.get_branch),
        ("DELETE", BRANCH, on.delete_branch),
        ("POST", BRANCH + "/restore", on.restore_branch),
        ("GET", BRANCH + "/roles", on.list_roles),
        ("POST", BRANCH + "/roles", on.create_role),
        ("GET", ROLE, on.get_role),
        ("DELETE", ROLE, on.delete_role),
        ("GET", ROLE + "/reveal_password", on.reveal_password),
        ("POST", ROLE + "/reset_password", on.reset_password),
        ("GET", BRANCH + "/databases", on.list_databases),
        ("POST", BRANCH + "/databases", on.create_database),
        ("GET", BRANCH + "/databases/{database_name}", on.get_database),
        ("DELETE", BRANCH + "/databases/{database_name}", on.delete_database),
        ("GET", BRANCH + "/endpoints", on.list_branch_endpoints),
        ("GET", PROJECT + "/endpoints", on.list_endpoints),
        ("GET", ENDPOINT, on.get_endpoint),
        ("PATCH", ENDPOINT, on.change_endpoint),
        ("POST", ENDPOINT + "/start", on.start_endpoint),
        ("POST", ENDPOINT + "/suspend", on.suspend_endpoint),
        ("POST", ENDPOINT + "/restart", on.restart_endpoint),
    ]


def _snapshot_calls(on: SnapshotHandlers) -> list[Call]:
    return [
        ("GET", SNAPSHOTS, on.list_snapshots),
        ("POST", BRANCH + "/snapshot", on.create_snapshot),
        ("DELETE", SNAPSHOTS + "/{snapshot_id}", on.delete_snapshot),
        ("POST", SNAPSHOTS + "/{snapshot_id}/restore", on.restore_snapshot),
        ("POST", BRANCH + "/finalize_restore", on.finalize_restore),
    ]
