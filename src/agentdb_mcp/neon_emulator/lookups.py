"""Finding what a path names, among what the caller's key opens."""

from __future__ import annotations

import uuid
from collections.abc import Sequence

from starlette.requests import Request

from agentdb_mcp.neon_emulator import state
from agentdb_mcp.neon_emulator.answers import Answers
from agentdb_mcp.neon_emulator.bodies import Fields
from agentdb_mcp.neon_emulator.errors import ApiError, not_found
from agentdb_mcp.neon_emulator.projects import Projects
from agentdb_mcp.neon_emulator.state import Branch, Database, Endpoint, Organization, Project, Role


class Lookups:
    """What handlers share. The doorway leaves the organizations of the key in the request's state."""

    def __init__(self, projects: Projects, answers: Answers) -> None:
        self._projects = projects
        self._pool = projects.pool
        self._answers = answers

    @staticmethod
    def _organizations(request: Request) -> Sequence[Organization]:
        found: Sequence[Organization] = request.state.organizations
        return found

    def _organization(self, request: Request, wanted: str | None) -> Organization:
        """The one named, or the key's first one."""
        for organization in self._organizations(request):
            if wanted in (None, organization.id):
                return organization
        raise not_found("organization")

    async def _project(self, request: Request) -> Project:
        visible = [organization.id for organization in self._organizations(request)]
        return await self._projects.living(request.path_params["project_id"], visible)

    async def _branch(self, request: Request) -> Branch:
        project = await self._project(request)
        for branch in await state.of_project(self._pool, Branch, project.id):
            if branch.id == request.path_params["branch_id"]:
                return branch
        raise not_found("branch")

    async def _roles(self, request: Request) -> list[Role]:
        branch = await self._branch(request)
        return await state.select(self._pool, Role, "WHERE branch_id = $1 ORDER BY created_at", branch.id)

    async def _role(self, request: Request) -> Role:
        for role in await self._roles(request):
            if role.name == request.path_params["role_name"]:
                return role
        raise not_found("role")

    async def _databases(self, request: Request) -> list[Database]:
        branch = await self._branch(request)
        return await state.select(self._pool, Database, "WHERE branch_id = $1 ORDER BY created_at", branch.id)

    async def _database(self, request: Request) -> Database:
        for database in await self._databases(request):
            if database.name == request.path_params["database_name"]:
                return database
        raise not_found("database")

    async def _endpoint(self, request: Request, project: Project) -> Endpoint:
        for endpoint in await state.of_project(self._pool, Endpoint, project.id):
            if endpoint.id == request.path_params["endpoint_id"]:
                return endpoint
        raise not_found("endpoint")

    @staticmethod
    def _check_plan(organization: Organization, compute_settings: Fields) -> None:
        if organization.plan == "free" and "suspend_timeout_seconds" in compute_settings:
            raise ApiError(412, "the suspend timeout cannot be set on this plan")


def uuid_of(text: str) -> uuid.UUID | None:
    try:
        return uuid.UUID(text)
    except ValueError:
        return None
