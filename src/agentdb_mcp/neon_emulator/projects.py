"""Making, changing and removing projects: the emulator's rows and the cluster's databases kept in step."""

from __future__ import annotations

import logging
from dataclasses import dataclass

import anyio
import asyncpg

from agentdb_mcp.neon_emulator.bodies import Fields, NewProject, ProjectChange
from agentdb_mcp.neon_emulator.cluster import Cluster
from agentdb_mcp.neon_emulator.errors import not_found
from agentdb_mcp.neon_emulator.naming import new_id, new_password
from agentdb_mcp.neon_emulator.state import (
    Branch,
    Database,
    Endpoint,
    Installation,
    Operation,
    Project,
    Role,
    begin_operations,
    find_project,
    finish_operations,
    insert,
    of_project,
    project_exists,
    select,
)

REGION = "aws-us-east-1"
BRANCH = "main"
DATABASE = "neondb"
HISTORY_S = 86_400
ENDPOINT_SETTINGS = {
    "autoscaling_limit_min_cu": 0.25,
    "autoscaling_limit_max_cu": 2,
    "suspend_timeout_seconds": 0,
}
DROP_ATTEMPTS = 4

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Created:
    """A project with all that was made for it; the operations are as they stood when the work began."""

    project: Project
    branch: Branch
    endpoint: Endpoint
    role: Role
    database: Database
    operations: list[Operation]


