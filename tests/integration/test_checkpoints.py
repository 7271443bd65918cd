"""Checkpoints through the services: made, counted for the budget, gone back to, refused in words."""

from __future__ import annotations

import contextlib
import secrets
from collections.abc import AsyncIterator
from pathlib import Path

import anyio
import asyncpg
import pytest

from agentdb_mcp.bootstrap import Application, open_application
from agentdb_mcp.embedded import EmbeddedPostgres
from agentdb_mcp.errors import AgentDBError, BudgetExceeded, InvalidArgument, NotAllowed, SqlError
from agentdb_mcp.execution import Statement
from agentdb_mcp.local_stack import LocalStack
from agentdb_mcp.models import Scope, Tenant
from agentdb_mcp.services import Checkpoints
from agentdb_mcp.settings import load_settings
from agentdb_mcp.store.control import create_database

OURS = Scope.AGENT


@pytest.fixture(scope="module", params=["neon", pytest.param("cluster", marks=pytest.mark.long)])
async def environ(request: pytest.FixtureRequest, stack: LocalStack) -> dict[str, str]:
    """A control database for each provider, and a policy that allows two checkpoints."""
    name = f"control_{secrets.token_hex(6)}"
    await create_database(stack.postgres.uri(), name)
    environ = stack.environ() | {"AGENTDB_CONTROL_URL": stack.postgres.uri(name).reveal()}
    if request.param == "cluster":
        environ = {key: value for key, value in environ.items() if not key.startswith("NEON_")}
        environ["AGENTDB_PROVIDER_URL"] = stack.postgres.uri().reveal()
    return environ


@pytest.fixture(scope="module")
async def application(environ: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Application]:
    policy = tmp_path_factory.mktemp("policy") / "two.toml"
    policy.write_text('name = "two"\n[checkpoints]\nmax_per_database = 2\n')
    async with open_application(load_settings(environ | {"AGENTDB_POLICY": str(policy)})) as application:
        yield application


@pytest.fixture
def checkpoints(application: Application) -> Checkpoints:
    return application.managed().checkpoints


@pytest.fixture
async def tenant(application: Application) -> Tenant:
    tenant = Tenant(f"u{secrets.token_hex(4)}", f"w{secrets.token_hex(4)}")
    await run(application, tenant, "CREATE TABLE note (text text)")
    await run(application, tenant, "INSERT INTO note VALUES ('before')")
    return tenant


async def run(application: Application, tenant: Tenant, sql: str) -> list[list[object]]:
    return (await application.queries.execute(tenant, OURS, [Statement(sql)])).results[0].rows


async def test_what_was_written_after_a_checkpoint_is_gone_after_its_restore(
    application: Application, checkpoints: Checkpoints, tenant: Tenant
) -> None:
    made, overview = await checkpoints.create(tenant, OURS, "first")
    assert [each.checkpoint for each in overview.kept] == [made.checkpoint]
    await run(application, tenant, "UPDATE note SET text = 'after'")
    await run(application, tenant, "CREATE TYPE later AS ENUM ('a')")
    await run(application, tenant, "SELECT 'a'::later")
    await application.managed().audit.flush()
    loss = await checkpoints.look_before_restore(tenant, OURS, "first")
    assert loss.writing_calls >= 2  # Neon tells its moment to the second
    assert await run(application, tenant, "SELECT text FROM note") == [["after"]]
    await checkpoints.restore(tenant, OURS, made.checkpoint.id)
    assert await run(application, tenant, "SELECT text FROM note") == [["before"]]
    await run(application, tenant, "INSERT INTO note VALUES ('new')")
    await run(application, tenant, "CREATE TYPE other AS (x integer)")
    assert await run(application, tenant, "SELECT ROW(7)::other") == [["(7)"]]


async def test_a_running_statement_ends_with_a_restore_and_other_processes_go_on(
    application: Application, checkpoints: Checkpoints, environ: dict[str, str], tenant: Tenant, tmp_path: Path
) -> None:
    made, _ = await checkpoints.create(tenant, OURS)
    (tmp_path / "patient.toml").write_text('name = "patient"\n[limits]\ntimeout_s = 120.0\n')
    patient = environ | {"AGENTDB_POLICY": str(tmp_path / "patient.toml")}
    async with open_application(load_settings(patient)) as other:
        assert await run(other, tenant, "SELECT text FROM note") == [["before"]]
        await run(application, tenant, "UPDATE note SET text = 'after'")
        ended: list[AgentDBError] = []

        async def wait() -> None:
            with pytest.raises(AgentDBError) as failed:
                await run(other, tenant, "SELECT pg_sleep(100)")
            ended.append(failed.value)

        async with anyio.create_task_group() as group:
            group.start_soon(wait)
            await _busy(environ, "pg_sleep(100)")
            await checkpoints.restore(tenant, OURS, made.checkpoint.id)
        assert [error.code for error in ended] == ["database_unavailable"]
        assert await run(other, tenant, "SELECT text FROM note") == [["before"]]


