"""Checks of an attack case from outside of the agent's session."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

import anyio
import asyncpg
from attack_arena import TENANT_B_SECRET, Arena, Output
from fingerprint import fingerprint

MOST_WAL_BYTES = 300_000


@dataclass(frozen=True, slots=True)
class Before:
    """How things were before the case; a fingerprint only where a check asks for it."""

    roles: list[tuple[Any, ...]]
    wal: int
    fingerprint: tuple[object, ...] | None


async def look(built: Arena, checks: dict[str, Any]) -> Before:
    seen = await fingerprint(built) if "unchanged" in checks else None
    return Before(await roles(built), await _wal_position(built), seen)


async def outside(built: Arena, checks: dict[str, Any], before: Before) -> list[str]:
    """What a superuser sees wrong after the case."""
    written = await _wal_position(built) - before.wal
    wrong = await _inside_checks(built, checks)
    if before.fingerprint is not None:
        changed = set(await fingerprint(built)) ^ set(before.fingerprint)
        wrong += [f"changed: {', '.join(sorted({str(part) for part in changed}))}"] if changed else []
    if "unchanged" in checks and written > MOST_WAL_BYTES:
        wrong.append(f"{written} bytes of WAL were written")
    if before.roles != await roles(built):
        wrong.append("roles changed")
    for password in (checks.get("login_fails"), "x" if "pw_unchanged" in checks else None):
        if password is not None:
            wrong += await _login(built, password)
    if "reconnect_ok" in checks:  # afterwards() then has to log in anew
        await built.end_sessions()
    return wrong


async def _inside_checks(built: Arena, checks: dict[str, Any]) -> list[str]:
    wrong = []
    async with built.inside() as inside:
        for check in checks.get("su", []):
            try:
                found = await inside.fetchval(built.fill(check["su"]))
            except asyncpg.UndefinedTableError:
                found = "no such table"
            if found is not None and str(found) != check["is"]:
                wrong.append(f"{check['su'][:80]} is {found!r}, not {check['is']!r}")
        if "no_active_backend" in checks:
            wrong += await _no_active_backend(built, inside)
        if "introspect_ok" in checks:
            wrong += await _introspect(built, inside)
    return wrong


async def _no_active_backend(built: Arena, inside: asyncpg.Connection) -> list[str]:
    """Soon after the call: a backend inside one long copy of memory ends when that copy does."""
    active = "SELECT count(*) FROM pg_stat_activity WHERE usename = $1 AND state = 'active'"
    with anyio.move_on_after(10):
        while await inside.fetchval(active, built.role):
            await anyio.sleep(0.05)
        return []
    return ["a backend is still active"]


async def _introspect(built: Arena, inside: asyncpg.Connection) -> list[str]:
    truth = await inside.fetch(
        "SELECT relname FROM pg_class WHERE relnamespace = 'public'::regnamespace AND relkind IN ('r', 'p') ORDER BY 1"
    )
    answer = await built.clients["normal"].call_tool("list_objects", {"schema_name": "public", "object_type": "table"})
    listed = [item["name"] for item in answer.structured_content["objects"]] if not answer.is_error else None
    return (
        []
        if listed is not None and sorted(listed) == sorted(row[0] for row in truth)
        else [f"list_objects: {str(answer)[:200]}"]
    )


async def _login(built: Arena, password: str) -> list[str]:
    try:
        connection = await asyncpg.connect(
            built.stack.postgres.uri(built.db).reveal(), user=built.role, password=password
        )
    except (asyncpg.PostgresError, OSError):
        return []
    await connection.close()
    return [f"the agent's role logs in with {password!r}"]


async def afterwards(built: Arena, outputs: list[Output]) -> list[str]:
    """A fresh call works and has our settings, the neighbour is intact, nothing secret was shown."""
    wrong = []
    fresh = await built.call("normal", "SELECT current_setting('search_path'), current_setting('statement_timeout')")
    if fresh.failed or '"public, pg_temp, extensions"' not in fresh.text:
        wrong.append(f"a fresh call: {fresh.text[:200]}")
    neighbour = await asyncpg.connect(built.stack.postgres.uri(built.other_db).reveal())
    try:
        if await neighbour.fetchval("SELECT value FROM public.secret") != TENANT_B_SECRET:
            wrong.append("the neighbour was changed")
    finally:
        await neighbour.close()
    if await built.cluster.fetchval("SELECT count(*) FROM pg_prepared_xacts"):
        wrong.append("a prepared transaction was left")
    secrets = [
        TENANT_B_SECRET,
        built.stack.postgres.password.reveal(),
        urlsplit(built.admin.reveal()).password or "?",
        built.stack.encryption_key.reveal(),
        built.stack.emulator.api_key,
    ]
    text = "\n".join(output.text for output in outputs)
    wrong += [f"a secret was shown ({number})" for number, secret in enumerate(secrets) if secret in text]
    return wrong


async def _wal_position(built: Arena) -> int:
    position: int = await built.cluster.fetchval("SELECT (pg_current_wal_insert_lsn() - '0/0')::int8")
    return position


async def roles(built: Arena) -> list[tuple[Any, ...]]:
    """Attributes and memberships of every role of the cluster."""
    attributes = await built.cluster.fetch(
        "SELECT rolname, rolsuper, rolcreaterole, rolcreatedb, rolcanlogin, rolreplication, rolbypassrls"
        " FROM pg_roles ORDER BY 1"
    )
    memberships = await built.cluster.fetch("SELECT roleid, member FROM pg_auth_members ORDER BY 1, 2")
    return [tuple(row) for row in (*attributes, *memberships)]
