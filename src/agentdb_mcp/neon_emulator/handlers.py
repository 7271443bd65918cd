"""Calls on projects: read the request, let `Projects` do the work, shape the answer."""

from __future__ import annotations

from starlette.requests import Request

from agentdb_mcp.neon_emulator import bodies, parameters, state
from agentdb_mcp.neon_emulator.bodies import Fields
from agentdb_mcp.neon_emulator.errors import bad_request, not_found
from agentdb_mcp.neon_emulator.lookups import Lookups, uuid_of
from agentdb_mcp.neon_emulator.settling import settle
from agentdb_mcp.neon_emulator.state import Branch, Database, Endpoint, Operation, Project, Role

PROJECTS_DEFAULT, PROJECTS_MOST = 10, 400
OPERATIONS_DEFAULT, OPERATIONS_MOST = 1000, 1000


class ProjectHandlers(Lookups):
    """Answers are bodies; the status is the route's."""

    async def create_project(self, request: Request) -> Fields:
        wanted = bodies.new_project(await bodies.json_body(request))
        organization = self._organization(request, wanted.org_id)
        self._check_plan(organization, wanted.endpoint_settings)
        return self._answers.created(await self._projects.create(wanted, organization.id))

    async def list_projects(self, request: Request) -> Fields:
        """As at Neon, a page that is not empty has a cursor, even when nothing comes after it."""
        query = request.query_params
        limit = parameters.query_limit(query, PROJECTS_DEFAULT, PROJECTS_MOST)
        cursor, search = (
            parameters.query_identifier(query, "cursor"),
            parameters.query_text(query, "search"),
        )
        org_id = parameters.query_identifier(query, "org_id")
        chosen = [self._organization(request, org_id)] if org_id else self._organizations(request)
        if cursor is not None and not await state.project_exists(self._pool, cursor):
            raise bad_request("`cursor` is not one that a list gave")
        page = await state.page_of_projects(
            self._pool,
            after=cursor,
            search=search,
            limit=limit,
            organizations=[organization.id for organization in chosen],
            state="deleted" if parameters.query_flag(query, "recoverable") else "ready",
        )
        items = [self._answers.project_item(project) for project in page]
        answer: Fields = {"projects": items, "applications": {}, "integrations": {}}
        if page:
            answer["pagination"] = {"cursor": page[-1].id}
        return answer

    async def get_project(self, request: Request) -> Fields:
        project = await self._project(request)
        await settle(self._projects.computes, [project.id], sizes=False)
        return {"project": self._answers.project(project, await self._projects.computes.used(project.id))}

    async def change_project(self, request: Request) -> Fields:
        change = bodies.project_change(await bodies.json_body(request))
        project = await self._project(request)
        self._check_plan(self._organization(request, project.org_id), change.endpoint_settings)
        project = await self._projects.change(project.id, change)
        used = await self._projects.computes.used(project.id)
        return {"project": self._answers.project(project, used), "operations": []}

    async def delete_project(self, request: Request) -> Fields:
        project = await self._projects.delete((await self._project(request)).id)
        return {"project": self._answers.project(project)}

    async def recover_project(self, request: Request) -> Fields:
        visible = [organization.id for organization in self._organizations(request)]
        deleted = await state.find_project(self._pool, request.path_params["project_id"], "deleted")
        if deleted is None or deleted.org_id not in visible:
            raise not_found("project")
        project = await self._projects.recover(deleted.id)
        branches = await state.of_project(self._pool, Branch, project.id)
        used = await self._projects.computes.used(project.id)
        return {
            "project": self._answers.project(project, used),
            "branches": [self._answers.branch(branch) for branch in branches],
        }

    async def connection_uri(self, request: Request) -> Fields:
        query = request.query_params
        database_name = parameters.query_required(query, "database_name")
        role_name = parameters.query_required(query, "role_name")
        pooled = parameters.query_flag(query, "pooled")
        project = await self._project(request)
        endpoint = await self._named_endpoint(request, project)
        branch_id = endpoint.branch_id
        databases = await state.select(self._pool, Database, "WHERE branch_id = $1", branch_id)
        if database_name not in [database.name for database in databases]:
            raise not_found("database")
        for role in await state.select(self._pool, Role, "WHERE branch_id = $1", branch_id):
            if role.name == role_name:
                uri = self._answers.uri(database_name, role, endpoint, pooled=pooled)
                return {"uri": uri}
        raise not_found("role")

    async def _named_endpoint(self, request: Request, project: Project) -> Endpoint:
        """The endpoint named, or that of the branch named, or that of the default branch."""
        branch_id = parameters.query_identifier(request.query_params, "branch_id")
        endpoint_id = parameters.query_identifier(request.query_params, "endpoint_id")
        branches = await state.of_project(self._pool, Branch, project.id)
        if branch_id is not None and branch_id not in [branch.id for branch in branches]:
            raise not_found("branch")
        roots = [branch.id for branch in branches if branch.parent_id is None]
        for endpoint in await state.of_project(self._pool, Endpoint, project.id):
            if endpoint_id is None and endpoint.branch_id == (branch_id or roots[0]):
                return endpoint
            if endpoint.id == endpoint_id and branch_id in (None, endpoint.branch_id):
                return endpoint
        raise not_found("endpoint")

    async def list_operations(self, request: Request) -> Fields:
        limit = parameters.query_limit(request.query_params, OPERATIONS_DEFAULT, OPERATIONS_MOST)
        cursor = parameters.query_text(request.query_params, "cursor")
        after = uuid_of(cursor) if cursor else None
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
        wanted = uuid_of(request.path_params["operation_id"])
        tail = "WHERE project_id = $1 AND id = $2"
        rows = await state.select(self._pool, Operation, tail, project.id, wanted) if wanted else []
        if not rows:
            raise not_found("operation")
        return {"operation": self._answers.operation(rows[0])}
