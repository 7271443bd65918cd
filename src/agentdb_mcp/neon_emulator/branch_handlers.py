"""Calls on branches, their roles, databases and computes."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from starlette.requests import Request

from agentdb_mcp.neon_emulator import bodies, state
from agentdb_mcp.neon_emulator.answers import Answers
from agentdb_mcp.neon_emulator.bodies import Fields
from agentdb_mcp.neon_emulator.branches import Branches
from agentdb_mcp.neon_emulator.lookups import Lookups
from agentdb_mcp.neon_emulator.projects import Projects
from agentdb_mcp.neon_emulator.restoring import Restoring
from agentdb_mcp.neon_emulator.state import Branch, Endpoint, Operation


class BranchHandlers(Lookups):
    """Answers are bodies; the status is the route's."""

    def __init__(self, projects: Projects, answers: Answers) -> None:
        super().__init__(projects, answers)
        self._branches = Branches(projects)
        self._restoring = Restoring(projects)

    async def list_branches(self, request: Request) -> Fields:
        project = await self._project(request)
        branches = await state.of_project(self._pool, Branch, project.id)
        return {"branches": [self._answers.branch(branch) for branch in branches], "annotations": {}}

    async def count_branches(self, request: Request) -> Fields:
        return {"count": len(await state.of_project(self._pool, Branch, (await self._project(request)).id))}

    async def get_branch(self, request: Request) -> Fields:
        return {"branch": self._answers.branch(await self._branch(request)), "annotation": _no_annotation(request)}

    async def create_branch(self, request: Request) -> Fields:
        wanted = bodies.new_branch(await bodies.json_body(request, optional=True))
        project = await self._project(request)
        for settings in wanted.endpoints:
            self._check_plan(self._organization(request, project.org_id), settings)
        return self._answers.created_branch(await self._branches.create(project, wanted), project)

    async def restore_branch(self, request: Request) -> Fields:
        wanted = bodies.restore(await bodies.json_body(request))
        branch, operations = await self._restoring.restore(await self._branch(request), wanted)
        return {"branch": self._answers.branch(branch), "operations": self._answers.operations(operations)}

    async def delete_branch(self, request: Request) -> Fields:
        branch = await self._branch(request)
        operations = await self._branches.delete(branch)
        return {"branch": self._answers.branch(branch), "operations": self._answers.operations(operations)}

    async def list_roles(self, request: Request) -> Fields:
        return {"roles": [self._answers.role(role) for role in await self._roles(request)]}

    async def get_role(self, request: Request) -> Fields:
        return {"role": self._answers.role(await self._role(request))}

    async def create_role(self, request: Request) -> Fields:
        name = bodies.new_role(await bodies.json_body(request))
        role, operations = await self._branches.create_role(await self._branch(request), name)
        return {
            "role": self._answers.role_with_password(role),
            "operations": self._answers.operations(operations),
        }

    async def delete_role(self, request: Request) -> Fields:
        role = await self._role(request)
        operations = await self._branches.delete_role(role)
        return {"role": self._answers.role(role), "operations": self._answers.operations(operations)}

    async def reveal_password(self, request: Request) -> Fields:
        return {"password": (await self._role(request)).password}

    async def reset_password(self, request: Request) -> Fields:
        role = await self._role(request)
        role, operations = await self._projects.reset_password(role.project_id, role.branch_id, role.name)
        return {
            "role": self._answers.role_with_password(role),
            "operations": self._answers.operations(operations),
        }

    async def list_databases(self, request: Request) -> Fields:
        databases = await self._databases(request)
        return {"databases": [self._answers.database(database) for database in databases]}

    async def get_database(self, request: Request) -> Fields:
        return {"database": self._answers.database(await self._database(request))}

    async def create_database(self, request: Request) -> Fields:
        name, owner = bodies.new_database(await bodies.json_body(request))
        database, operations = await self._branches.create_database(await self._branch(request), name, owner)
        return {"database": self._answers.database(database), "operations": self._answers.operations(operations)}

    async def delete_database(self, request: Request) -> Fields:
        database = await self._database(request)
        operations = await self._branches.delete_database(database)
        return {"database": self._answers.database(database), "operations": self._answers.operations(operations)}

    # --- computes ---------------------------------------------------------------------------------------------------

    async def list_endpoints(self, request: Request) -> Fields:
        project = await self._project(request)
        endpoints = await state.of_project(self._pool, Endpoint, project.id)
        return {"endpoints": [self._answers.endpoint(endpoint, project) for endpoint in endpoints]}

    async def list_branch_endpoints(self, request: Request) -> Fields:
        branch = await self._branch(request)
        answer = await self.list_endpoints(request)
        return {"endpoints": [found for found in answer["endpoints"] if found["branch_id"] == branch.id]}

    async def get_endpoint(self, request: Request) -> Fields:
        project = await self._project(request)
        return {"endpoint": self._answers.endpoint(await self._endpoint(request, project), project)}

    async def change_endpoint(self, request: Request) -> Fields:
        settings = bodies.endpoint_change(await bodies.json_body(request))
        project = await self._project(request)
        self._check_plan(self._organization(request, project.org_id), settings)
        endpoint, operations = await self._branches.change_endpoint(await self._endpoint(request, project), settings)
        return {
            "endpoint": self._answers.endpoint(endpoint, project),
            "operations": self._answers.operations(operations),
        }

    async def start_endpoint(self, request: Request) -> Fields:
        return await self._on_compute(request, self._projects.computes.start)

    async def suspend_endpoint(self, request: Request) -> Fields:
        return await self._on_compute(request, self._projects.computes.suspend)

    async def restart_endpoint(self, request: Request) -> Fields:
        return await self._on_compute(request, self._projects.computes.restart)

    async def _on_compute(self, request: Request, act: Callable[[str, str], Awaitable[list[Operation]]]) -> Fields:
        project = await self._project(request)
        endpoint = await self._endpoint(request, project)
        operations = await act(project.id, endpoint.id)
        return {
            "endpoint": self._answers.endpoint(await self._endpoint(request, project), project),
            "operations": self._answers.operations(operations),
        }


def _no_annotation(request: Request) -> Fields:
    """Required by the schema; nothing is annotated here."""
    thing = {"type": "console/branch", "id": request.path_params["branch_id"]}
    return {"object": thing, "value": {}}
