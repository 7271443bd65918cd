"""Rows of the emulator's own database, and how they are read and written. The schema is in schema.py."""

from __future__ import annotations

import dataclasses
import json
import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import TypeVar

import asyncpg

from agentdb_mcp.neon_emulator.behaviour import NewOrganization
from agentdb_mcp.neon_emulator.bodies import Fields
from agentdb_mcp.neon_emulator.naming import new_api_key, new_id
from agentdb_mcp.neon_emulator.schema import BEFORE, OLDER, TABLES

Row = TypeVar("Row")


@dataclass(frozen=True, slots=True)
class Installation:
    api_key: str = dataclasses.field(repr=False)
    org_id: str
    proxy_port: int
    user_id: uuid.UUID
    created_at: datetime


@dataclass(frozen=True, slots=True)
class Organization:
    id: str
    seq: int
    name: str
    plan: str
    api_key: str = dataclasses.field(repr=False)
    created_at: datetime


@dataclass(frozen=True, slots=True)
class Project:
    id: str
    org_id: str
    name: str
    region_id: str
    settings: Fields
    endpoint_settings: Fields
    history_retention_seconds: int
    state: str
    created_at: datetime
    updated_at: datetime
    deleted_at: datetime | None


@dataclass(frozen=True, slots=True)
class Branch:
    id: str
    project_id: str
    parent_id: str | None
    name: str
    size_bytes: int
    sized_at: datetime
    created_at: datetime
    updated_at: datetime


@dataclass(frozen=True, slots=True)
class Endpoint:
    id: str
    project_id: str
    branch_id: str
    settings: Fields
    current_state: str
    ready_at: datetime
    last_active: datetime
    booked_until: datetime
    created_at: datetime
    updated_at: datetime


@dataclass(frozen=True, slots=True)
class Role:
    oid: int
    project_id: str
    branch_id: str
    name: str
    password: str = dataclasses.field(repr=False)
    created_at: datetime
    updated_at: datetime


@dataclass(frozen=True, slots=True)
class Database:
    id: int
    oid: int
    project_id: str
    branch_id: str
    name: str
    owner_name: str
    origin: int | None
    created_at: datetime
    updated_at: datetime


@dataclass(frozen=True, slots=True)
class Snapshot:
    """`databases` are `{oid, owner_name, origin, grants}`: copies that belong to the cluster's superuser."""

    id: str
    project_id: str
    source_branch_id: str
    name: str
    size_bytes: int
    sized_at: datetime
    expires_at: datetime | None
    databases: list[Fields]
    role_oids: list[int]
    created_at: datetime
    updated_at: datetime


@dataclass(frozen=True, slots=True)
class Operation:
    id: uuid.UUID
    seq: int
    project_id: str
    branch_id: str
    endpoint_id: str | None
    action: str
    outcome: str
    created_at: datetime
    starts_at: datetime
    ends_at: datetime | None


def _columns(kind: type[Row]) -> str:
    return ", ".join(field.name for field in dataclasses.fields(kind))  # type: ignore[arg-type]


async def select(connection: asyncpg.Connection, kind: type[Row], tail: str, *arguments: object) -> list[Row]:
    """Rows of the table that `kind` is named after."""
    records = await connection.fetch(f"SELECT {_columns(kind)} FROM {kind.__name__.lower()} {tail}", *arguments)
    return [kind(**record) for record in records]


async def living_parts(
    connection: asyncpg.Connection, project_ids: Sequence[str] | None
) -> list[tuple[Project, Branch, Endpoint | None]]:
    """The branches of these projects, or of all, as far as they are not deleted, in one question."""
    kinds = (Project, Branch, Endpoint)
    names = [[f"{kind.__name__.lower()}.{field.name}" for field in dataclasses.fields(kind)] for kind in kinds]
    records = await connection.fetch(
        f"""SELECT {", ".join(name for own in names for name in own)}
              FROM project JOIN branch ON branch.project_id = project.id
              LEFT JOIN endpoint ON endpoint.branch_id = branch.id
             WHERE project.state = 'ready' AND ($1::text[] IS NULL OR project.id = ANY($1))""",
        None if project_ids is None else list(project_ids),
    )
    first, second = len(names[0]), len(names[0]) + len(names[1])
    rows = [tuple(record) for record in records]
    return [
        (Project(*row[:first]), Branch(*row[first:second]), Endpoint(*row[second:]) if row[second] else None)
        for row in rows
    ]


