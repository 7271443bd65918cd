"""Which database a call is for: the environment, our row, Sim's variables, or a new one."""

from __future__ import annotations

import json
import os
import re
import secrets
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from urllib.parse import urlsplit

import asyncpg
import pytest
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from agentdb_mcp.bootstrap import Application, open_application
from agentdb_mcp.errors import (
    AgentDBError,
    ConfigurationError,
    DatabaseUnavailable,
    InvalidArgument,
    NotAllowed,
    ProvisioningFailed,
)
from agentdb_mcp.execution import Statement
from agentdb_mcp.local_stack import LocalStack, local_stack
from agentdb_mcp.models import Scope, Tenant
from agentdb_mcp.services import OpenDatabase
from agentdb_mcp.settings import load_settings
from agentdb_mcp.store.control import create_database

Opener = Callable[..., Awaitable[Application]]

SIM_KEY = "5a" * 32
# As Sim Studio's own migrations leave them, in what matters to us.
SIM_TABLES = """
    CREATE TABLE "user" (id text PRIMARY KEY, name text NOT NULL, email text NOT NULL);
    CREATE TABLE workspace (
        id text PRIMARY KEY, name text NOT NULL, owner_id text NOT NULL REFERENCES "user" (id), archived_at timestamptz
    );
    CREATE TABLE environment (
        id text PRIMARY KEY, user_id text NOT NULL UNIQUE REFERENCES "user" (id) ON DELETE CASCADE,
        variables json NOT NULL, updated_at timestamp NOT NULL DEFAULT now()
    );
    CREATE TABLE workspace_environment (
        id text PRIMARY KEY, workspace_id text NOT NULL UNIQUE REFERENCES workspace (id) ON DELETE CASCADE,
        variables json NOT NULL DEFAULT '{}', created_at timestamp NOT NULL DEFAULT now(),
        updated_at timestamp NOT NULL DEFAULT now()
    );
    INSERT INTO "user" VALUES ('ada', 'Ada', 'ada@example.org'), ('bob', 'Bob', 'bob@example.org');
"""
ADA = "ada"


@pytest.fixture(scope="module")
async def stack(anyio_backend: str) -> AsyncIterator[LocalStack]:
    async with local_stack() as running:
        yield running


@pytest.fixture(scope="module")
async def sim(stack: LocalStack) -> str:
    """The URL of a database that is Sim's."""
    name = f"sim_{secrets.token_hex(6)}"
    await create_database(stack.postgres.uri(), name)
    url = stack.postgres.uri(name).reveal()
    connection = await asyncpg.connect(url)
    await connection.execute(SIM_TABLES)
    await connection.close()
    return url


@pytest.fixture
async def control(sim: str) -> AsyncIterator[asyncpg.Connection]:
    connection = await asyncpg.connect(sim)
    yield connection
    await connection.close()


@pytest.fixture
async def open_with(stack: LocalStack, sim: str) -> AsyncIterator[Opener]:
    """Opens an application on Sim's database, with settings besides."""
    async with AsyncExitStack() as exits:

        async def open_one(**environ: str) -> Application:
            settings = load_settings(
                stack.environ() | {"AGENTDB_CONTROL_URL": sim, "ENCRYPTION_KEY": SIM_KEY} | environ
            )
            return await exits.enter_async_context(open_application(settings))

        yield open_one


@pytest.fixture
async def tenant(control: asyncpg.Connection) -> Tenant:
    """Ada in a workspace of hers that is new to us."""
    workspace_id = f"w{secrets.token_hex(6)}"
    await control.execute("INSERT INTO workspace VALUES ($1, 'Notes', $2)", workspace_id, ADA)
    await control.execute("DELETE FROM environment")
    return Tenant(ADA, workspace_id)


async def resolve(application: Application, tenant: Tenant, scope: Scope = Scope.AGENT) -> OpenDatabase:
    return await application.queries._databases.open(tenant, scope)


async def project_count(application: Application, tenant: Tenant) -> int:
    provider = application.managed().provider
    assert provider is not None
    return len(await provider.find(f"agent-{tenant.workspace_id}"))


def sealed(text: str, key: str = SIM_KEY) -> str:
    """As Sim's encryptSecret writes it."""
    iv = os.urandom(16)
    data = AESGCM(bytes.fromhex(key)).encrypt(iv, text.encode(), None)
    return f"{iv.hex()}:{data[:-16].hex()}:{data[-16:].hex()}"


