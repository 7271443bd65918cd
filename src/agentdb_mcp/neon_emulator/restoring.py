"""Restoring a branch: its data replaced by a copy of another branch's, under its own names and endpoint."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import anyio
import asyncpg

from agentdb_mcp.neon_emulator.bodies import Restore
from agentdb_mcp.neon_emulator.errors import ApiError, bad_request, not_found
from agentdb_mcp.neon_emulator.naming import new_id, with_suffix
from agentdb_mcp.neon_emulator.projects import Projects
from agentdb_mcp.neon_emulator.settling import settle
from agentdb_mcp.neon_emulator.state import Branch, Database, Operation, Role, insert, of_project, select, stamps

OF_BRANCH = "WHERE branch_id = $1 ORDER BY created_at"


@dataclass(frozen=True, slots=True)
class _Copy:
    """A new database that nobody can enter yet, and the one whose name it takes over, if the branch has one."""

    source: Database
    name: str
    oid: int
    replaced: Database | None


@dataclass(frozen=True, slots=True)
class Restoring:
    projects: Projects

    async def restore(self, branch: Branch, wanted: Restore) -> tuple[Branch, list[Operation]]:
        """Connection strings of the branch go on working; what was in it stays only where it is to be preserved."""
        projects = self.projects
        await settle(projects.computes, [branch.project_id])
        async with projects.pool.acquire() as connection, connection.transaction():
            if await projects.operations.lock_project(connection, branch.project_id) is None:
                raise not_found("project")
            source = _source(branch, await of_project(connection, Branch, branch.project_id), wanted)
            actions = ["create_branch", "create_timeline"] if wanted.preserve_under_name else ["create_timeline"]
            identifiers = await projects.begin_on_branch(connection, branch.project_id, branch.id, actions)
        async with projects.operations.doing(identifiers) as begun:
            old = await select(projects.pool, Database, OF_BRANCH, branch.id)
            roles = await select(projects.pool, Role, OF_BRANCH, branch.id)
            copies = await self._copies(source, old)
            try:
                await self._swap(branch, wanted, source, old, copies)
            except BaseException:
                with anyio.CancelScope(shield=True):
                    await projects.drop([], [copy.oid for copy in copies], [])
                    await projects.cluster.open([database.oid for database in old])
                raise
            await self._finish(branch, wanted, old, copies)
            await self._drop_lonely(roles)
        return (await select(projects.pool, Branch, "WHERE id = $1", branch.id))[0], begun.operations

    async def _copies(self, source: Branch, old: Sequence[Database]) -> list[_Copy]:
        by_origin = {database.origin or database.oid: database for database in old}
        copies: list[_Copy] = []
        try:
            for database in await select(self.projects.pool, Database, OF_BRANCH, source.id):
                name, oid = await self.projects.cluster.copy_database(database.oid, database.owner_name, closed=True)
                copies.append(_Copy(database, name, oid, by_origin.get(database.origin or database.oid)))
        except BaseException:
            with anyio.CancelScope(shield=True):
                await self.projects.drop([], [copy.oid for copy in copies], [])
            raise
        return copies

    async def _swap(
        self, branch: Branch, wanted: Restore, source: Branch, old: Sequence[Database], copies: Sequence[_Copy]
    ) -> None:
        """In one transaction: the old databases and roles move away, the copies take over their names."""
        projects, now = self.projects, self.projects.clock.now()
        await projects.cluster.close([database.oid for database in old])
        async with projects.cluster.roles_lock, projects.pool.acquire() as connection, connection.transaction():
            if wanted.preserve_under_name:
                await self._preserve(connection, branch, wanted.preserve_under_name)
            for copy in copies:
                name = copy.name
                if copy.replaced is not None:
                    away, name = with_suffix(copy.replaced.name), copy.replaced.name
                    await projects.cluster.rename_database(connection, name, away)
                    await projects.cluster.rename_database(connection, copy.name, name)
                    await connection.execute("UPDATE database SET name = $2 WHERE oid = $1", copy.replaced.oid, away)
                await insert(
                    connection,
                    Database,
                    oid=copy.oid,
                    project_id=branch.project_id,
                    branch_id=branch.id,
                    name=name,
                    owner_name=copy.source.owner_name,
                    origin=copy.source.origin or copy.source.oid,
                    **stamps(now),
                )
            if not wanted.preserve_under_name:
                await connection.execute("DELETE FROM database WHERE oid = ANY($1)", [database.oid for database in old])
            await self._take_roles(connection, branch, source)
            await connection.execute("UPDATE branch SET updated_at = $2 WHERE id = $1", branch.id, now)

    async def _preserve(self, connection: asyncpg.Connection, branch: Branch, name: str) -> None:
        """A new branch with the old databases and roles; the children move to it."""
        now = self.projects.clock.now()
        kept = await insert(
            connection,
            Branch,
            id=new_id("br-"),
            project_id=branch.project_id,
            parent_id=branch.parent_id or branch.id,
            name=name,
            sized_at=now,
            **stamps(now),
        )
        await connection.execute(
            "UPDATE branch SET parent_id = $2 WHERE parent_id = $1 AND id <> $2", branch.id, kept.id
        )
        await connection.execute("UPDATE database SET branch_id = $2 WHERE branch_id = $1", branch.id, kept.id)
        await connection.execute("UPDATE role SET branch_id = $2 WHERE branch_id = $1", branch.id, kept.id)

    async def _take_roles(self, connection: asyncpg.Connection, branch: Branch, source: Branch) -> None:
        """The source's, as branches share roles; those that only the old state had are its own."""
        await connection.execute("DELETE FROM role WHERE branch_id = $1", branch.id)
        await connection.execute(
            "INSERT INTO role (oid, project_id, branch_id, name, password, created_at, updated_at)"
            " SELECT oid, project_id, $2, name, password, created_at, updated_at FROM role WHERE branch_id = $1",
            source.id,
            branch.id,
        )

    async def _finish(self, branch: Branch, wanted: Restore, old: Sequence[Database], copies: Sequence[_Copy]) -> None:
        projects = self.projects
        roles = await select(projects.pool, Role, OF_BRANCH, branch.id)
        oids = [copy.oid for copy in copies]
        await projects.cluster.let_in([role.oid for role in roles], oids)
        await projects.cluster.open(oids)
        if wanted.preserve_under_name:
            await projects.cluster.open([database.oid for database in old])
        else:
            await projects.drop([], [database.oid for database in old], [])
        projects.computes.usage.sized.discard(branch.id)

    async def _drop_lonely(self, roles: Sequence[Role]) -> None:
        """Roles that no branch has any more."""
        pool = self.projects.pool
        left = await pool.fetch("SELECT oid FROM role WHERE oid = ANY($1)", [role.oid for role in roles])
        lonely = {role.oid for role in roles} - {record["oid"] for record in left}
        if lonely:
            known = await select(pool, Database, "")
            await self.projects.drop(list(lonely), [], [database.oid for database in known])


def _source(branch: Branch, branches: Sequence[Branch], wanted: Restore) -> Branch:
    if wanted.source_branch_id == branch.id:
        raise bad_request("a branch cannot be restored from its own past here: name another branch to restore from")
    name = wanted.preserve_under_name
    if name is None and any(other.parent_id == branch.id for other in branches):
        raise ApiError(422, "`preserve_under_name` is required: the branch has children")
    if name is not None and name in [other.name for other in branches]:
        raise ApiError(409, "a branch of this name exists already")
    for other in branches:
        if other.id == wanted.source_branch_id:
            return other
    raise not_found("source branch")
