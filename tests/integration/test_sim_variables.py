"""URLs in Sim's variables: whose they are, when they change, and what they may not reach."""

from __future__ import annotations

import asyncio
import contextlib
import json
import tempfile
from urllib.parse import quote

import asyncpg
import pytest

from agentdb_mcp.bootstrap import open_application
from agentdb_mcp.errors import AgentDBError, NotAllowed
from agentdb_mcp.execution import Statement
from agentdb_mcp.models import Scope, Secret, Tenant
from agentdb_mcp.settings import load_settings

ADA, BOB = Tenant("ada", "desk"), Tenant("bob", "desk")
SIM_TABLES = """
    CREATE TABLE "user" (id text PRIMARY KEY);
    CREATE TABLE workspace (id text PRIMARY KEY, name text NOT NULL, owner_id text NOT NULL REFERENCES "user" (id));
    CREATE TABLE environment (id text PRIMARY KEY, user_id text NOT NULL UNIQUE, variables json NOT NULL);
    CREATE TABLE workspace_environment (id text PRIMARY KEY, workspace_id text NOT NULL UNIQUE, variables json);
    INSERT INTO "user" VALUES ('ada'), ('bob');
    INSERT INTO workspace VALUES ('desk', 'Desk', 'ada');
"""


async def sim_with(control: Secret, url: str) -> None:
    connection = await asyncpg.connect(control.reveal())
    await connection.execute(SIM_TABLES)
    await connection.execute(
        "INSERT INTO workspace_environment VALUES ('x', 'desk', $1)", json.dumps({"AGENT_DB_URL": url})
    )
    await connection.close()


async def test_a_tenants_url_opens_no_unix_socket_of_the_server(empty_database: Secret) -> None:
    visits = []
    folder = tempfile.mkdtemp()
    server = await asyncio.start_unix_server(lambda _, w: (visits.append(1), w.close())[1], f"{folder}/.s.PGSQL.5432")
    await sim_with(empty_database, f"postgresql://postgres:p@{quote(folder, safe='')}/db?sslmode=disable")
    async with open_application(load_settings({"AGENTDB_CONTROL_URL": empty_database.reveal()})) as application:
        with pytest.raises(AgentDBError):
            await application.queries.execute(ADA, Scope.AGENT, [Statement("SELECT 1")])
    server.close()
    assert not visits


async def test_a_url_with_an_empty_host_in_its_list_is_an_error_of_ours(empty_database: Secret) -> None:
    await sim_with(empty_database, "postgresql://u:p@h,/db")
    async with open_application(load_settings({"AGENTDB_CONTROL_URL": empty_database.reveal()})) as application:
        with pytest.raises(AgentDBError):
            await application.queries.execute(ADA, Scope.AGENT, [Statement("SELECT 1")])


async def test_another_user_does_not_get_the_url_of_a_workspace(empty_database: Secret) -> None:
    await sim_with(empty_database, "postgresql://u:p@127.0.0.1:1/db")
    async with open_application(load_settings({"AGENTDB_CONTROL_URL": empty_database.reveal()})) as application:
        found: object = None
        with contextlib.suppress(NotAllowed):
            found = await application.queries._databases.open(BOB, Scope.AGENT)
    assert found is None


async def test_a_changed_owner_or_variable_of_a_tenants_url_is_noticed(
    empty_database: Secret, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("agentdb_mcp.services.databases.FRESH_S", 0.0)
    await sim_with(empty_database, "postgresql://u:p@127.0.0.1:1/db")
    connection = await asyncpg.connect(empty_database.reveal())
    async with open_application(load_settings({"AGENTDB_CONTROL_URL": empty_database.reveal()})) as application:
        await application.queries._databases.open(ADA, Scope.AGENT)
        changed = json.dumps({"AGENT_DB_URL": "postgresql://u:p@127.0.0.1:2/db"})
        await connection.execute("UPDATE workspace_environment SET variables = $1", changed)
        found = await application.queries._databases.open(ADA, Scope.AGENT)
    await connection.close()
    assert ":2/" in found.target.uri.reveal()
