"""Calls on the account: its user, its organizations, what they consumed."""

from __future__ import annotations

from starlette.requests import Request

from agentdb_mcp.neon_emulator import bodies, consumption
from agentdb_mcp.neon_emulator.bodies import Fields
from agentdb_mcp.neon_emulator.errors import not_found
from agentdb_mcp.neon_emulator.lookups import Lookups


class AccountHandlers(Lookups):
    """Answers are bodies; the status is the route's."""

    async def current_user(self, _request: Request) -> Fields:
        return self._answers.user()

    async def organizations(self, request: Request) -> Fields:
        return {"organizations": [self._answers.organization(found) for found in self._organizations(request)]}

    async def get_organization(self, request: Request) -> Fields:
        return self._answers.organization(self._organization(request, request.path_params["org_id"]))

    async def shared_projects(self, _request: Request) -> Fields:
        """Nobody shares projects here; Neon's command line asks all the same."""
        return {"projects": [], "applications": {}, "integrations": {}}

    async def transfer_projects(self, request: Request) -> Fields:
        """All of them or none. The key must open both organizations, or the one they leave."""
        wanted = bodies.transfer(await bodies.json_body(request))
        source = self._organization(request, request.path_params["source_org_id"])
        known = [organization.id for organization in request.state.all_organizations]
        if wanted.destination_org_id not in known:
            raise not_found("organization")
        async with self._pool.acquire() as connection, connection.transaction():
            for project_id in sorted(set(wanted.project_ids)):
                project = await self._projects.operations.lock_project(connection, project_id)
                if project is None or project.org_id != source.id:
                    raise not_found("project")
                await connection.execute(
                    "UPDATE project SET org_id = $2, updated_at = $3 WHERE id = $1",
                    project_id,
                    wanted.destination_org_id,
                    self._projects.clock.now(),
                )
        return {}

    async def consumption(self, request: Request) -> Fields:
        computes = self._projects.computes
        organization = consumption.organization_of(self._organizations(request), request.query_params)
        question = consumption.read_question(request.query_params, computes.clock.now())
        return await consumption.history(computes, organization, question)

    async def unknown(self, _request: Request) -> Fields:
        raise not_found("this call")
