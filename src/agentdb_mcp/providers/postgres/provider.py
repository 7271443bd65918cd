"""The provider on a cluster. Names are unique here: creating what exists returns it, and completes it after a crash.

Deleting is final. There are no quotas, sizes or accounts: settings are accepted and nothing comes of them. What can be
measured is the size of databases.
"""

from __future__ import annotations

import secrets
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from datetime import datetime
from decimal import Decimal

import anyio
import asyncpg

from agentdb_mcp.errors import ProvisioningFailed
from agentdb_mcp.models import Checkpoint, Consumption, Project, ProjectAccess, ProjectSettings, Secret
from agentdb_mcp.providers.postgres import copies
from agentdb_mcp.providers.postgres import projects as steps
from agentdb_mcp.providers.postgres.cluster import Cluster, ours
from agentdb_mcp.providers.postgres.projects import Row
from agentdb_mcp.providers.postgres.setup import REGISTRY, check_powers, prepare


class PostgresProvider:
    """Every call has a connection of its own, which is closed at its end."""

    copies_whole = True

    def __init__(self, admin_uri: Secret) -> None:
        self._cluster = Cluster(admin_uri)
        self._template: str | None = None
        self._preparing = anyio.Lock()

    async def find(self, name: str) -> list[Project]:
        """One at most. A removal that was interrupted is finished here, so that nobody takes what is half gone."""
        async with self._registry() as registry:
            if not await steps.rows(registry, "WHERE name = $1", name):
                return []
            row = await steps.locked(registry, name)
            return [row.project] if row else []

    async def projects(self, prefix: str) -> list[Project]:
        """Half-made and half-removed ones too: they can be deleted like the others."""
        async with self._registry() as registry:
            found = await steps.rows(registry, "WHERE pg_catalog.starts_with(name, $1)", prefix)
            return [row.project for row in found]

    async def create(self, name: str, settings: ProjectSettings | None = None) -> Project:
        async with self._registry() as registry:
            row = await steps.locked(registry, name) or await steps.begin(registry, name)
            await steps.complete(registry, row, await self._prepared())
            return row.project

    async def get(self, project_id: str) -> Project | None:
        async with self._registry() as registry:
            found = await steps.rows(registry, "WHERE id = $1 AND state <> 'deleting'", project_id)
            return found[0].project if found else None

    async def configure(self, project_id: str, settings: ProjectSettings) -> None:
        async with self._project(project_id):
            pass

    async def pause(self, project_id: str) -> None:
        async with self._project(project_id) as (registry, row):
            await steps.allow_connections(registry, row, False)
            await steps.end_connections(registry, row)

    async def resume(self, project_id: str) -> None:
        async with self._project(project_id) as (registry, row):
            await steps.allow_connections(registry, row, True)

    async def access(self, project: Project, pooled: bool = False) -> ProjectAccess:
        """There is no pooler: both ways in are the same."""
        async with self._project(project.id) as (_, row):
            return self._access(row, row.password)

    async def reset_password(self, project: Project) -> ProjectAccess:
        async with self._project(project.id) as (registry, row):
            password = secrets.token_urlsafe(24)
            await steps.set_password(registry, row, password)
            return self._access(row, password)

    async def delete(self, project_id: str) -> None:
        async with self._registry() as registry:
            if (row := await steps.locked_by_id(registry, project_id)) is not None:
                await steps.delete(registry, row)

    async def recover(self, project_id: str) -> Project:
        raise ProvisioningFailed(
            "A deleted project cannot be recovered: the cluster drops its database.",
            hint="Restore it from a backup of the cluster, or make a new one.",
        )

    async def checkpoint(self, project_id: str, name: str, expires_at: datetime) -> Checkpoint:
        async with self._project(project_id) as (registry, row):
            return await copies.keep(self._cluster, registry, row, name, expires_at)

    async def checkpoints(self, project_id: str) -> list[Checkpoint]:
        async with self._registry() as registry:
            found = await steps.rows(registry, "WHERE id = $1 AND state = 'ready'", project_id)
            return await copies.kept(registry, found[0]) if found else []

    async def restore(self, project_id: str, checkpoint_id: str) -> Project:
        async with self._project(project_id) as (registry, row):
            await copies.restore(self._cluster, registry, row, checkpoint_id)
            return row.project

    async def drop_checkpoint(self, project_id: str, checkpoint_id: str) -> None:
        async with self._registry() as registry:
            if (row := await steps.locked_by_id(registry, project_id)) is not None:
                await copies.drop(registry, row, checkpoint_id)

    async def tidy(self, project_id: str) -> None:
        async with self._registry() as registry:
            if (row := await steps.locked_by_id(registry, project_id)) is not None:
                await copies.tidy(registry, row)

    async def consumption(self, project_ids: Sequence[str], since: datetime, until: datetime) -> list[Consumption]:
        """One span: the size that each database has now, and its copies, for as long as was asked."""
        hours = Decimal((until - since).total_seconds()) / 3600
        async with self._registry() as registry:
            sizes = await registry.fetch(
                "SELECT p.id, pg_database_size(d.oid) AS bytes, (SELECT coalesce(sum(pg_database_size(k.oid)), 0)"
                " FROM public.copy AS c JOIN pg_database AS k ON k.datname = c.database_name"
                " WHERE c.project_id = p.id)::int8 AS copied FROM public.project AS p"
                " JOIN pg_database AS d ON d.datname = p.database_name"
                " WHERE p.id = ANY ($1::text[]) AND p.state = 'ready' ORDER BY p.id",
                list(project_ids),
            )
        return [
            Consumption(
                size["id"],
                since,
                until,
                storage_byte_hours=size["bytes"] * hours,
                snapshot_byte_hours=size["copied"] * hours,
            )
            for size in sizes
        ]

    async def move(self, project_id: str, paid: bool) -> None:
        """There is one account."""

    async def check(self) -> None:
        async with ours(), self._cluster.connection() as admin:
            await check_powers(admin)

    def _access(self, row: Row, password: str) -> ProjectAccess:
        return ProjectAccess(
            self._cluster.uri(row.database_name, row.role_name, password), row.database_name, row.role_name
        )

    @asynccontextmanager
    async def _project(self, project_id: str) -> AsyncIterator[tuple[asyncpg.Connection, Row]]:
        """The project, completed if its making was interrupted, and nobody else's until the block ends."""
        async with self._registry() as registry:
            row = await steps.locked_by_id(registry, project_id)
            if row is None:
                raise ProvisioningFailed(
                    "The projects' cluster does not know this project.", hint="It may be deleted: make it anew."
                )
            await steps.complete(registry, row, await self._prepared())
            yield registry, row

    @asynccontextmanager
    async def _registry(self) -> AsyncIterator[asyncpg.Connection]:
        async with ours():
            await self._prepared()
            async with self._cluster.connection(REGISTRY) as registry:
                yield registry

    async def _prepared(self) -> str:
        async with self._preparing:
            if self._template is None:
                self._template = await prepare(self._cluster)
            return self._template
