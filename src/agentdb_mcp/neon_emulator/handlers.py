"""One handler a call: read the request, let `Projects` do the work, shape the answer."""

from __future__ import annotations

import uuid

from starlette.requests import Request

from agentdb_mcp.neon_emulator import bodies, parameters, state
from agentdb_mcp.neon_emulator.answers import Answers
from agentdb_mcp.neon_emulator.bodies import Fields
from agentdb_mcp.neon_emulator.errors import bad_request, not_found
from agentdb_mcp.neon_emulator.projects import Projects
from agentdb_mcp.neon_emulator.state import Branch, Database, Endpoint, Operation, Project, Role

PROJECTS_DEFAULT, PROJECTS_MOST = 10, 400
OPERATIONS_DEFAULT, OPERATIONS_MOST = 1000, 1000


class Handlers:
    """Answers are bodies; the status is the route's."""

    def __init__(self, projects: Projects) -> None:
        self._projects = projects
        self._pool = projects.pool
        self._answers = Answers(projects)

    async def _project(self, request: Request) -> Project:
        project = await state.find_project(self._pool, request.path_params["project_id"])
        if project is None:
            raise not_found("project")
        return project

    async def _branch(self, request: Request) -> Branch:
        project = await self._project(request)
        for branch in await state.of_project(self._pool, Branch, project.id):
            if branch.id == request.path_params["branch_id"]:
                return branch
        raise not_found("branch")

    async def _roles(self, request: Request) -> list[Role]:
        branch = await self._branch(request)
        roles = await state.of_project(self._pool, Role, branch.project_id)
        return [role for role in roles if role.branch_id == branch.id]

    async def _role(self, request: Request) -> Role:
        for role in await self._roles(request):
            if role.name == request.path_params["role_name"]:
                return role
        raise not_found("role")

    async def _databases(self, request: Request) -> list[Database]:
        branch = await self._branch(request)
        databases = await state.of_project(self._pool, Database, branch.project_id)
        return [database for database in databases if database.branch_id == branch.id]

    def _check_organization(self, org_id: str | None) -> None:
        if org_id is not None and org_id != self._projects.installation.org_id:
            raise not_found("organization")

    async def create_project(self, request: Request) -> Fields:
        wanted = bodies.new_project(await bodies.json_body(request))
        self._check_organization(wanted.org_id)
        return self._answers.created(await self._projects.create(wanted))

    async def list_projects(self, request: Request) -> Fields:
        """As at Neon, a page that is not empty has a cursor, even when nothing comes after it."""
        query = request.query_params
        limit = parameters.query_limit(query, PROJECTS_DEFAULT, PROJECTS_MOST)
        cursor, search = (
            parameters.query_identifier(query, "cursor"),
            parameters.query_text(query, "search"),
        )
        self._check_organization(parameters.query_identifier(query, "org_id"))
        if cursor is not None and not await state.project_exists(self._pool, cursor):
            raise bad_request("`cursor` is not one that a list gave")
        page = await state.page_of_projects(self._pool, after=cursor, search=search, limit=limit)
        items = [self._answers.project_item(project) for project in page]
        answer: Fields = {"projects": items, "applications": {}, "integrations": {}}
        if page:
            answer["pagination"] = {"cursor": page[-1].id}
        return answer

    async def get_project(self, request: Request) -> Fields:
        return {"project": self._answers.project(await self._project(request))}

    async def change_project(self, request: Request) -> Fields:
        change = bodies.project_change(await bodies.json_body(request))
        project = await self._projects.change(request.path_params["project_id"], change)
        return {"project": self._answers.project(project), "operations": []}

    async def delete_project(self, request: Request) -> Fields:
        project = await self._projects.delete(request.path_params["project_id"])
        return {"project": self._answers.project(project)}

    async def connection_uri(self, request: Request) -> Fields:
        """`pooled` changes nothing: there is no pooler here."""
        query = request.query_params
        database_name = parameters.query_required(query, "database_name")
        role_name = parameters.query_required(query, "role_name")
        parameters.query_flag(query, "pooled")
        project = await self._project(request)
        await self._check_named(request, project)
        databases = await state.of_project(self._pool, Database, project.id)
        if database_name not in [database.name for database in databases]:
            raise not_found("database")
        for role in await state.of_project(self._pool, Role, project.id):
            if role.name == role_name:
                location = self._projects.cluster.location
                return {"uri": location.project_uri(database_name, role.name, role.password)}
        raise not_found("role")

    async def _check_named(self, request: Request, project: Project) -> None:
        """A branch or an endpoint may be named; a project has one of each."""
        branch_id = parameters.query_identifier(request.query_params, "branch_id")
        endpoint_id = parameters.query_identifier(request.query_params, "endpoint_id")
        endpoint = (await state.of_project(self._pool, Endpoint, project.id))[0]
        if branch_id not in (None, endpoint.branch_id):
            raise not_found("branch")
        if endpoint_id not in (None, endpoint.id):
            raise not_found("endpoint")

    async def list_branches(self, request: Request) -> Fields:
        project = await self._project(request)
        branches = await state.of_project(self._pool, Branch, project.id)
        return {"branches": [self._answers.branch(branch) for branch in branches], "annotations": {}}

    async def get_branch(self, request: Request) -> Fields:
        return {"branch": self._answers.branch(await self._branch(request))}

    async def list_roles(self, request: Request) -> Fields:
        return {"roles": [self._answers.role(role) for role in await self._roles(request)]}

    async def get_role(self, request: Request) -> Fields:
        return {"role": self._answers.role(await self._role(request))}

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
        for endpoint in await state.of_project(self._pool, Endpoint, project.id):
            if endpoint.id == request.path_params["endpoint_id"]:
                return {"endpoint": self._answers.endpoint(endpoint, project)}
        raise not_found("endpoint")

    async def list_operations(self, request: Request) -> Fields:
        limit = parameters.query_limit(request.query_params, OPERATIONS_DEFAULT, OPERATIONS_MOST)
        cursor = parameters.query_text(request.query_params, "cursor")
        after = _uuid(cursor) if cursor else None
        if cursor and after is None:
            raise bad_request("`cursor` is not one that a list gave")
        project = await self._project(request)
        page = await state.page_of_operations(self._pool, project.id, after=after, limit=limit)
        answer: Fields = {"operations": self._answers.operations(page)}
        if page:
            answer["pagination"] = {"cursor": str(page[-1].id)}
        return answer

    async def get_operation(self, request: Request) -> Fields:
        project = await self._project(request)
        wanted = _uuid(request.path_params["operation_id"])
        tail = "WHERE project_id = $1 AND id = $2"
        rows = await state.select(self._pool, Operation, tail, project.id, wanted) if wanted else []
        if not rows:
            raise not_found("operation")
        return {"operation": self._answers.operation(rows[0])}

    async def current_user(self, _request: Request) -> Fields:
        return self._answers.user()

    async def organizations(self, _request: Request) -> Fields:
        return {"organizations": [self._answers.organization()]}

    async def shared_projects(self, _request: Request) -> Fields:
        """Nobody shares projects here; Neon's command line asks all the same."""
        return {"projects": [], "applications": {}, "integrations": {}}

    async def unknown(self, _request: Request) -> Fields:
        raise not_found("this call")


def _uuid(text: str) -> uuid.UUID | None:
    try:
        return uuid.UUID(text)
    except ValueError:
        return None
