"""What stands in Sim's variables after we wrote: ours alone changes, users' own stays, copies lead nowhere."""

from __future__ import annotations

import json
import os
import secrets
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from datetime import datetime, timedelta
from pathlib import Path

import anyio
import asyncpg
import pytest
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from agentdb_mcp.bootstrap import Application, open_application
from agentdb_mcp.doctor import examine
from agentdb_mcp.errors import AgentDBError, DatabaseUnavailable, NotAllowed, NotAuthenticated
from agentdb_mcp.execution import Statement
from agentdb_mcp.jobs.table import follow_owners, follow_variables
from agentdb_mcp.local_stack import LocalStack
from agentdb_mcp.models import Scope, Tenant, TokenScope
from agentdb_mcp.services import utc_now
from agentdb_mcp.settings import load_settings
from agentdb_mcp.store.control import create_database

SIM_TABLES = Path(__file__).parents[1] / "sim_tables.sql"
SIM_KEY = "5e" * 32
OWN = "postgresql://ada:own-secret@db.example.org/agent"
# Members that JSON.parse reads and nobody writes so: order, spaces, escapes and digits have to survive.
ODD = (
    '{ "Z_LAST" : "a:b:c" ,\n  "A\\u0000\\ud800": 1.10, "big": 12345678901234567890123,'
    ' "Z_LAST": {"AGENT_DB_URL": null} }'
)
TOKENS = 'name = "tokens"\n[sim]\nvariables = "token"\n'

Opener = Callable[..., Awaitable[Application]]


@pytest.fixture(scope="module")
async def environ(stack: LocalStack) -> dict[str, str]:
    """A control database with Sim's tables, and Sim's key."""
    name = f"sim_{secrets.token_hex(6)}"
    await create_database(stack.postgres.uri(), name)
    connection = await asyncpg.connect(stack.postgres.uri(name).reveal())
    await connection.execute(SIM_TABLES.read_text("utf-8"))
    await connection.close()
    return stack.environ() | {"AGENTDB_CONTROL_URL": stack.postgres.uri(name).reveal(), "ENCRYPTION_KEY": SIM_KEY}


@pytest.fixture
async def sim(environ: dict[str, str]) -> AsyncIterator[asyncpg.Connection]:
    connection = await asyncpg.connect(environ["AGENTDB_CONTROL_URL"])
    yield connection
    await connection.close()


@pytest.fixture
async def open_with(environ: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Opener]:
    monkeypatch.setattr("agentdb_mcp.services.databases.FRESH_S", 0.0)
    async with AsyncExitStack() as exits:

        async def open_one(clock: Callable[[], datetime] = utc_now, **changes: str) -> Application:
            settings = load_settings(environ | changes)
            return await exits.enter_async_context(open_application(settings, clock=clock))

        yield open_one


@pytest.fixture
def by_token(tmp_path: Path) -> dict[str, str]:
    """Settings with tokens in the variables."""
    (tmp_path / "tokens.toml").write_text(TOKENS)
    return {"AGENTDB_POLICY": str(tmp_path / "tokens.toml")}


async def sign_up(sim: asyncpg.Connection) -> str:
    user_id = f"u{secrets.token_hex(6)}"
    await sim.execute('INSERT INTO "user" VALUES ($1, $1, $1, true, now(), now())', user_id)
    return user_id


async def make_workspace(sim: asyncpg.Connection, owner: str, forked_from: str | None = None) -> str:
    workspace_id = f"w{secrets.token_hex(6)}"
    await sim.execute(
        "INSERT INTO workspace (id, name, owner_id, billed_account_user_id, forked_from_workspace_id)"
        " VALUES ($1, 'Desk', $2, $2, $3)",
        workspace_id,
        owner,
        forked_from,
    )
    return workspace_id


@pytest.fixture
async def ada(sim: asyncpg.Connection) -> Tenant:
    """A user with a workspace, both new to us."""
    user_id = await sign_up(sim)
    return Tenant(user_id, await make_workspace(sim, user_id))


