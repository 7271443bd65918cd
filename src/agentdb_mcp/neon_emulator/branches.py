"""Branches, roles and databases of a project after its making. A branch is a copy, made at once."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta

from agentdb_mcp.neon_emulator.bodies import Fields, NewBranch
from agentdb_mcp.neon_emulator.errors import ApiError, bad_request, not_found
from agentdb_mcp.neon_emulator.naming import new_id, new_password
from agentdb_mcp.neon_emulator.projects import Projects, endpoint_settings
from agentdb_mcp.neon_emulator.settling import settle
from agentdb_mcp.neon_emulator.state import (
    Branch,
    Database,
    Endpoint,
    Operation,
    Project,
    Role,
    insert,
    of_project,
    select,
    stamps,
)


@dataclass(frozen=True, slots=True)
class CreatedBranch:
    branch: Branch
    endpoints: list[Endpoint]
    roles: list[Role]
    databases: list[Database]
    operations: list[Operation]


@dataclass(frozen=True, slots=True)
class Branches:
    projects: Projects

    async def create(self, project: Project, wanted: NewBranch) -> CreatedBranch:
        """The parent's databases copied and its roles taken over; a compute only where one is asked for."""
        pool, operations, clock = self.projects.pool, self.projects.operations, self.projects.clock
        branch_id = new_id("br-")
        async with pool.acquire() as connection, connection.transaction():
            await operations.lock_project(connection, project.id)
            parent = _parent(await of_project(connection, Branch, project.id), wanted)
            branch = await insert(
                connection,
                Branch,
                id=branch_id,
                project_id=project.id,
                parent_id=parent.id,
                name=wanted.name or branch_id,
                sized_at=clock.now(),
                **stamps(clock.now()),
            )
            endpoints = [
                await self.projects.add_endpoint(
                    connection, branch, endpoint_settings(project.endpoint_settings, settings)
                )
                for settings in wanted.endpoints[:1]
            ]
            actions = ["create_branch"] + ["start_compute"] * len(endpoints)
            identifiers = await self.projects.begin_on_branch(connection, project.id, branch.id, actions)
        async with operations.doing(identifiers) as begun:
            try:
                roles, databases = await self._copy(parent, branch)
            except BaseException:
                await pool.execute("DELETE FROM branch WHERE id = $1", branch.id)
                raise
            ready_at = clock.now() + timedelta(seconds=operations.seconds)
            await pool.execute("UPDATE endpoint SET ready_at = $2 WHERE branch_id = $1", branch.id, ready_at)
        endpoints = await select(pool, Endpoint, "WHERE branch_id = $1", branch.id)
        return CreatedBranch(branch, endpoints, roles, databases, begun.operations)

    async def _copy(self, parent: Branch, branch: Branch) -> tuple[list[Role], list[Database]]:
        pool, now = self.projects.pool, self.projects.clock.now()
        roles = [
            await insert(
                pool,
                Role,
                oid=role.oid,
                project_id=branch.project_id,
                branch_id=branch.id,
                name=role.name,
                password=role.password,
                **stamps(now),
            )
            for role in await select(pool, Role, "WHERE branch_id = $1 ORDER BY created_at", parent.id)
        ]
        databases = [
            await self.projects.add_database(branch, database.name, database.owner_name, copy_of=database)
            for database in await select(pool, Database, "WHERE branch_id = $1 ORDER BY created_at", parent.id)
        ]
        return roles, databases

    async def delete(self, branch: Branch) -> list[Operation]:
        if branch.parent_id is None:
            raise ApiError(422, "cannot delete the default branch of a project")
        pool, operations = self.projects.pool, self.projects.operations
        async with pool.acquire() as connection, connection.transaction():
            await operations.lock_project(connection, branch.project_id)
            if await select(connection, Branch, "WHERE parent_id = $1", branch.id):
                raise ApiError(422, "cannot delete a branch that has children")
            actions = ["suspend_compute", "delete_timeline"]
            identifiers = await self.projects.begin_on_branch(connection, branch.project_id, branch.id, actions)
        await settle(self.projects.computes, [branch.project_id])
        async with operations.doing(identifiers) as begun:
            databases = await select(pool, Database, "WHERE branch_id = $1", branch.id)
            await self.projects.drop([], [database.oid for database in databases], [])
            lonely = await pool.fetch(
                "SELECT oid FROM role WHERE branch_id = $1"
                " AND NOT EXISTS (SELECT FROM role AS other WHERE other.oid = role.oid AND other.branch_id <> $1)",
                branch.id,
            )
            await self._drop_roles([record["oid"] for record in lonely])
            await pool.execute("DELETE FROM branch WHERE id = $1", branch.id)
        return begun.operations

    async def _drop_roles(self, oids: Sequence[int]) -> None:
        known = await select(self.projects.pool, Database, "")
        await self.projects.drop(oids, [], [database.oid for database in known])

    async def create_role(self, branch: Branch, name: str) -> tuple[Role, list[Operation]]:
        projects, operations = self.projects, self.projects.operations
        async with projects.cluster.roles_lock, projects.pool.acquire() as connection, connection.transaction():
            await operations.lock_project(connection, branch.project_id)
            if name in [role.name for role in await of_project(connection, Role, branch.project_id)]:
                raise ApiError(409, "a role of this name exists already")
            role = await projects.add_role(connection, branch, name, new_password())
            identifiers = await projects.begin_on_branch(connection, branch.project_id, branch.id, ["apply_config"])
        async with operations.doing(identifiers) as begun:
            databases = await select(projects.pool, Database, "WHERE branch_id = $1", branch.id)
            await projects.cluster.let_in([role.oid], [database.oid for database in databases])
        return role, begun.operations

    async def delete_role(self, role: Role) -> list[Operation]:
        pool, operations = self.projects.pool, self.projects.operations
        async with pool.acquire() as connection, connection.transaction():
            await operations.lock_project(connection, role.project_id)
            for database in await of_project(connection, Database, role.project_id):
                if database.owner_name == role.name:
                    raise ApiError(422, "cannot delete a role that owns a database")
            identifiers = await self.projects.begin_on_branch(
                connection, role.project_id, role.branch_id, ["apply_config"]
            )
        async with operations.doing(identifiers) as begun:
            await self._drop_roles([role.oid])
            await pool.execute("DELETE FROM role WHERE oid = $1", role.oid)
        return begun.operations

    async def create_database(self, branch: Branch, name: str, owner: str) -> tuple[Database, list[Operation]]:
        pool, operations = self.projects.pool, self.projects.operations
        async with pool.acquire() as connection, connection.transaction():
            await operations.lock_project(connection, branch.project_id)
            if not await select(connection, Role, "WHERE branch_id = $1 AND name = $2", branch.id, owner):
                raise bad_request("`owner_name` is not a role of this branch")
            if await select(connection, Database, "WHERE branch_id = $1 AND name = $2", branch.id, name):
                raise ApiError(409, "a database of this name exists already")
            identifiers = await self.projects.begin_on_branch(
                connection, branch.project_id, branch.id, ["apply_config"]
            )
        async with operations.doing(identifiers) as begun:
            database = await self.projects.add_database(branch, name, owner)
        return database, begun.operations

    async def delete_database(self, database: Database) -> list[Operation]:
        pool, operations = self.projects.pool, self.projects.operations
        async with pool.acquire() as connection, connection.transaction():
            await operations.lock_project(connection, database.project_id)
            identifiers = await self.projects.begin_on_branch(
                connection, database.project_id, database.branch_id, ["apply_config"]
            )
        async with operations.doing(identifiers) as begun:
            await self.projects.drop([], [database.oid], [])
            await pool.execute("DELETE FROM database WHERE oid = $1", database.oid)
            self.projects.computes.usage.sized.discard(database.branch_id)
        return begun.operations

    async def change_endpoint(self, endpoint: Endpoint, settings: Fields) -> tuple[Endpoint, list[Operation]]:
        pool, operations = self.projects.pool, self.projects.operations
        async with pool.acquire() as connection, connection.transaction():
            await operations.lock_project(connection, endpoint.project_id)
            identifiers = await self.projects.begin_on_branch(
                connection, endpoint.project_id, endpoint.branch_id, ["apply_config"]
            )
        await settle(self.projects.computes, [endpoint.project_id], sizes=False)
        async with operations.doing(identifiers) as begun:
            await pool.execute(
                "UPDATE endpoint SET settings = $2, updated_at = $3 WHERE id = $1",
                endpoint.id,
                endpoint_settings(endpoint.settings, settings),
                self.projects.clock.now(),
            )
        return (await select(pool, Endpoint, "WHERE id = $1", endpoint.id))[0], begun.operations


def _parent(branches: Sequence[Branch], wanted: NewBranch) -> Branch:
    if wanted.name in [branch.name for branch in branches]:
        raise ApiError(409, "a branch of this name exists already")
    for branch in branches:
        if branch.id == wanted.parent_id or (wanted.parent_id is None and branch.parent_id is None):
            return branch
    raise not_found("parent branch")
