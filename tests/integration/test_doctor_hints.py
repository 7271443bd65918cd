"""What doctor says takes a power away, does."""

from __future__ import annotations

import secrets

import asyncpg
import pytest

from agentdb_mcp.bootstrap import open_application
from agentdb_mcp.doctor import examine
from agentdb_mcp.embedded import EmbeddedPostgres
from agentdb_mcp.settings import load_settings


@pytest.mark.parametrize("via", ["owner", "group"])
async def test_doctor_says_what_takes_a_membership_away(
    postgres: EmbeddedPostgres, superuser: asyncpg.Connection, via: str
) -> None:
    name = f"d{secrets.token_hex(4)}"
    await superuser.execute(f"CREATE ROLE {name} LOGIN PASSWORD 'p'")
    await superuser.execute(f"CREATE DATABASE {name}" + (f" OWNER {name}" if via == "owner" else ""))
    if via == "group":
        await superuser.execute(
            f"CREATE ROLE {name}_g; GRANT pg_read_server_files TO {name}_g; GRANT {name}_g TO {name}"
        )
    url = f"postgresql://{name}:p@127.0.0.1:{postgres.port}/{name}"

    async def wrong() -> list[str]:
        async with open_application(load_settings({"AGENT_DB_URL": url})) as application:
            found = [finding async for finding in examine(application)]
        return [finding.hint or "" for finding in found if finding.ok is False and "member of" in finding.message]

    for hint in await wrong():
        await superuser.execute(hint)
    assert await wrong() == []