async def set_workspace_variable(
    control: asyncpg.Connection, tenant: Tenant, value: object, name: str = "AGENT_DB_URL"
) -> None:
    await control.execute(
        "INSERT INTO workspace_environment (id, workspace_id, variables) VALUES ($1, $1, $2)"
        " ON CONFLICT (workspace_id) DO UPDATE SET variables = excluded.variables",
        tenant.workspace_id,
        json.dumps({"OTHER": "x", name: value}),
    )


async def set_personal_variable(control: asyncpg.Connection, value: object, name: str = "AGENT_DB_URL") -> None:
    await control.execute(
        "INSERT INTO environment (id, user_id, variables) VALUES ($1, $1, $2)", ADA, json.dumps({name: value})
    )


OWN = "postgresql://ada:own-secret@db.example.org/agent"
OWN_PERSONAL = "postgres://ada:own-secret@db.example.org/personal"


async def test_the_environment_comes_first(open_with: Opener, control: asyncpg.Connection, tenant: Tenant) -> None:
    await set_workspace_variable(control, tenant, OWN_PERSONAL)
    application = await open_with(AGENT_DB_URL=OWN)
    found = await resolve(application, tenant)
    assert (found.target.uri.reveal(), found.target.role, found.row_id) == (OWN, None, None)
    assert await project_count(application, tenant) == 0


async def test_the_environment_may_be_encrypted(open_with: Opener, tenant: Tenant) -> None:
    found = await resolve(await open_with(AGENT_DB_URL=sealed(OWN)), tenant)
    assert found.target.uri.reveal() == OWN


async def test_our_row_comes_before_sims_variables(
    open_with: Opener, control: asyncpg.Connection, tenant: Tenant
) -> None:
    first = await resolve(await open_with(), tenant)
    await set_workspace_variable(control, tenant, sealed(OWN))
    again = await resolve(await open_with(), tenant)
    assert again.row_id == first.row_id is not None
    assert again.target.role is not None


async def test_the_workspaces_variable_comes_before_the_users(
    open_with: Opener, control: asyncpg.Connection, tenant: Tenant
) -> None:
    await set_workspace_variable(control, tenant, sealed(OWN))
    await set_personal_variable(control, sealed(OWN_PERSONAL))
    application = await open_with()
    assert (await resolve(application, tenant)).target.uri.reveal() == OWN
    assert await project_count(application, tenant) == 0


async def test_the_users_variable_serves_a_workspace_without_one(
    open_with: Opener, control: asyncpg.Connection, tenant: Tenant
) -> None:
    await set_workspace_variable(control, tenant, "x", name="UNRELATED")
    await set_personal_variable(control, sealed(OWN_PERSONAL))
    assert (await resolve(await open_with(), tenant)).target.uri.reveal() == OWN_PERSONAL


async def test_each_scope_has_its_own_variable(open_with: Opener, control: asyncpg.Connection, tenant: Tenant) -> None:
    await set_personal_variable(control, sealed(OWN_PERSONAL), name="GLOBAL_DB_URL")
    application = await open_with()
    assert (await resolve(application, tenant, Scope.GLOBAL)).target.uri.reveal() == OWN_PERSONAL
    assert (await resolve(application, tenant, Scope.AGENT)).row_id is not None


@pytest.mark.parametrize(
    "value", [OWN, f"  {OWN}  ", sealed(OWN)], ids=["plain", "with blanks around it", "encrypted with Sim's key"]
)
async def test_a_url_that_a_user_gave_is_honoured(
    open_with: Opener, control: asyncpg.Connection, tenant: Tenant, value: str
) -> None:
    await set_workspace_variable(control, tenant, value)
    application = await open_with()
    assert (await resolve(application, tenant)).target.uri.reveal() == OWN
    assert await project_count(application, tenant) == 0


@pytest.mark.parametrize(
    "value",
    [
        "agentdb://agent",
        sealed("agentdb://agent"),
        "${AGENT_DB_URL}",
        sealed("{{AGENT_DB_URL}}"),
        "",
        "  ",
        None,
        sealed(""),
    ],
    ids=["our reference", "sealed reference", "shell", "sealed braces", "empty", "blank", "null", "sealed nothing"],
)
async def test_what_is_no_url_of_its_own_counts_as_missing_and_a_database_is_made(
    open_with: Opener, control: asyncpg.Connection, tenant: Tenant, value: str | None
) -> None:
    await set_workspace_variable(control, tenant, value)
    application = await open_with(AGENT_DB_URL=value or "")
    found = await resolve(application, tenant)
    assert found.row_id is not None
    assert await project_count(application, tenant) == 1


