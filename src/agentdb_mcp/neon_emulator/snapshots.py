"""Snapshots of a root branch: copies that nobody enters, until they are restored to a branch of their own.

At Neon a snapshot ends no session. Here it does: on one cluster, Postgres copies only what nobody is in.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from uuid import UUID

import anyio
import asyncpg

from agentdb_mcp.neon_emulator.bodies import Fields
from agentdb_mcp.neon_emulator.errors import ApiError, bad_request, not_found
from agentdb_mcp.neon_emulator.naming import new_id, with_suffix
from agentdb_mcp.neon_emulator.projects import Projects
from agentdb_mcp.neon_emulator.settling import settle
from agentdb_mcp.neon_emulator.state import (
    Branch,
    Database,
    Endpoint,
    Operation,
    Project,
    Role,
    Snapshot,
    insert,
    of_project,
    select,
    stamps,
)

# Of those that are made by hand, as all are here.
MOST = {"free": 1}
MOST_ELSEWHERE = 100
OF_BRANCH = "WHERE branch_id = $1 ORDER BY created_at"


@dataclass(frozen=True, slots=True)
class Snapshots:
    projects: Projects

    @property
    def pool(self) -> asyncpg.Pool:
        return self.projects.pool

    async def of(self, project: Project) -> list[Snapshot]:
        """Those that have not expired; the others are dropped now."""
        found = await of_project(self.pool, Snapshot, project.id)
        now = self.projects.clock.now()
        expired = [each for each in found if each.expires_at is not None and each.expires_at <= now]
        for snapshot in expired:
            await self._drop(snapshot)
        return [each for each in found if each not in expired]

    async def create(
        self, project: Project, branch: Branch, plan: str, name: str | None, expires_at: datetime | None
    ) -> tuple[Snapshot, list[Operation]]:
        if branch.parent_id is not None:
            raise bad_request("snapshots can be created of root branches only")
        if len(await self.of(project)) >= MOST.get(plan, MOST_ELSEWHERE):
            raise ApiError(422, "manual snapshots limit exceeded")
        await settle(self.projects.computes, [project.id])
        identifiers = await self._begin(project.id, branch.id, ["create_branch", "timeline_archive"])
        async with self.projects.operations.doing(identifiers) as begun:
            snapshot = await self._copied(branch, name, expires_at)
        return snapshot, begun.operations

    async def _copied(self, branch: Branch, name: str | None, expires_at: datetime | None) -> Snapshot:
        cluster, now, snapshot_id = self.projects.cluster, self.projects.clock.now(), new_id("snap-")
        superuser = await self.pool.fetchval("SELECT CURRENT_USER")
        roles = await select(self.pool, Role, OF_BRANCH, branch.id)
        copies: list[Fields] = []
        oids: list[int] = []
        try:
            for database in await select(self.pool, Database, OF_BRANCH, branch.id):
                _, oid = await cluster.copy_database(database.oid, superuser, closed=True)
                oids.append(oid)
                origin = database.origin or database.oid
                grants = await cluster.grants(database.oid)
                copies.append({"oid": oid, "owner_name": database.owner_name, "origin": origin, "grants": grants})
            size = await self.pool.fetchval("SELECT sum(pg_database_size(oid)) FROM unnest($1::oid[]) AS oid", oids)
            return await insert(
                self.pool,
                Snapshot,
                id=snapshot_id,
                project_id=branch.project_id,
                source_branch_id=branch.id,
                name=name or snapshot_id,
                size_bytes=int(size or 0),
                sized_at=now,
                expires_at=expires_at,
                databases=copies,
                role_oids=[role.oid for role in roles],
                **stamps(now),
            )
        except BaseException:
            with anyio.CancelScope(shield=True):
                await self.projects.drop([], oids, [])
            raise

    async def delete(self, snapshot: Snapshot) -> list[Operation]:
        await settle(self.projects.computes, [snapshot.project_id])
        identifiers = await self._begin(snapshot.project_id, snapshot.source_branch_id, ["delete_timeline"])
        async with self.projects.operations.doing(identifiers) as begun:
            await self._drop(snapshot)
        return begun.operations

    async def _drop(self, snapshot: Snapshot) -> None:
        await self.projects.drop([], [copy["oid"] for copy in snapshot.databases], [])
        await self.pool.execute("DELETE FROM snapshot WHERE id = $1", snapshot.id)

    async def restore(
        self, snapshot: Snapshot, target: Branch, name: str | None, *, finalize: bool = False
    ) -> tuple[Branch, list[Operation]]:
        """Restore to a branch of its own, and put it into the target's place where that is asked for."""
        branch, operations = await self._restore(snapshot, target, name, 0 if finalize else None)
        if not finalize:
            return branch, operations
        operations = operations + await self.finalize(branch, None)
        return (await select(self.pool, Branch, "WHERE id = $1", branch.id))[0], operations

    async def _restore(
        self, snapshot: Snapshot, target: Branch, name: str | None, last_seconds: float | None
    ) -> tuple[Branch, list[Operation]]:
        """A branch without a compute that holds what the snapshot does; `finalize` puts it into the target's place."""
        projects, now = self.projects, self.projects.clock.now()
        branch_id = new_id("br-")
        async with self.pool.acquire() as connection, connection.transaction():
            if await projects.operations.lock_project(connection, target.project_id) is None:
                raise not_found("project")
            branches = await of_project(connection, Branch, target.project_id)
            if name in [branch.name for branch in branches]:
                raise ApiError(409, "a branch of this name exists already")
            branch = await insert(
                connection,
                Branch,
                id=branch_id,
                project_id=target.project_id,
                parent_id=target.id,
                name=name or branch_id,
                sized_at=now,
                **stamps(now),
            )
            await connection.execute(
                "INSERT INTO role (oid, project_id, branch_id, name, password, created_at, updated_at)"
                " SELECT oid, project_id, $2, name, password, created_at, updated_at FROM role"
                " WHERE branch_id = $1 AND oid = ANY($3)",
                target.id,
                branch.id,
                snapshot.role_oids,
            )
            identifiers = await projects.begin_on_branch(connection, target.project_id, branch.id, ["create_timeline"])
        async with projects.operations.doing(identifiers, last_seconds) as begun:
            try:
                for copy in snapshot.databases:
                    await self._add_copy(branch, copy)
            except BaseException:
                with anyio.CancelScope(shield=True):
                    await self.pool.execute("DELETE FROM branch WHERE id = $1", branch.id)
                raise
        return branch, begun.operations

    async def _add_copy(self, branch: Branch, copy: Fields) -> None:
        """Closed: without a compute nobody enters it."""
        name, oid = await self.projects.cluster.copy_database(copy["oid"], copy["owner_name"], closed=True)
        # The snapshot itself is never open.
        await self.projects.cluster.close([copy["oid"]])
        await self.projects.cluster.grant(oid, copy["grants"])
        await insert(
            self.pool,
            Database,
            oid=oid,
            project_id=branch.project_id,
            branch_id=branch.id,
            name=name,
            owner_name=copy["owner_name"],
            origin=copy["origin"],
            **stamps(self.projects.clock.now()),
        )

    async def finalize(self, branch: Branch, name: str | None) -> list[Operation]:
        """The branch takes over the default one's name, databases' names and compute, whose sessions end."""
        projects = self.projects
        await settle(projects.computes, [branch.project_id])
        async with self.pool.acquire() as connection, connection.transaction():
            if await projects.operations.lock_project(connection, branch.project_id) is None:
                raise not_found("project")
            branches = await of_project(connection, Branch, branch.project_id)
            replaced = next(each for each in branches if each.parent_id is None)
            if replaced.id != branch.parent_id or await select(connection, Endpoint, "WHERE branch_id = $1", branch.id):
                raise ApiError(422, "the branch is not one that was restored from a snapshot")
            actions = ["suspend_compute", "apply_config", "start_compute"]
            identifiers = await projects.begin_on_branch(connection, branch.project_id, replaced.id, actions)
        async with projects.operations.doing(identifiers) as begun:
            old = await select(self.pool, Database, OF_BRANCH, replaced.id)
            try:
                await projects.cluster.close([database.oid for database in old])
                await self._swap(replaced, branch, old, name or f"{replaced.name} (old)")
            except BaseException:
                with anyio.CancelScope(shield=True):
                    await projects.cluster.open([database.oid for database in old])
                raise
            await self._open(branch)
            projects.computes.usage.sized -= {replaced.id, branch.id}
            ready_at = projects.clock.now() + timedelta(seconds=projects.operations.seconds)
            await self.pool.execute("UPDATE endpoint SET ready_at = $2 WHERE branch_id = $1", branch.id, ready_at)
        return begun.operations

    async def _swap(self, replaced: Branch, branch: Branch, old: Sequence[Database], name: str) -> None:
        projects = self.projects
        new = await select(self.pool, Database, OF_BRANCH, branch.id)
        by_origin = {database.origin or database.oid: database for database in old}
        async with projects.cluster.roles_lock, self.pool.acquire() as connection, connection.transaction():
            for database in new:
                if (before := by_origin.get(database.origin or database.oid)) is None:
                    continue
                away = with_suffix(before.name)
                await projects.cluster.rename_database(connection, before.name, away)
                await projects.cluster.rename_database(connection, database.name, before.name)
                await connection.execute("UPDATE database SET name = $2 WHERE oid = $1", before.oid, away)
                await connection.execute("UPDATE database SET name = $2 WHERE oid = $1", database.oid, before.name)
            await connection.execute("UPDATE endpoint SET branch_id = $2 WHERE branch_id = $1", replaced.id, branch.id)
            await connection.execute("UPDATE branch SET parent_id = $2 WHERE parent_id = $1", replaced.id, branch.id)
            await connection.execute(
                "UPDATE branch SET name = $2, parent_id = $3, updated_at = $4 WHERE id = $1",
                replaced.id,
                name,
                branch.id,
                projects.clock.now(),
            )
            await connection.execute(
                "UPDATE branch SET name = $2, parent_id = NULL, updated_at = $3 WHERE id = $1",
                branch.id,
                replaced.name,
                projects.clock.now(),
            )

    async def _open(self, branch: Branch) -> None:
        databases = await select(self.pool, Database, OF_BRANCH, branch.id)
        roles = await select(self.pool, Role, OF_BRANCH, branch.id)
        oids = [database.oid for database in databases]
        await self.projects.cluster.let_in([role.oid for role in roles], oids)
        await self.projects.cluster.open(oids)

    async def _begin(self, project_id: str, branch_id: str, actions: Sequence[str]) -> list[UUID]:
        async with self.pool.acquire() as connection, connection.transaction():
            if await self.projects.operations.lock_project(connection, project_id) is None:
                raise not_found("project")
            return await self.projects.begin_on_branch(connection, project_id, branch_id, actions)