async def register(application: Application, tenant: Tenant) -> None:
    lifecycle = application.managed().lifecycle
    await lifecycle.create_user(tenant.user_id or "")
    await lifecycle.create_workspace(tenant.workspace_id or "", tenant.user_id or "", "Desk")


async def query(application: Application, tenant: Tenant, sql: str, scope: Scope = Scope.AGENT) -> list[list[object]]:
    return (await application.queries.execute(tenant, scope, [Statement(sql)])).results[0].rows


def sealed(text: str, key: str = SIM_KEY) -> str:
    """As Sim's encryptSecret writes it."""
    iv = os.urandom(16)
    data = AESGCM(bytes.fromhex(key)).encrypt(iv, text.encode(), None)
    return f"{iv.hex()}:{data[:-16].hex()}:{data[-16:].hex()}"


def opened(stored: str) -> str:
    """As Sim's decryptSecret reads it."""
    iv, middle, tag = (bytes.fromhex(part) for part in stored.split(":"))
    return AESGCM(bytes.fromhex(SIM_KEY)).decrypt(iv, middle + tag, None).decode()


async def text_of(sim: asyncpg.Connection, tenant: Tenant, scope: Scope = Scope.AGENT) -> str | None:
    if scope is Scope.GLOBAL:
        found = await sim.fetchval("SELECT variables::text FROM environment WHERE user_id = $1", tenant.user_id)
    else:
        by_workspace = "SELECT variables::text FROM workspace_environment WHERE workspace_id = $1"
        found = await sim.fetchval(by_workspace, tenant.workspace_id)
    return str(found) if found is not None else None


async def value_of(sim: asyncpg.Connection, tenant: Tenant, scope: Scope = Scope.AGENT) -> str | None:
    stored = json.loads(await text_of(sim, tenant, scope) or "{}").get(f"{scope.upper()}_DB_URL")
    return opened(stored) if stored is not None else None


async def put(sim: asyncpg.Connection, tenant: Tenant, text: str) -> None:
    await sim.execute(
        "INSERT INTO workspace_environment (id, workspace_id, variables) VALUES (gen_random_uuid(), $1, $2)"
        " ON CONFLICT (workspace_id) DO UPDATE SET variables = excluded.variables",
        tenant.workspace_id,
        text,
    )


async def copy_variables(sim: asyncpg.Connection, source: Tenant, target: Tenant) -> None:
    await put(sim, target, await text_of(sim, source) or "{}")


async def whose(application: Application, token: str) -> Tenant:
    return (await application.managed().tokens.authenticate(token)).tenant


async def test_registration_and_a_new_workspace_write_references(
    open_with: Opener, sim: asyncpg.Connection, ada: Tenant
) -> None:
    await register(await open_with(), ada)
    assert await value_of(sim, ada) == "agentdb://agent"
    assert await value_of(sim, ada, Scope.GLOBAL) == "agentdb://global"


async def test_the_first_call_of_an_unknown_workspace_writes_them_too(
    open_with: Opener, sim: asyncpg.Connection, ada: Tenant
) -> None:
    application = await open_with()
    await query(application, ada, "SELECT 1")
    assert await value_of(sim, ada) == "agentdb://agent"
    assert await text_of(sim, ada, Scope.GLOBAL) is None
    await query(application, ada, "SELECT 1", Scope.GLOBAL)
    assert await value_of(sim, ada, Scope.GLOBAL) == "agentdb://global"


async def test_all_other_variables_stay_byte_for_byte(open_with: Opener, sim: asyncpg.Connection, ada: Tenant) -> None:
    await put(sim, ada, ODD)
    application = await open_with()
    await register(application, ada)
    written = await text_of(sim, ada)
    assert written is not None
    assert written.startswith(ODD[:-2] + ',"AGENT_DB_URL":"')
    assert written.endswith('" }')
    await register(application, ada)
    assert await text_of(sim, ada) == written  # not even our own ciphertext changes
    await application.managed().lifecycle.delete_workspace(ada.workspace_id or "")
    assert await text_of(sim, ada) == ODD