@pytest.mark.parametrize("value", ["${AGENT_DB_URL}", sealed("{{AGENT_DB_URL}}")], ids=["shell", "sealed braces"])
async def test_a_reference_in_the_workspace_does_not_hide_the_users_own_url(
    open_with: Opener, control: asyncpg.Connection, tenant: Tenant, value: str
) -> None:
    await set_workspace_variable(control, tenant, value)
    await set_personal_variable(control, sealed(OWN_PERSONAL))
    assert (await resolve(await open_with(), tenant)).target.uri.reveal() == OWN_PERSONAL


@pytest.mark.parametrize("variables", ["{}", "[]", "null", '"text"', '{"AGENT_DB_URL": 5}', '{"AGENT_DB_URL": ["x"]}'])
async def test_variables_of_another_shape_count_as_missing(
    open_with: Opener, control: asyncpg.Connection, tenant: Tenant, variables: str
) -> None:
    await control.execute(
        "INSERT INTO workspace_environment (id, workspace_id, variables) VALUES ($1, $1, $2)",
        tenant.workspace_id,
        variables,
    )
    assert (await resolve(await open_with(), tenant)).row_id is not None


def said(error: AgentDBError) -> str:
    return f"{error.message} {error.hint} {error!r} {error.as_dict()}"


@pytest.mark.parametrize("where", ["environment", "Sim"])
async def test_a_variable_under_a_key_that_we_do_not_have_is_a_clear_error_that_shows_nothing(
    open_with: Opener, control: asyncpg.Connection, tenant: Tenant, where: str
) -> None:
    value = sealed(OWN, key="77" * 32)
    if where == "Sim":
        await set_workspace_variable(control, tenant, value)
    application = await open_with(**({"AGENT_DB_URL": value} if where == "environment" else {}))
    with pytest.raises(ConfigurationError, match="none of the configured keys") as refused:
        await resolve(application, tenant)
    assert refused.value.hint
    hidden = [OWN, "own-secret", "example.org", SIM_KEY, *value.split(":")]
    assert not [secret for secret in hidden if secret in said(refused.value)]
    assert await project_count(application, tenant) == 0


async def test_our_row_under_a_key_that_we_do_not_have_is_a_clear_error_that_shows_nothing(
    open_with: Opener, control: asyncpg.Connection, tenant: Tenant
) -> None:
    uri = (await resolve(await open_with(), tenant)).target.uri.reveal()
    stored = await control.fetchval(
        "SELECT neon_connection_uri FROM workspace_database WHERE workspace_id = $1", tenant.workspace_id
    )
    other = await open_with(AGENTDB_ENCRYPTION_KEYS="99" * 32)
    with pytest.raises(DatabaseUnavailable, match="none of the configured keys") as refused:
        await resolve(other, tenant)
    parts = urlsplit(uri)
    hidden = [parts.password or "?", parts.username or "?", parts.path[1:], str(parts.port), "99" * 32, stored]
    assert not [secret for secret in hidden if secret in said(refused.value)]


async def test_a_new_key_in_front_still_opens_what_the_old_one_wrote(
    stack: LocalStack, open_with: Opener, tenant: Tenant
) -> None:
    first = await resolve(await open_with(), tenant)
    rotated = await open_with(AGENTDB_ENCRYPTION_KEYS=f"{'99' * 32},{stack.encryption_key.reveal()}")
    assert (await resolve(rotated, tenant)).target.uri == first.target.uri


@pytest.mark.parametrize("value", ["mysql://u:own-secret@h/d", "own-secret", "agentdb://other"])
async def test_a_value_that_is_no_url_is_named_but_not_shown(open_with: Opener, tenant: Tenant, value: str) -> None:
    application = await open_with(AGENT_DB_URL=value)
    with pytest.raises(ConfigurationError, match="AGENT_DB_URL") as refused:
        await resolve(application, tenant)
    assert "own-secret" not in said(refused.value)


async def test_a_database_is_resolved_once(open_with: Opener, control: asyncpg.Connection, tenant: Tenant) -> None:
    application = await open_with()
    first = await resolve(application, tenant)
    await control.execute("UPDATE workspace_database SET neon_connection_uri = 'broken'")
    assert await resolve(application, tenant) is first
    application.queries._databases.forget(tenant, Scope.AGENT)
    with pytest.raises(DatabaseUnavailable, match="not an encrypted string"):
        await resolve(application, tenant)
    await control.execute("DELETE FROM workspace_database")