@dataclass(frozen=True, slots=True)
class Projects:
    """Every change of a project goes through here; handlers only read beside it."""

    installation: Installation
    cluster: Cluster

    @property
    def pool(self) -> asyncpg.Pool:
        return self.cluster.pool

    async def create(self, wanted: NewProject) -> Created:
        """Row first, then role, then database: whatever is left of a killed create, `recover` finds by its row."""
        while await project_exists(self.pool, project_id := new_id()):
            pass  # undoing must never find another project under this identifier
        try:
            return await self._create(project_id, wanted)
        except BaseException:
            with anyio.CancelScope(shield=True):
                await self._undo(project_id)
            raise

    async def _create(self, project_id: str, wanted: NewProject) -> Created:
        async with self.cluster.roles_lock, self.pool.acquire() as connection, connection.transaction():
            project, branch, endpoint = await self._begin(connection, project_id, wanted)
            role = await self._add_admin(connection, branch, wanted)
            operations = await begin_operations(connection, endpoint, ["create_timeline", "start_compute"])
        name, oid = await self.cluster.create_database(wanted.database_name or DATABASE, role.name)
        async with self.pool.acquire() as connection, connection.transaction():
            database = await insert(
                connection,
                Database,
                oid=oid,
                project_id=project.id,
                branch_id=branch.id,
                name=name,
                owner_name=role.name,
            )
            await connection.execute("UPDATE project SET state = 'ready' WHERE id = $1", project.id)
            await finish_operations(connection, operations)
        return Created(project, branch, endpoint, role, database, operations)

    async def _begin(
        self, connection: asyncpg.Connection, project_id: str, wanted: NewProject
    ) -> tuple[Project, Branch, Endpoint]:
        settings = _endpoint_settings(ENDPOINT_SETTINGS, wanted.endpoint_settings)
        history = wanted.history_retention_seconds
        project = await insert(
            connection,
            Project,
            id=project_id,
            name=wanted.name or project_id,
            region_id=wanted.region_id or REGION,
            settings=wanted.settings,
            endpoint_settings=settings,
            history_retention_seconds=HISTORY_S if history is None else history,
        )
        branch = await insert(
            connection, Branch, id=new_id("br-"), project_id=project_id, name=wanted.branch_name or BRANCH
        )
        endpoint = await insert(
            connection,
            Endpoint,
            id=new_id("ep-"),
            project_id=project_id,
            branch_id=branch.id,
            settings=settings,
        )
        return project, branch, endpoint

    async def _add_admin(self, connection: asyncpg.Connection, branch: Branch, wanted: NewProject) -> Role:
        password = new_password()
        role_name = wanted.role_name or f"{wanted.database_name or DATABASE}_owner"
        name, oid = await self.cluster.create_admin(connection, role_name, password)
        return await insert(
            connection,
            Role,
            oid=oid,
            project_id=branch.project_id,
            branch_id=branch.id,
            name=name,
            password=password,
        )

    async def change(self, project_id: str, change: ProjectChange) -> Project:
        """Merge: a quota that is not named keeps its value. Endpoints that exist keep their settings, as Neon's do."""
        async with self.pool.acquire() as connection, connection.transaction():
            rows = await select(connection, Project, "WHERE id = $1 AND state = 'ready' FOR UPDATE", project_id)
            if not rows:
                raise not_found("project")
            project = rows[0]
            history = change.history_retention_seconds
            await connection.execute(
                "UPDATE project SET name = $2, settings = $3, endpoint_settings = $4,"
                " history_retention_seconds = $5, updated_at = now() WHERE id = $1",
                project_id,
                change.name or project.name,
                _settings(project.settings, change.settings),
                _endpoint_settings(project.endpoint_settings, change.endpoint_settings),
                project.history_retention_seconds if history is None else history,
            )
            return (await select(connection, Project, "WHERE id = $1", project_id))[0]

    async def delete(self, project_id: str) -> Project:
        """Gone from every answer at once, then from the cluster; a delete that failed half-way can be repeated."""
        record = await self.pool.fetchrow(
            "UPDATE project SET state = 'deleting', deleted_at = coalesce(deleted_at, now()), updated_at = now()"
            " WHERE id = $1 AND state IN ('ready', 'deleting') RETURNING id",
            project_id,
        )
        if record is None:
            raise not_found("project")
        await self._finish_delete(project_id)
        return (await select(self.pool, Project, "WHERE id = $1", project_id))[0]

    async def _finish_delete(self, project_id: str) -> None:
        await self._drop_from_cluster(project_id)
        async with self.pool.acquire() as connection, connection.transaction():
            await connection.execute("DELETE FROM database WHERE project_id = $1", project_id)
            await connection.execute("DELETE FROM role WHERE project_id = $1", project_id)
            await connection.execute("UPDATE project SET state = 'deleted' WHERE id = $1", project_id)

    async def _undo(self, project_id: str) -> None:
        """Leave nothing of a create that failed."""
        await self._drop_from_cluster(project_id)
        await self.pool.execute("DELETE FROM project WHERE id = $1", project_id)

    async def _drop_from_cluster(self, project_id: str) -> None:
        roles = await of_project(self.pool, Role, project_id)
        databases = await of_project(self.pool, Database, project_id)
        others = await select(self.pool, Database, "WHERE project_id <> $1", project_id)
        oids = [database.oid for database in databases], [database.oid for database in others]
        for attempt in range(1, DROP_ATTEMPTS + 1):
            try:
                await self.cluster.drop([role.oid for role in roles], *oids)
                return
            except asyncpg.InternalServerError:
                # "tuple concurrently updated": the admin itself changed a role just then; it is locked out by now.
                if attempt == DROP_ATTEMPTS:
                    raise
                await anyio.sleep(0.05 * attempt)

    async def reset_password(self, project_id: str, branch_id: str, role_name: str) -> tuple[Role, list[Operation]]:
        """A new password, in the cluster and in our rows in one transaction; then the role's sessions end."""
        async with self.cluster.roles_lock, self.pool.acquire() as connection, connection.transaction():
            if await find_project(connection, project_id) is None:
                raise not_found("project")
            roles = await of_project(connection, Role, project_id)
            found = [role for role in roles if (role.branch_id, role.name) == (branch_id, role_name)]
            if not found:
                raise not_found("role")
            oid, password = found[0].oid, new_password()
            await self.cluster.set_password(connection, oid, password)
            await connection.execute("UPDATE role SET password = $2, updated_at = now() WHERE oid = $1", oid, password)
            role = (await select(connection, Role, "WHERE oid = $1", oid))[0]
            endpoint = (await of_project(connection, Endpoint, project_id))[0]
            operations = await begin_operations(connection, endpoint, ["apply_config"])
        await self.cluster.disconnect([oid])
        await finish_operations(self.pool, operations)
        return role, operations

    async def recover(self) -> None:
        """Bring to an end what an earlier run left half-done."""
        for project in await select(self.pool, Project, "WHERE state IN ('creating', 'deleting')"):
            try:
                if project.state == "creating":
                    await self._undo(project.id)
                else:
                    await self._finish_delete(project.id)
            except asyncpg.PostgresError as error:
                logger.warning("project %s could not be removed (SQLSTATE %s)", project.id, error.sqlstate)


def _settings(old: Fields, new: Fields) -> Fields:
    merged = {**old, **new}
    if quota := {**old.get("quota", {}), **new.get("quota", {})}:
        merged["quota"] = quota
    return merged


def _endpoint_settings(old: Fields, new: Fields) -> Fields:
    """The new over the old; a limit that was not named gives way to the one that was."""
    merged = {**old, **new}
    least, most = merged["autoscaling_limit_min_cu"], merged["autoscaling_limit_max_cu"]
    if least > most:
        named_least = "autoscaling_limit_min_cu" in new
        merged["autoscaling_limit_max_cu" if named_least else "autoscaling_limit_min_cu"] = (
            least if named_least else most
        )
    return merged
