"""URLs that tenants put into Sim's variables bring their own host and login, and nothing of the server's."""

from __future__ import annotations

import json
import secrets
from collections.abc import AsyncIterator, Awaitable, Callable

import asyncpg
import pytest

from agentdb_mcp.bootstrap import Application, open_application
from agentdb_mcp.errors import ConfigurationError
from agentdb_mcp.models import Scope, Secret, Tenant
from agentdb_mcp.services import OpenDatabase
from agentdb_mcp.settings import load_settings

VARIABLE = {Scope.AGENT: "AGENT_DB_URL", Scope.GLOBAL: "GLOBAL_DB_URL"}
# As Sim Studio's own migrations leave them, in what matters to us.
SIM_TABLES = """
    CREATE TABLE "user" (id text PRIMARY KEY);
    CREATE TABLE workspace (id text PRIMARY KEY, name text NOT NULL, owner_id text NOT NULL REFERENCES "user" (id));
    CREATE TABLE environment (id text PRIMARY KEY, user_id text NOT NULL UNIQUE, variables json NOT NULL);
    CREATE TABLE workspace_environment (id text PRIMARY KEY, workspace_id text NOT NULL UNIQUE, variables json);
    INSERT INTO "user" VALUES ('ada');
    INSERT INTO workspace VALUES ('desk', 'Desk', 'ada');
"""
ADA = Tenant("ada", "desk")
# Parts of the URLs below that no error may show.
HIDDEN = ["ada-login", "own-secret", "db.example.org", "sneaky"]

Write = Callable[[Scope, str], Awaitable[None]]


@pytest.fixture
async def control(empty_database: Secret) -> AsyncIterator[asyncpg.Connection]:
    connection = await asyncpg.connect(empty_database.reveal())
    await connection.execute(SIM_TABLES)
    yield connection
    await connection.close()


@pytest.fixture
async def application(empty_database: Secret, control: asyncpg.Connection) -> AsyncIterator[Application]:
    async with open_application(load_settings({"AGENTDB_CONTROL_URL": empty_database.reveal()})) as application:
        yield application


@pytest.fixture(params=["workspace_environment", "environment"])
def write(control: asyncpg.Connection, request: pytest.FixtureRequest) -> Write:
    """Set the variable of a scope where the workspace, or the user, keeps it."""
    table = request.param
    column, owner = ("workspace_id", "desk") if table.startswith("workspace") else ("user_id", "ada")

    async def set_to(scope: Scope, url: str) -> None:
        variables = json.dumps({VARIABLE[scope]: url})
        await control.execute(f"INSERT INTO {table} (id, {column}, variables) VALUES ($1, $1, $2)", owner, variables)

    return set_to


async def resolve(application: Application, scope: Scope = Scope.AGENT) -> OpenDatabase:
    return await application.queries._databases.open(ADA, scope)


def base(host: str = "db.example.org", user: str = "ada-login", password: str = "own-secret") -> str:
    return f"postgresql://{user}:{password}@{host}/agent"


@pytest.mark.parametrize(
    "query", ["", "?sslmode=require", "?channel_binding=require", "?sslmode=require&channel_binding=require"]
)
async def test_host_user_and_password_with_the_options_of_neons_urls_are_taken(
    application: Application, write: Write, query: str
) -> None:
    await write(Scope.AGENT, base() + query)
    assert (await resolve(application)).target.uri.reveal() == base() + query


@pytest.mark.parametrize(
    "url",
    [
        base() + "?passfile=/sneaky/.pgpass",
        base() + "?sslmode=require&sslrootcert=/sneaky/root.crt",
        base() + "?sslcert=/sneaky/crt&sslkey=/sneaky/key",
        base() + "?service=sneaky",
        base() + "?host=/sneaky",
        base() + "?hostaddr=127.0.0.1",
        base() + "?port=1",
        base() + "?user=sneaky",
        base() + "?password=sneaky",
        base() + "?dbname=sneaky",
        base() + "?options=-csearch_path%3Dsneaky",
        base() + "?search_path=sneaky",
        base() + "?krbsrvname=sneaky",
        base() + "?target_session_attrs=any",
        base() + "?sslmode=require&pass%66ile=/sneaky",
        base() + "?SSLMODE=sneaky",
    ],
    ids=lambda url: url.partition("?")[2],
)
async def test_any_other_option_is_refused_by_the_name_of_the_variable(
    application: Application, write: Write, url: str
) -> None:
    await write(Scope.AGENT, url)
    await refused(application, Scope.AGENT)


@pytest.mark.parametrize(
    "url",
    [
        "postgresql:///agent",
        "postgresql://",
        "postgresql://db.example.org/agent",
        "postgresql://ada-login@db.example.org/agent",
        "postgresql://ada-login:@db.example.org/agent",
        "postgresql://:own-secret@db.example.org/agent",
        "postgresql://ada-login:own-secret@/agent",
        "postgresql://ada-login:own-secret@:5432/agent",
        "postgresql:///agent?host=db.example.org&user=ada-login&password=own-secret",
    ],
)
async def test_a_missing_host_user_or_password_is_refused_and_not_taken_from_the_server(
    application: Application, write: Write, url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("PGHOST", "PGUSER", "PGPASSWORD"):
        monkeypatch.setenv(name, "the-servers-own")
    await write(Scope.AGENT, url)
    await refused(application, Scope.AGENT)


@pytest.mark.parametrize("scope", Scope)
async def test_the_refusal_names_the_variable_of_its_scope(
    application: Application, write: Write, scope: Scope
) -> None:
    await write(scope, base() + "?passfile=/sneaky/.pgpass")
    await refused(application, scope)


async def test_a_refused_url_stays_refused_and_makes_no_database(
    application: Application, control: asyncpg.Connection, write: Write
) -> None:
    await write(Scope.AGENT, base(password=""))
    for _ in range(2):
        await refused(application, Scope.AGENT)
    assert await control.fetchval("SELECT count(*) FROM workspace_database") == 0


async def test_the_operators_own_url_may_have_any_option(empty_database: Secret) -> None:
    url = f"{base()}?passfile=/etc/agentdb/.pgpass&{secrets.token_hex(4)}=x"
    async with open_application(load_settings({"AGENT_DB_URL": url})) as application:
        assert (await resolve(application)).target.uri.reveal() == url


async def refused(application: Application, scope: Scope) -> None:
    with pytest.raises(ConfigurationError) as error:
        await resolve(application, scope)
    assert error.value.message.startswith(f"{VARIABLE[scope]} ")
    assert error.value.hint
    said = f"{error.value!r} {error.value.as_dict()}"
    assert not [hidden for hidden in HIDDEN if hidden in said]