@pytest.mark.parametrize("scope", Scope)
async def test_a_user_that_sim_does_not_know_is_refused_and_nothing_is_made(
    open_with: Opener, control: asyncpg.Connection, scope: Scope
) -> None:
    stranger = Tenant(f"u{secrets.token_hex(4)}", f"w{secrets.token_hex(4)}")
    application = await open_with()
    with pytest.raises(InvalidArgument, match=f"no user {stranger.user_id}") as refused:
        await resolve(application, stranger, scope)
    assert "platform" in (refused.value.hint or "")
    provider = application.managed().provider
    assert provider is not None
    assert await provider.find(f"agent-{stranger.workspace_id}") == []
    assert await provider.find(f"global-{stranger.user_id}") == []
    assert not await control.fetchval("SELECT EXISTS (SELECT FROM user_db_budget WHERE user_id = $1)", stranger.user_id)


async def test_a_workspace_that_sim_does_not_know_is_refused_and_nothing_is_made(open_with: Opener) -> None:
    nowhere = Tenant(ADA, f"w{secrets.token_hex(4)}")
    application = await open_with()
    with pytest.raises(InvalidArgument, match=f"no workspace {nowhere.workspace_id}"):
        await resolve(application, nowhere)
    assert await project_count(application, nowhere) == 0


async def test_the_workspace_of_another_user_is_refused_before_it_has_a_database(
    open_with: Opener, tenant: Tenant
) -> None:
    application = await open_with()
    with pytest.raises(NotAllowed, match="another user"):
        await resolve(application, Tenant("bob", tenant.workspace_id))
    assert await project_count(application, tenant) == 0


async def test_the_workspace_of_another_user_is_refused_when_it_has_a_database(
    open_with: Opener, tenant: Tenant
) -> None:
    application = await open_with()
    await resolve(application, tenant)
    with pytest.raises(NotAllowed):
        await resolve(application, Tenant("bob", tenant.workspace_id))


async def test_a_call_without_a_user_or_a_workspace_says_what_to_set(open_with: Opener) -> None:
    application = await open_with()
    with pytest.raises(InvalidArgument) as refused:
        await resolve(application, Tenant(None, "w"))
    assert "AGENTDB_USER_ID" in (refused.value.hint or "")
    with pytest.raises(InvalidArgument) as refused:
        await resolve(application, Tenant(ADA, None))
    assert "AGENTDB_WORKSPACE_ID" in (refused.value.hint or "")


async def test_without_a_control_database_a_missing_url_is_a_clear_error() -> None:
    async with open_application(load_settings({"AGENT_DB_URL": OWN})) as application:
        assert (await resolve(application, Tenant())).target.uri.reveal() == OWN
        with pytest.raises(DatabaseUnavailable, match="no global database") as missing:
            await resolve(application, Tenant(), Scope.GLOBAL)
    assert "GLOBAL_DB_URL" in (missing.value.hint or "")


async def test_without_a_key_for_neon_a_users_own_url_still_works(
    open_with: Opener, control: asyncpg.Connection, tenant: Tenant
) -> None:
    application = await open_with(NEON_API_KEY="", NEON_ORG_ID="")
    with pytest.raises(ProvisioningFailed, match="no Neon key"):
        await resolve(application, Tenant(ADA, tenant.workspace_id), Scope.GLOBAL)
    await set_workspace_variable(control, tenant, sealed(OWN))
    assert (await resolve(application, tenant)).target.uri.reveal() == OWN


async def test_what_is_resolved_shows_no_secret_when_printed(open_with: Opener, tenant: Tenant) -> None:
    found = await resolve(await open_with(), tenant)
    parts = urlsplit(found.target.uri.reveal())
    assert parts.password
    assert parts.password not in repr(found)
    assert not re.search(rf"\b{parts.port}\b", repr(found))


async def test_a_database_made_in_sims_world_works_end_to_end(open_with: Opener, tenant: Tenant) -> None:
    application = await open_with()
    statements = [Statement("CREATE TABLE notes (n int)"), Statement("INSERT INTO notes VALUES (7) RETURNING n")]
    answer = await application.queries.execute(tenant, Scope.AGENT, statements, transaction=True)
    assert answer.results[1].rows == [[7]]