async def of_project(connection: asyncpg.Connection, kind: type[Row], project_id: str) -> list[Row]:
    """All rows that belong to one project, in the order of their making."""
    return await select(connection, kind, "WHERE project_id = $1 ORDER BY created_at", project_id)


async def insert(connection: asyncpg.Connection, kind: type[Row], **values: object) -> Row:
    """Write one row and read it back with its defaults."""
    names, places = ", ".join(values), ", ".join(f"${number}" for number in range(1, len(values) + 1))
    record = await connection.fetchrow(
        f"INSERT INTO {kind.__name__.lower()} ({names}) VALUES ({places}) RETURNING {_columns(kind)}", *values.values()
    )
    return kind(**record)


async def prepare_connection(connection: asyncpg.Connection) -> None:
    """Read and write `json` columns as Python values."""
    await connection.set_type_codec("json", encoder=json.dumps, decoder=json.loads, schema="pg_catalog")


async def install(connection: asyncpg.Connection, wanted: Sequence[NewOrganization]) -> Installation:
    """Make what is missing; a restart finds the same keys and organizations."""
    await connection.execute(BEFORE)
    await connection.execute(TABLES)
    await connection.execute(OLDER)
    await connection.execute(
        "INSERT INTO installation (api_key, org_id) VALUES ($1, $2) ON CONFLICT DO NOTHING",
        new_api_key(),
        new_id("org-"),
    )
    installation = (await select(connection, Installation, ""))[0]
    for seq, organization in enumerate(wanted):
        await connection.execute(
            "INSERT INTO organization (id, seq, name, plan, api_key) VALUES ($1, $2, $3, $4, $5)"
            " ON CONFLICT (seq) DO UPDATE SET name = excluded.name, plan = excluded.plan",
            new_id("org-") if seq else installation.org_id,
            seq,
            organization.name,
            organization.plan,
            new_api_key(),
        )
    await connection.execute("UPDATE project SET org_id = $1 WHERE org_id IS NULL", installation.org_id)
    return installation


async def organizations(connection: asyncpg.Connection) -> list[Organization]:
    return await select(connection, Organization, "ORDER BY seq")


def stamps(now: datetime) -> dict[str, datetime]:
    """For a new row."""
    return {"created_at": now, "updated_at": now}


async def find_project(connection: asyncpg.Connection, project_id: str, *states: str) -> Project | None:
    rows = await select(
        connection, Project, "WHERE id = $1 AND state = ANY($2)", project_id, list(states or ("ready",))
    )
    return rows[0] if rows else None


async def page_of_projects(
    connection: asyncpg.Connection,
    *,
    after: str | None,
    search: str | None,
    limit: int,
    organizations: Sequence[str],
    state: str = "ready",
) -> list[Project]:
    """Projects in the order of their making, from behind the one named `after`, which may be gone by now."""
    return await select(
        connection,
        Project,
        """WHERE state = $5 AND org_id = ANY($4)
             AND seq > coalesce((SELECT seq FROM project AS last WHERE last.id = $1), 0)
             AND ($2::text IS NULL OR strpos(lower(name), lower($2)) > 0 OR strpos(id, lower($2)) > 0)
           ORDER BY seq LIMIT $3""",
        after,
        search,
        limit,
        list(organizations),
        state,
    )


async def project_exists(connection: asyncpg.Connection, project_id: str) -> bool:
    """Whether the identifier was ever given."""
    return bool(await connection.fetchval("SELECT EXISTS (SELECT FROM project WHERE id = $1)", project_id))


async def page_of_operations(
    connection: asyncpg.Connection, project_id: str, *, after: uuid.UUID | None, limit: int
) -> list[Operation]:
    """Newest first, as Neon lists them."""
    return await select(
        connection,
        Operation,
        """WHERE project_id = $1
             AND ($2::uuid IS NULL OR seq < (SELECT seq FROM operation AS last WHERE last.id = $2))
           ORDER BY seq DESC LIMIT $3""",
        project_id,
        after,
        limit,
    )