async def _busy(environ: dict[str, str], text: str) -> None:
    control = await asyncpg.connect(environ["AGENTDB_CONTROL_URL"])
    try:
        with anyio.fail_after(60):
            while not await control.fetchval(
                "SELECT true FROM pg_stat_activity WHERE query LIKE '%' || $1 || '%' AND state = 'active'"
                " AND pid <> pg_backend_pid()",
                text,
            ):
                await anyio.sleep(0.02)
    finally:
        await control.close()


async def test_checkpoints_are_stored_data_that_the_budget_counts(
    application: Application, checkpoints: Checkpoints, tenant: Tenant
) -> None:
    usage = application.managed().usage
    before = await _size(application, tenant)
    made, overview = await checkpoints.create(tenant, OURS, "one")
    assert made.month_microcents > 0
    assert overview.month_microcents == made.month_microcents
    assert abs(overview.size_bytes - before) < before / 4
    loss = await checkpoints.look_before_restore(tenant, OURS, "one")
    assert abs(loss.size_bytes - before) < before / 4
    await usage.budgets.flush()
    held = await _size(application, tenant)
    assert held - before >= made.checkpoint.size_bytes * 0.9
    await checkpoints.delete(tenant, OURS, "one")
    await usage.budgets.flush()
    assert abs(await _size(application, tenant) - before) < made.checkpoint.size_bytes / 2


async def _size(application: Application, tenant: Tenant) -> int:
    (bill,) = await application.managed().usage.budgets.refresh([tenant.user_id or ""])
    return max(usage.size_bytes for usage, _ in bill.by_database)


async def test_policy_bounds_how_many_there_are_and_names_are_given_once(
    checkpoints: Checkpoints, tenant: Tenant
) -> None:
    await checkpoints.create(tenant, OURS, "a")
    with pytest.raises(InvalidArgument, match="already"):
        await checkpoints.create(tenant, OURS, "a")
    await checkpoints.create(tenant, OURS, "b")
    with pytest.raises(NotAllowed, match="policy allows 2") as refused:
        await checkpoints.create(tenant, OURS, "c")
    assert "delete_checkpoint" in (refused.value.hint or "")
    await checkpoints.delete(tenant, OURS, "a")
    await checkpoints.create(tenant, OURS, "c")
    assert [each.checkpoint.name for each in (await checkpoints.overview(tenant, OURS)).kept] == ["b", "c"]
    for wanted in ("a", "cp-none", "'; DROP"):
        with pytest.raises(InvalidArgument, match="no checkpoint"):
            await checkpoints.restore(tenant, OURS, wanted)


async def test_two_that_keep_at_once_make_two_and_no_more_than_policy_allows(
    checkpoints: Checkpoints, tenant: Tenant
) -> None:
    refused: list[AgentDBError] = []

    async def keep(name: str) -> None:
        try:
            await checkpoints.create(tenant, OURS, name)
        except AgentDBError as error:
            refused.append(error)

    async with anyio.create_task_group() as group:
        for name in ("a", "b", "c"):
            group.start_soon(keep, name)
    assert [error.code for error in refused] == ["not_allowed"]
    assert len((await checkpoints.overview(tenant, OURS)).kept) == 2


async def test_an_exceeded_budget_refuses_all_but_listing_and_deleting(
    application: Application, checkpoints: Checkpoints, tenant: Tenant
) -> None:
    made, _ = await checkpoints.create(tenant, OURS, "kept")
    await application.managed().usage.set_tier(tenant.user_id or "", "free", custom_budget_cents=0)
    for call in (
        lambda: checkpoints.create(tenant, OURS, "more"),
        lambda: checkpoints.restore(tenant, OURS, made.checkpoint.id),
    ):
        with pytest.raises(BudgetExceeded) as refused:
            await call()
        assert "budget" in refused.value.message
    assert [each.checkpoint.id for each in (await checkpoints.overview(tenant, OURS)).kept] == [made.checkpoint.id]
    await checkpoints.delete(tenant, OURS, made.checkpoint.id)
    assert (await checkpoints.overview(tenant, OURS)).kept == ()


async def test_what_policy_forbids_is_refused_in_words(
    environ: dict[str, str], tenant: Tenant, tmp_path_factory: pytest.TempPathFactory
) -> None:
    for text, message in (
        ("[checkpoints]\nenabled = false\n", "no checkpoints"),
        ('[access]\nmode = "restricted"\n', "read-only"),
    ):
        policy = tmp_path_factory.mktemp("policy") / "own.toml"
        policy.write_text(f'name = "own"\n{text}')
        async with open_application(load_settings(environ | {"AGENTDB_POLICY": str(policy)})) as application:
            checkpoints = application.managed().checkpoints
            with pytest.raises(NotAllowed, match=message):
                await checkpoints.create(tenant, OURS)
            assert (await checkpoints.overview(tenant, OURS)).kept == ()