@pytest.mark.parametrize(
    "own", [sealed(OWN), OWN, sealed("{{MY_DATABASE}}"), sealed(OWN, "ab" * 32)], ids=["sealed", "plain", "name", "key"]
)
async def test_what_a_user_put_there_is_never_overwritten_nor_removed(
    open_with: Opener, sim: asyncpg.Connection, ada: Tenant, own: str
) -> None:
    text = json.dumps({"AGENT_DB_URL": own})
    await put(sim, ada, text)
    application = await open_with()
    await register(application, ada)
    await follow_variables(application)
    await application.managed().lifecycle.delete_workspace(ada.workspace_id or "")
    assert await text_of(sim, ada) == text


async def test_a_variable_that_sim_changes_at_the_same_time_is_not_lost(
    open_with: Opener, sim: asyncpg.Connection, ada: Tenant
) -> None:
    """Sim reads, merges and writes under its lock; we come in between."""
    application = await open_with()
    await put(sim, ada, "{}")
    async with anyio.create_task_group() as group, sim.transaction():
        await sim.execute("SELECT pg_advisory_xact_lock(hashtextextended($1, 0))", ada.workspace_id)
        group.start_soon(query, application, ada, "SELECT 1")
        waiting = "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND NOT granted"
        with anyio.fail_after(30):
            while not await sim.fetchval(waiting):
                await anyio.sleep(0.02)
        await put(sim, ada, '{"SIMS": "x"}')
    written = json.loads(await text_of(sim, ada) or "")
    assert list(written) == ["SIMS", "AGENT_DB_URL"]


async def test_many_first_calls_at_once_write_one_variable(
    open_with: Opener, sim: asyncpg.Connection, ada: Tenant, by_token: dict[str, str]
) -> None:
    applications = [await open_with(**by_token) for _ in range(2)]
    async with anyio.create_task_group() as group:
        for application in applications * 3:
            group.start_soon(query, application, ada, "SELECT 1")
    assert await whose(applications[0], await value_of(sim, ada) or "") == ada
    valid = "SELECT count(*) FROM agentdb_token WHERE user_id = $1 AND revoked_at IS NULL"
    assert await sim.fetchval(valid, ada.user_id) == 1


