"""Making, changing and removing projects: the emulator's rows and the cluster's databases kept in step."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from uuid import UUID

import anyio
import asyncpg

from agentdb_mcp.neon_emulator.bodies import Fields, NewProject, ProjectChange
from agentdb_mcp.neon_emulator.claim import Claim
from agentdb_mcp.neon_emulator.clock import Clock
from agentdb_mcp.neon_emulator.cluster import Cluster
from agentdb_mcp.neon_emulator.computes import Computes
from agentdb_mcp.neon_emulator.errors import CLUSTER_ERRORS, not_found
from agentdb_mcp.neon_emulator.naming import new_id, new_password
from agentdb_mcp.neon_emulator.operations import Operations
from agentdb_mcp.neon_emulator.settling import settle
from agentdb_mcp.neon_emulator.state import (
    Branch,
    Database,
    Endpoint,
    Installation,
    Operation,
    Project,
    Role,
    Snapshot,
    find_project,
    insert,
    of_project,
    project_exists,
    select,
    stamps,
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

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Created:
    """A project with all that was made for it; the operations are as they stood when the work was done."""

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
    claim: Claim
    cluster: Cluster
    computes: Computes
    creating: set[str] = field(default_factory=set)  # by this process, now
    warned_of: set[tuple[object, ...]] = field(default_factory=set)

    @property
    def pool(self) -> asyncpg.Pool:
        return self.cluster.pool

    @property
    def clock(self) -> Clock:
        return self.computes.clock

    @property
    def operations(self) -> Operations:
        return self.computes.operations

    async def create(self, wanted: NewProject, org_id: str) -> Created:
        """Row first, then role, then database: whatever is left of one that was killed is found by its row."""
        while await project_exists(self.pool, project_id := new_id()):
            pass  # undoing must never find another project under this identifier
        self.creating.add(project_id)
        try:
            return await self._create(project_id, wanted, org_id)
        except BaseException:
            # What cannot be undone now, `purge` tries again.
            with anyio.CancelScope(shield=True), contextlib.suppress(*CLUSTER_ERRORS):
                await self._undo(project_id)
            raise
        finally:
            self.creating.discard(project_id)

    async def _create(self, project_id: str, wanted: NewProject, org_id: str) -> Created:
        async with self.cluster.roles_lock, self.pool.acquire() as connection, connection.transaction():
            project, branch, endpoint = await self._begin(connection, project_id, wanted, org_id)
            password = new_password()
            role_name = wanted.role_name or f"{wanted.database_name or DATABASE}_owner"
            role = await self.add_role(connection, branch, role_name, password)
            identifiers = await self.operations.begin(
                connection, project_id, branch.id, endpoint.id, ["create_timeline", "start_compute"]
            )
        async with self.operations.doing(identifiers) as begun:
            database = await self.add_database(branch, wanted.database_name or DATABASE, role.name)
            now = self.clock.now()
            async with self.pool.acquire() as connection, connection.transaction():
                await connection.execute("UPDATE project SET state = 'ready' WHERE id = $1", project.id)
                await connection.execute(
                    "UPDATE endpoint SET booked_until = $2, last_active = $2, ready_at = $3 WHERE id = $1",
                    endpoint.id,
                    now,
                    now + timedelta(seconds=self.operations.seconds),
                )
        endpoint = (await of_project(self.pool, Endpoint, project.id))[0]
        return Created(project, branch, endpoint, role, database, begun.operations)

    async def _begin(
        self, connection: asyncpg.Connection, project_id: str, wanted: NewProject, org_id: str
    ) -> tuple[Project, Branch, Endpoint]:
        settings = endpoint_settings(ENDPOINT_SETTINGS, wanted.endpoint_settings)
        history, now = wanted.history_retention_seconds, self.clock.now()
        project = await insert(
            connection,
            Project,
            id=project_id,
            org_id=org_id,
            name=wanted.name or project_id,
            region_id=wanted.region_id or REGION,
            settings=wanted.settings,
            endpoint_settings=settings,
            history_retention_seconds=HISTORY_S if history is None else history,
            **stamps(now),
        )
        branch = await insert(
            connection,
            Branch,
            id=new_id("br-"),
            project_id=project_id,
            name=wanted.branch_name or BRANCH,
            sized_at=now,
            **stamps(now),
        )
        return project, branch, await self.add_endpoint(connection, branch, settings)

    async def add_endpoint(self, connection: asyncpg.Connection, branch: Branch, settings: Fields) -> Endpoint:
        now = self.clock.now()
        return await insert(
            connection,
            Endpoint,
            id=new_id("ep-"),
            project_id=branch.project_id,
            branch_id=branch.id,
            settings=settings,
            ready_at=now,
            last_active=now,
            booked_until=now,
            **stamps(now),
        )

    async def add_role(self, connection: asyncpg.Connection, branch: Branch, wanted: str, password: str) -> Role:
        """The caller holds `roles_lock` and a transaction."""
        name, oid = await self.cluster.create_admin(connection, wanted, password)
        return await insert(
            connection,
            Role,
            oid=oid,
            project_id=branch.project_id,
            branch_id=branch.id,
            name=name,
            password=password,
            **stamps(self.clock.now()),
        )

    async def add_database(self, branch: Branch, wanted: str, owner: str, copy_of: Database | None = None) -> Database:
        if copy_of is None:
            name, oid = await self.cluster.create_database(wanted, owner)
        else:
            name, oid = await self.cluster.copy_database(copy_of.oid, owner)
        others = await select(self.pool, Role, "WHERE branch_id = $1 AND name <> $2", branch.id, owner)
        await self.cluster.let_in([role.oid for role in others], [oid])
        await self.pool.execute(
            "UPDATE branch SET size_bytes = size_bytes + pg_database_size($2::oid) WHERE id = $1", branch.id, oid
        )
        self.computes.usage.sized.discard(branch.id)
        return await insert(
            self.pool,
            Database,
            oid=oid,
            project_id=branch.project_id,
            branch_id=branch.id,
            name=name,
            owner_name=owner,
            origin=copy_of.origin or copy_of.oid if copy_of is not None else None,
            **stamps(self.clock.now()),
        )

    async def change(self, project_id: str, change: ProjectChange) -> Project:
        """Merge: a quota that is not named keeps its value. Endpoints that exist keep their settings, as Neon's do."""
        if change.settings.get("quota"):
            await settle(self.computes, [project_id])  # what was used until now was under the old one
        async with self.pool.acquire() as connection, connection.transaction():
            project = await self.operations.lock_project(connection, project_id)
            if project is None:
                raise not_found("project")
            history = change.history_retention_seconds
            await connection.execute(
                "UPDATE project SET name = $2, settings = $3, endpoint_settings = $4,"
                " history_retention_seconds = $5, updated_at = $6 WHERE id = $1",
                project_id,
                change.name or project.name,
                _settings(project.settings, change.settings),
                endpoint_settings(project.endpoint_settings, change.endpoint_settings),
                project.history_retention_seconds if history is None else history,
                self.clock.now(),
            )
            changed = (await select(connection, Project, "WHERE id = $1", project_id))[0]
        if change.settings.get("quota"):
            await settle(self.computes, [project_id])
        return changed

    async def delete(self, project_id: str) -> Project:
        """Gone from every answer at once and out of reach, but kept until the time for recovering it is over."""
        await settle(self.computes, [project_id])
        now = self.clock.now()
        async with self.cluster.roles_lock, self.pool.acquire() as connection, connection.transaction():
            if await self.operations.lock_project(connection, project_id) is None:
                raise not_found("project")
            await connection.execute(
                "UPDATE project SET state = 'deleted', deleted_at = $2, updated_at = $2 WHERE id = $1", project_id, now
            )
            await self.cluster.set_reachable(connection, *await self._oids(project_id), to=False)
        for endpoint in await of_project(self.pool, Endpoint, project_id):
            await self.computes.end_sessions(endpoint.id, endpoint.branch_id)
        if not self.computes.behaviour.kept_after_delete_seconds:
            await self._purge(project_id)
        return (await select(self.pool, Project, "WHERE id = $1", project_id))[0]

    async def recover(self, project_id: str) -> Project:
        """Bring back what was deleted, asleep."""
        async with self.cluster.roles_lock, self.pool.acquire() as connection, connection.transaction():
            rows = await select(connection, Project, "WHERE id = $1 AND state = 'deleted' FOR UPDATE", project_id)
            if not rows or self.recoverable_until(rows[0]) <= self.clock.now():
                raise not_found("project")
            now = self.clock.now()
            await connection.execute(
                "UPDATE project SET state = 'ready', deleted_at = NULL, updated_at = $2 WHERE id = $1", project_id, now
            )
            await connection.execute("UPDATE branch SET sized_at = $2 WHERE project_id = $1", project_id, now)
            await connection.execute(
                "UPDATE endpoint SET current_state = $3, booked_until = $2, last_active = $2 WHERE project_id = $1",
                project_id,
                now,
                "idle" if self.computes.proxied else "active",
            )
            await self.cluster.set_reachable(connection, *await self._oids(project_id), to=True)
            return (await select(connection, Project, "WHERE id = $1", project_id))[0]

    def recoverable_until(self, project: Project) -> datetime:
        deleted_at = project.deleted_at or self.clock.now()
        return deleted_at + timedelta(seconds=self.computes.behaviour.kept_after_delete_seconds)

    async def purge(self) -> None:
        """Drop for good what can be recovered no longer, and what is left of creates that could not be undone."""
        deleted = await select(self.pool, Project, "WHERE state = 'deleted'")
        due = [(each, self._purge) for each in deleted if self.recoverable_until(each) <= self.clock.now()]
        for project, remove in [*due, *((each, self._undo) for each in await self._abandoned())]:
            try:
                await remove(project.id)
            except asyncpg.PostgresError as error:
                self._warn_once("project %s could not be removed (SQLSTATE %s)", project.id, error.sqlstate)

    def _warn_once(self, warning: str, *about: object) -> None:
        if (warning, about) not in self.warned_of:
            self.warned_of.add((warning, about))
            logger.warning(warning, *about)

    async def _abandoned(self) -> list[Project]:
        """Half made, with nobody at it. A create changes its row before it leaves `creating`, hence the second look."""
        if not await self.claim.held():
            self._warn_once("another local Neon API has taken this cluster")
            return []
        half = await select(self.pool, Project, "WHERE state = 'creating'")
        left = [project.id for project in half if project.id not in self.creating]
        return await select(self.pool, Project, "WHERE state = 'creating' AND id = ANY($1)", left) if left else []

    async def _purge(self, project_id: str) -> None:
        await self.drop(*await self._parts(project_id))
        async with self.pool.acquire() as connection, connection.transaction():
            await connection.execute("DELETE FROM database WHERE project_id = $1", project_id)
            await connection.execute("DELETE FROM role WHERE project_id = $1", project_id)
            await connection.execute("DELETE FROM snapshot WHERE project_id = $1", project_id)
            await connection.execute("UPDATE project SET state = 'purged' WHERE id = $1", project_id)

    async def _undo(self, project_id: str) -> None:
        """Leave nothing of a create that failed, its row last: without it nothing would be found again.

        Where the server still makes the database for a connection that is gone, the role cannot go before it is done.
        """
        await self.pool.execute("UPDATE project SET state = 'creating' WHERE id = $1", project_id)
        await self.cluster.drop(*await self._parts(project_id))
        await self.pool.execute("DELETE FROM project WHERE id = $1", project_id)

    async def _oids(self, project_id: str) -> tuple[list[int], list[int]]:
        """Of its roles and of its databases."""
        roles = await of_project(self.pool, Role, project_id)
        databases = await of_project(self.pool, Database, project_id)
        return list({role.oid for role in roles}), [database.oid for database in databases]

    async def _parts(self, project_id: str) -> tuple[list[int], list[int], list[int]]:
        """Its roles, its databases, and those of others: what dropping it takes."""
        roles, databases = await self._oids(project_id)
        others = await select(self.pool, Database, "WHERE project_id <> $1", project_id)
        kept = [copy["oid"] for each in await of_project(self.pool, Snapshot, project_id) for copy in each.databases]
        return roles, databases + kept, [database.oid for database in others]

    async def drop(self, roles: Sequence[int], databases: Sequence[int], spared: Sequence[int]) -> None:
        try:
            await self.cluster.drop(roles, databases, spared)
        except asyncpg.DependentObjectsStillExistError:
            logger.warning("roles own objects in databases of others; they stay, without login")

    async def reset_password(self, project_id: str, branch_id: str, role_name: str) -> tuple[Role, list[Operation]]:
        """A new password, in the cluster and in our rows in one transaction; then the role's sessions end."""
        async with self.cluster.roles_lock, self.pool.acquire() as connection, connection.transaction():
            if await self.operations.lock_project(connection, project_id) is None:
                raise not_found("project")
            roles = await of_project(connection, Role, project_id)
            found = [role for role in roles if (role.branch_id, role.name) == (branch_id, role_name)]
            if not found:
                raise not_found("role")
            oid, password = found[0].oid, new_password()
            await self.cluster.set_password(connection, oid, password)
            await connection.execute(
                "UPDATE role SET password = $2, updated_at = $3 WHERE oid = $1", oid, password, self.clock.now()
            )
            role = (await select(connection, Role, "WHERE oid = $1 AND branch_id = $2", oid, branch_id))[0]
            identifiers = await self.begin_on_branch(connection, project_id, branch_id, ["apply_config"])
        async with self.operations.doing(identifiers) as begun:
            await self.cluster.disconnect([oid])
        return role, begun.operations

    async def begin_on_branch(
        self, connection: asyncpg.Connection, project_id: str, branch_id: str, actions: Sequence[str]
    ) -> list[UUID]:
        endpoints = await select(connection, Endpoint, "WHERE branch_id = $1", branch_id)
        endpoint_id = endpoints[0].id if endpoints else None
        return await self.operations.begin(connection, project_id, branch_id, endpoint_id, actions)

    async def recover_all(self) -> None:
        """Bring to an end what an earlier run left half-done; the time in between was not used."""
        await self.operations.close_open()
        await self.pool.execute("UPDATE endpoint SET booked_until = greatest(booked_until, $1)", self.clock.now())
        await self._reopen()
        await self.purge()

    async def _reopen(self) -> None:
        """Databases that a copy or a restore had closed when the run was killed."""
        records = await self.pool.fetch(
            "SELECT oid FROM database JOIN pg_database USING (oid) JOIN project ON project.id = database.project_id"
            " WHERE project.state = 'ready' AND NOT pg_database.datallowconn"
        )
        await self.cluster.open([record["oid"] for record in records])

    async def living(self, project_id: str, organizations: Sequence[str]) -> Project:
        project = await find_project(self.pool, project_id)
        if project is None or project.org_id not in organizations:
            raise not_found("project")
        return project


def _settings(old: Fields, new: Fields) -> Fields:
    merged = {**old, **new}
    if quota := {**old.get("quota", {}), **new.get("quota", {})}:
        merged["quota"] = quota
    return merged


def endpoint_settings(old: Fields, new: Fields) -> Fields:
    """The new over the old; a limit that was not named gives way to the one that was."""
    merged = {**old, **new}
    least, most = merged["autoscaling_limit_min_cu"], merged["autoscaling_limit_max_cu"]
    if least > most:
        named_least = "autoscaling_limit_min_cu" in new
        merged["autoscaling_limit_max_cu" if named_least else "autoscaling_limit_min_cu"] = (
            least if named_least else most
        )
    return merged