async def test_read_only_access_takes_no_checkpoint_away(
    checkpoints: Checkpoints, environ: dict[str, str], tenant: Tenant, tmp_path_factory: pytest.TempPathFactory
) -> None:
    made, _ = await checkpoints.create(tenant, OURS)
    policy = tmp_path_factory.mktemp("policy") / "read.toml"
    policy.write_text('name = "read"\n[access]\nmode = "restricted"\n')
    async with open_application(load_settings(environ | {"AGENTDB_POLICY": str(policy)})) as application:
        reading = application.managed().checkpoints
        for call in (reading.delete, reading.restore):
            with pytest.raises(NotAllowed, match="read-only") as refused:
                await call(tenant, OURS, made.checkpoint.id)
            assert refused.value.hint
    assert [each.checkpoint.id for each in (await checkpoints.overview(tenant, OURS)).kept] == [made.checkpoint.id]


async def test_a_whole_copy_of_a_large_database_is_refused(
    environ: dict[str, str], tenant: Tenant, tmp_path_factory: pytest.TempPathFactory
) -> None:
    policy = tmp_path_factory.mktemp("policy") / "small.toml"
    policy.write_text('name = "small"\n[checkpoints]\nmax_copy_bytes = 1000\n')
    async with open_application(load_settings(environ | {"AGENTDB_POLICY": str(policy)})) as application:
        if "NEON_API_KEY" in environ:
            await application.managed().checkpoints.create(tenant, OURS)
            return
        with pytest.raises(NotAllowed, match="1,000"):
            await application.managed().checkpoints.create(tenant, OURS)


async def test_a_database_that_was_brought_has_none(environ: dict[str, str], postgres: EmbeddedPostgres) -> None:
    brought = environ | {"AGENT_DB_URL": postgres.uri().reveal()}
    async with open_application(load_settings(brought)) as application:
        tenant = Tenant(f"u{secrets.token_hex(4)}", "w")
        with pytest.raises(NotAllowed, match="brought by its URL") as refused:
            await application.managed().checkpoints.overview(tenant, OURS)
        assert refused.value.hint


async def test_the_sealed_role_is_as_sealed_as_before_after_a_restore(
    application: Application, checkpoints: Checkpoints, stack: LocalStack, tenant: Tenant
) -> None:
    """An owner that could log in would give itself a password and walk around us."""
    made, _ = await checkpoints.create(tenant, OURS)
    await checkpoints.restore(tenant, OURS, made.checkpoint.id)
    database, role = (await run(application, tenant, "SELECT current_database(), current_user"))[0]
    for attack in ("PASSWORD ''known''", "LOGIN", "CONNECTION LIMIT -1", "CREATEROLE", "SUPERUSER"):
        with contextlib.suppress(SqlError):
            await run(application, tenant, f"DO $$BEGIN EXECUTE 'ALTER ROLE CURRENT_USER {attack}'; END$$")
    with pytest.raises(asyncpg.PostgresError):
        await asyncpg.connect(f"postgresql://{role}:known@127.0.0.1:{stack.postgres.port}/{database}")
    superuser = await asyncpg.connect(stack.postgres.uri(str(database)).reveal())
    try:
        attributes = await superuser.fetchrow(
            "SELECT rolcanlogin, rolcreaterole, rolsuper, rolinherit FROM pg_roles WHERE rolname = $1", role
        )
        assert list(attributes.values()) == [False] * 4
        granted = "SELECT count(*) FROM pg_database, aclexplode(datacl) WHERE datname = $1 AND grantee = 0"
        assert await superuser.fetchval(granted, database) == 0
        assert not await superuser.fetchval("SELECT has_table_privilege($1, 'agentdb.session', 'SELECT')", role)
        owner = "SELECT pg_has_role($1::name, datdba, 'USAGE') FROM pg_database WHERE datname = $2"
        assert not await superuser.fetchval(owner, role, database)
        kept = await superuser.fetch(
            "SELECT datname FROM pg_database WHERE datallowconn AND has_database_privilege($1::name, oid, 'CONNECT')",
            role,
        )
        assert [row["datname"] for row in kept] == [database]
    finally:
        await superuser.close()


async def test_the_audit_log_has_every_call(application: Application, checkpoints: Checkpoints, tenant: Tenant) -> None:
    made, _ = await checkpoints.create(tenant, OURS)
    await checkpoints.overview(tenant, OURS)
    await checkpoints.restore(tenant, OURS, made.checkpoint.id)
    audit = application.managed().audit
    await audit.flush()
    entries = await audit.entries(tenant.user_id or "", limit=3)
    assert [entry.kinds for entry in entries] == [("server",), ("read",), ("server",)]
    assert len({entry.database_id for entry in entries}) == 1
    assert entries[0].database_id is not None