async def test_a_lock_that_is_kept_fails_the_creation_and_not_a_call(
    open_with: Opener, sim: asyncpg.Connection, ada: Tenant, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("agentdb_mcp.store.sim_variables.LOCK_TIMEOUT", "100ms")
    application = await open_with()
    async with sim.transaction():
        await sim.execute("SELECT pg_advisory_xact_lock(hashtextextended($1, 0))", ada.workspace_id)
        with pytest.raises(DatabaseUnavailable) as failed:
            await application.managed().lifecycle.create_workspace(ada.workspace_id or "", ada.user_id or "", "Desk")
        assert failed.value.retryable
        assert await query(application, ada, "SELECT 1") == [[1]]
    assert await text_of(sim, ada) is None
    await follow_variables(application)
    assert await value_of(sim, ada) == "agentdb://agent"


async def test_a_failed_creation_undoes_its_variable_and_its_token(
    open_with: Opener, sim: asyncpg.Connection, ada: Tenant, by_token: dict[str, str]
) -> None:
    await put(sim, ada, ODD)
    lifecycle = (await open_with(NEON_API_KEY="napi_wrong", **by_token)).managed().lifecycle
    for create in (
        lifecycle.create_user(ada.user_id or ""),
        lifecycle.create_workspace(ada.workspace_id or "", ada.user_id or "", "Desk"),
    ):
        with pytest.raises(AgentDBError):
            await create
    assert await text_of(sim, ada) == ODD
    assert await text_of(sim, ada, Scope.GLOBAL) == "{}"
    tokens = await sim.fetch("SELECT revoked_at FROM agentdb_token WHERE user_id = $1", ada.user_id)
    assert [row["revoked_at"] is not None for row in tokens] == [True, True]


async def test_without_sims_key_nothing_is_written_and_doctor_says_so(
    open_with: Opener, sim: asyncpg.Connection, ada: Tenant
) -> None:
    application = await open_with(ENCRYPTION_KEY="")
    await register(application, ada)
    await follow_variables(application)
    assert (await text_of(sim, ada), await text_of(sim, ada, Scope.GLOBAL)) == (None, None)
    found = {finding.check: finding async for finding in examine(application)}["sim variables"]
    assert found.ok is False
    assert "ENCRYPTION_KEY is missing" in found.message


async def test_doctor_tells_a_key_that_is_not_sims(open_with: Opener, sim: asyncpg.Connection, ada: Tenant) -> None:
    await sim.execute("DELETE FROM environment")
    await sim.execute("DELETE FROM workspace_environment")
    await put(sim, ada, json.dumps({"OTHER": sealed("x")}))
    for key, ok in ((SIM_KEY, True), ("ab" * 32, False)):
        findings = [finding async for finding in examine(await open_with(ENCRYPTION_KEY=key))]
        assert [finding.ok for finding in findings if finding.check == "sim variables"] == [ok]


async def test_a_token_in_the_variables_is_bound_to_its_user_and_workspace(
    open_with: Opener, sim: asyncpg.Connection, ada: Tenant, by_token: dict[str, str]
) -> None:
    application = await open_with(**by_token)
    await register(application, ada)
    agent, of_user = await value_of(sim, ada) or "", await value_of(sim, ada, Scope.GLOBAL) or ""
    assert "postgres" not in agent + of_user
    assert await whose(application, agent) == ada
    assert await whose(application, of_user) == Tenant(ada.user_id, None)
    identity = await application.managed().tokens.authenticate(agent)
    assert identity.scopes == {TokenScope.MCP}
    assert await query(application, ada, "SELECT 1") == [[1]]
    await application.managed().lifecycle.delete_workspace(ada.workspace_id or "")
    assert await text_of(sim, ada) == "{}"
    with pytest.raises(NotAuthenticated):
        await whose(application, agent)


async def test_a_token_is_renewed_when_half_of_its_time_is_over(
    open_with: Opener, sim: asyncpg.Connection, ada: Tenant, by_token: dict[str, str]
) -> None:
    await register(await open_with(**by_token), ada)
    first = await value_of(sim, ada)
    for days, changed in ((44, False), (46, True)):
        later = await open_with(lambda days=days: utc_now() + timedelta(days=days), **by_token)  # type: ignore[misc]
        await follow_variables(later)
        assert (await value_of(sim, ada) != first) is changed
    assert await whose(later, await value_of(sim, ada) or "") == ada
    with pytest.raises(NotAuthenticated):
        await whose(later, first or "")


async def test_a_changed_policy_replaces_what_the_other_one_wrote(
    open_with: Opener, sim: asyncpg.Connection, ada: Tenant, by_token: dict[str, str]
) -> None:
    with_tokens, with_references = await open_with(**by_token), await open_with()
    await register(with_references, ada)
    await follow_variables(with_tokens)
    token = await value_of(sim, ada) or ""
    assert await whose(with_tokens, token) == ada
    await follow_variables(with_references)
    assert await value_of(sim, ada) == "agentdb://agent"
    with pytest.raises(NotAuthenticated):
        await whose(with_tokens, token)


async def test_a_fork_with_copied_references_gets_a_database_of_its_own(
    open_with: Opener, sim: asyncpg.Connection, ada: Tenant
) -> None:
    application = await open_with()
    await register(application, ada)
    await query(application, ada, "CREATE TABLE of_the_parent (n int)")
    fork = Tenant(ada.user_id, await make_workspace(sim, ada.user_id or "", ada.workspace_id))
    await copy_variables(sim, ada, fork)
    assert await query(application, fork, "SELECT to_regclass('of_the_parent')") == [[None]]
    await query(application, fork, "CREATE TABLE of_the_fork (n int)")
    assert await query(application, ada, "SELECT to_regclass('of_the_fork')") == [[None]]


async def test_a_copied_token_is_not_honoured_by_us_and_the_job_replaces_it(
    open_with: Opener, sim: asyncpg.Connection, ada: Tenant, by_token: dict[str, str]
) -> None:
    application = await open_with(**by_token)
    await register(application, ada)
    await query(application, ada, "CREATE TABLE of_the_parent (n int)")
    parents = await value_of(sim, ada) or ""
    bob = await sign_up(sim)
    fork = Tenant(bob, await make_workspace(sim, bob, ada.workspace_id))
    await copy_variables(sim, ada, fork)
    await follow_variables(application)  # before anybody used the fork
    own = await value_of(sim, fork) or ""
    assert await whose(application, own) == fork
    assert (await value_of(sim, ada), await whose(application, parents)) == (parents, ada)
    await copy_variables(sim, ada, fork)
    assert await query(application, fork, "SELECT to_regclass('of_the_parent')") == [[None]]
    assert await whose(application, await value_of(sim, fork) or "") == fork


async def test_a_new_owner_gets_a_token_and_the_old_owners_one_ends(
    open_with: Opener, sim: asyncpg.Connection, ada: Tenant, by_token: dict[str, str]
) -> None:
    application = await open_with(**by_token)
    await register(application, ada)
    old = await value_of(sim, ada) or ""
    bob = Tenant(await sign_up(sim), ada.workspace_id)
    await sim.execute("UPDATE workspace SET owner_id = $1 WHERE id = $2", bob.user_id, bob.workspace_id)
    await follow_variables(application)
    assert await whose(application, await value_of(sim, bob) or "") == bob
    with pytest.raises(NotAuthenticated):
        await whose(application, old)


async def test_a_workspace_is_not_created_for_an_archived_one(
    open_with: Opener, sim: asyncpg.Connection, ada: Tenant
) -> None:
    application = await open_with()
    await sim.execute("UPDATE workspace SET archived_at = now() WHERE id = $1", ada.workspace_id)
    with pytest.raises(NotAllowed, match="archived"):
        await register(application, ada)
    with pytest.raises(NotAllowed, match="archived") as refused:
        await query(application, ada, "SELECT 1")
    assert refused.value.hint
    assert await sim.fetchval("SELECT count(*) FROM workspace_database WHERE workspace_id = $1", ada.workspace_id) == 0
    assert await text_of(sim, ada) is None


async def test_deleting_a_user_whom_sim_still_has_keeps_the_workspaces_that_sim_may_hand_over(
    open_with: Opener, sim: asyncpg.Connection, ada: Tenant
) -> None:
    """Whichever comes first, Sim's own deletion or ours."""
    application = await open_with()
    await register(application, ada)
    await query(application, ada, "CREATE TABLE kept (n int)")
    lifecycle = application.managed().lifecycle
    assert await lifecycle.begin_to_delete_user(ada.user_id or "")
    await lifecycle.delete_user(ada.user_id or "")
    assert not await lifecycle.begin_to_delete_user(ada.user_id or "")
    assert await text_of(sim, ada, Scope.GLOBAL) == "{}"
    bob = Tenant(await sign_up(sim), ada.workspace_id)
    await sim.execute(
        "UPDATE workspace SET owner_id = $1, billed_account_user_id = $1 WHERE id = $2", bob.user_id, bob.workspace_id
    )
    await sim.execute('DELETE FROM "user" WHERE id = $1', ada.user_id)
    await follow_owners(application)
    payer = "SELECT user_id FROM workspace_database WHERE workspace_id = $1"
    assert await sim.fetchval(payer, bob.workspace_id) == bob.user_id
    assert await query(application, bob, "SELECT count(*) FROM kept") == [[0]]


async def test_a_user_whom_the_platform_deleted_first_still_has_a_database_to_be_deleted(
    open_with: Opener, sim: asyncpg.Connection
) -> None:
    lifecycle = (await open_with()).managed().lifecycle
    user_id = await sign_up(sim)
    await lifecycle.create_user(user_id)
    await sim.execute('DELETE FROM "user" WHERE id = $1', user_id)
    assert await lifecycle.begin_to_delete_user(user_id)
    await lifecycle.delete_user(user_id)
    assert not await lifecycle.begin_to_delete_user(user_id)
    status = "SELECT status FROM user_global_database WHERE project_name = $1"
    assert await sim.fetchval(status, f"global-{user_id}") == "deleted"
