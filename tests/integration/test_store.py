"""The control database's tables: claims and fences, who exists, budgets, and what goes wrong on the way in."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import re
import secrets
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from typing import Any
from urllib.parse import urlsplit

import anyio
import asyncpg
import pytest

from agentdb_mcp.embedded import EmbeddedPostgres
from agentdb_mcp.errors import AgentDBError, DatabaseUnavailable, InvalidArgument, NotAllowed, ProvisioningFailed
from agentdb_mcp.models import DatabaseStatus, Scope, Secret, Tenant
from agentdb_mcp.store import (
    BudgetStore,
    Claim,
    ControlDatabase,
    DatabaseRow,
    DatabaseStore,
    IdentityStore,
    SimVariables,
)

BEGINNING = [DatabaseStatus.PENDING, DatabaseStatus.PROVISIONING]
NAME = "agent-w"


@pytest.fixture
async def control(empty_database: Secret) -> AsyncIterator[ControlDatabase]:
    control = ControlDatabase(empty_database)
    yield control
    await control.close()


@pytest.fixture
async def store(control: ControlDatabase) -> DatabaseStore:
    """With a user `u`, a workspace `w` and its declared database."""
    identity = IdentityStore(control)
    await identity.ensure_user("u")
    await identity.ensure_workspace("w", "Notes", "u")
    store = DatabaseStore(control)
    await store.declare(Scope.AGENT, "w", user_id="u", project_name=NAME)
    return store


async def taken(store: DatabaseStore, lease_s: float = 60) -> Claim:
    claim = await store.claim(Scope.AGENT, NAME, BEGINNING, lease_s)
    assert claim is not None
    return claim


async def row_of(store: DatabaseStore) -> DatabaseRow:
    row = await store.find(Scope.AGENT, NAME)
    assert row is not None
    return row


async def end_leases(control: ControlDatabase) -> None:
    async with control.connection() as connection:
        await connection.execute("UPDATE workspace_database SET lease_expires_at = now() - interval '1 second'")


async def test_a_declared_database_is_pending_and_stays_one_row(store: DatabaseStore) -> None:
    await store.declare(Scope.AGENT, "w", user_id="u", project_name=NAME)
    row = await row_of(store)
    assert (row.status, row.generation, row.owner_id, row.user_id) == (DatabaseStatus.PENDING, 1, "w", "u")
    assert [each.id for each in await store.of_user("u")] == [row.id]


async def test_a_database_of_a_workspace_that_nobody_knows_is_not_declared(store: DatabaseStore) -> None:
    with pytest.raises(ProvisioningFailed, match="workspace of this call is not known"):
        await store.declare(Scope.AGENT, "other", user_id="u", project_name="agent-other")
    with pytest.raises(ProvisioningFailed, match="user of this call is not known"):
        await store.declare(Scope.GLOBAL, "nobody", user_id="nobody", project_name="global-nobody")


async def test_of_twelve_that_claim_at_once_one_gets_it(store: DatabaseStore) -> None:
    claims: list[Claim | None] = []

    async def claim() -> None:
        claims.append(await store.claim(Scope.AGENT, NAME, BEGINNING, 60))

    async with anyio.create_task_group() as group:
        for _ in range(12):
            group.start_soon(claim)
    assert sum(claim is not None for claim in claims) == 1
    assert (await row_of(store)).status is DatabaseStatus.PROVISIONING


async def test_a_claim_is_only_for_the_statuses_that_were_named(store: DatabaseStore) -> None:
    assert await store.claim(Scope.AGENT, NAME, [DatabaseStatus.DELETING], 60) is None
    assert await store.claim(Scope.AGENT, "agent-unknown", BEGINNING, 60) is None


async def test_a_claim_whose_lease_ran_out_is_taken_over_with_a_higher_fence(
    control: ControlDatabase, store: DatabaseStore
) -> None:
    old = await taken(store)
    await end_leases(control)
    new = await taken(store)
    assert new.fence > old.fence


@pytest.mark.parametrize("write", ["record_project", "record_ready", "renew", "release", "record_deleted"])
async def test_whoever_was_overtaken_changes_nothing_any_more(
    control: ControlDatabase, store: DatabaseStore, write: str
) -> None:
    old = await taken(store)
    await end_leases(control)
    new = await taken(store)
    await store.record_project(new, "right-project", "br-right")
    before = await row_of(store)
    writes = {
        "record_project": lambda: store.record_project(old, "wrong-project", None),
        "record_ready": lambda: store.record_ready(old, "sealed", "d", "r"),
        "renew": lambda: store.renew(old, 600),
        "release": lambda: store.release(old, "internal"),
        "record_deleted": lambda: store.record_deleted(old),
    }
    with pytest.raises(ProvisioningFailed, match="took over") as refused:
        await writes[write]()
    assert refused.value.retryable
    assert await row_of(store) == before
    assert await store.claim(Scope.AGENT, NAME, BEGINNING, 60) is None


async def test_a_tombstone_overtakes_whoever_makes_the_database(store: DatabaseStore) -> None:
    claim = await taken(store)
    await store.tombstone(claim.row)
    with pytest.raises(ProvisioningFailed):
        await store.record_ready(claim, "sealed", "d", "r")
    assert (await row_of(store)).status is DatabaseStatus.DELETING


async def test_a_lease_that_is_given_back_can_be_taken_at_once(store: DatabaseStore) -> None:
    await store.release(await taken(store), "provisioning_failed")
    await taken(store)


async def test_a_new_generation_starts_only_where_the_old_one_is_gone(store: DatabaseStore) -> None:
    claim = await taken(store)
    await store.record_ready(claim, "sealed", "d", "r")
    await store.declare(Scope.AGENT, "w", user_id="u", project_name=NAME, revive=True)
    assert (await row_of(store)).generation == 1
    await store.tombstone(await row_of(store))
    deleting = await store.claim(Scope.AGENT, NAME, [DatabaseStatus.DELETING], 60)
    assert deleting is not None
    await store.record_deleted(deleting)
    assert await store.of_user("u") == []
    await store.declare(Scope.AGENT, "w", user_id="u", project_name=NAME, revive=True)
    row = await row_of(store)
    assert (row.status, row.generation, row.uri, row.project_id, row.role_name) == (
        DatabaseStatus.PENDING,
        2,
        None,
        None,
        None,
    )
    assert row.id == claim.row.id


async def test_users_and_workspaces_are_made_once(control: ControlDatabase) -> None:
    identity = IdentityStore(control)
    assert [await identity.ensure_user("u"), await identity.ensure_user("u")] == [True, False]
    assert [await identity.ensure_workspace("w", "Notes", "u") for _ in range(2)] == [True, False]
    assert await identity.names_of_workspaces("u") == {"w": "Notes"}
    await identity.require_user("u")
    with pytest.raises(InvalidArgument, match="There is no user nobody"):
        await identity.require_user("nobody")


async def test_a_user_is_made_once_by_many_at_once(control: ControlDatabase) -> None:
    made: list[bool] = []

    async def make() -> None:
        made.append(await IdentityStore(control).ensure_user("u"))

    async with anyio.create_task_group() as group:
        for _ in range(12):
            group.start_soon(make)
    assert sum(made) == 1


async def test_the_workspace_of_another_user_is_refused(control: ControlDatabase) -> None:
    identity = IdentityStore(control)
    await identity.ensure_user("u")
    await identity.ensure_user("other")
    await identity.ensure_workspace("w", "Notes", "u")
    with pytest.raises(NotAllowed, match="another user"):
        await identity.ensure_workspace("w", "Mine now", "other")


async def test_identifiers_are_values_and_never_sql(control: ControlDatabase) -> None:
    identity = IdentityStore(control)
    odd = '\'; DROP TABLE "user"; --  ünï 🙂'
    assert await identity.ensure_user(odd)
    assert await identity.ensure_workspace(odd, odd, odd)
    assert await identity.names_of_workspaces(odd) == {odd: odd}


async def test_a_users_budget_is_made_on_first_sight_and_keeps_its_tier(control: ControlDatabase) -> None:
    await IdentityStore(control).ensure_user("u")
    budgets = BudgetStore(control)
    made = await budgets.ensure("u", "paid")
    assert (made.tier, made.custom_budget_cents) == ("paid", None)
    assert abs(made.anchor - datetime.now(UTC)) < timedelta(minutes=1)
    assert await budgets.ensure("u", "free") == made
    await budgets.set_tier("u", "enterprise", 12_345)
    changed = await budgets.ensure("u")
    assert (changed.tier, changed.custom_budget_cents) == ("enterprise", 12_345)


async def test_a_new_period_counts_from_its_own_beginning(control: ControlDatabase) -> None:
    await IdentityStore(control).ensure_user("u")
    budgets = BudgetStore(control)
    before = await budgets.ensure("u")
    await budgets.reset_period("u", before.anchor + timedelta(days=3))
    assert (await budgets.ensure("u")).anchor == before.anchor + timedelta(days=3)


async def test_sims_variables_are_looked_for_only_where_sims_tables_are(control: ControlDatabase) -> None:
    assert await SimVariables(control).find(Tenant("u", "w"), Scope.AGENT) == []


async def refusal(uri: str) -> AgentDBError:
    control = ControlDatabase(Secret(uri))
    try:
        with pytest.raises(DatabaseUnavailable) as refused:
            async with control.connection():
                pytest.fail("connected")
    finally:
        await control.close()
    parts = urlsplit(uri)
    said = f"{refused.value} {refused.value.hint}"
    assert not [
        secret for secret in (parts.password, parts.username, parts.hostname, str(parts.port)) if secret in said
    ]
    return refused.value


async def test_a_control_database_that_refuses_the_login_is_told_so(postgres: EmbeddedPostgres) -> None:
    wrong = re.sub(r":[^:@]+@", ":wrong-password@", postgres.uri().reveal())
    assert "refused the login" in (await refusal(wrong)).message


async def test_a_control_database_that_does_not_exist_is_told_so(postgres: EmbeddedPostgres) -> None:
    missing = postgres.uri(f"missing_{secrets.token_hex(4)}").reveal()
    assert "does not exist" in (await refusal(missing)).message


async def test_a_control_database_that_nobody_answers_for_is_told_so() -> None:
    async with await anyio.create_tcp_listener(local_host="127.0.0.1") as listener:
        port = listener.extra(anyio.abc.SocketAttribute.local_port)
    assert "cannot be reached" in (await refusal(f"postgresql://ada:lovelace@127.0.0.1:{port}/control")).message


async def test_a_control_database_without_a_free_connection_is_told_so(
    superuser: asyncpg.Connection, empty_database: Secret
) -> None:
    role = f"crowd_{secrets.token_hex(4)}"
    await superuser.execute(f"CREATE ROLE {role} LOGIN CONNECTION LIMIT 0 PASSWORD 'correct-horse'")
    try:
        await refusal(re.sub("//.*@", f"//{role}:correct-horse@", empty_database.reveal()))
    finally:
        await superuser.execute(f"DROP ROLE {role}")


async def test_a_connection_that_ends_while_it_is_used_is_an_unavailable_database(
    superuser: asyncpg.Connection, control: ControlDatabase
) -> None:
    errors: list[AgentDBError] = []

    async def use(task_status: anyio.abc.TaskStatus[int]) -> None:
        try:
            async with control.connection() as connection:
                task_status.started(connection.get_server_pid())
                await connection.fetchval("SELECT pg_sleep(20)")
        except AgentDBError as error:
            errors.append(error)

    async with anyio.create_task_group() as group:
        pid = await group.start(use)
        await superuser.fetchval("SELECT pg_terminate_backend($1, 3000)", pid)
    assert [type(error) for error in errors] == [DatabaseUnavailable]


async def test_connections_that_died_while_idle_are_replaced(
    superuser: asyncpg.Connection, control: ControlDatabase
) -> None:
    async with control.connection() as connection:
        pid = connection.get_server_pid()
    await superuser.fetchval("SELECT pg_terminate_backend($1, 3000)", pid)
    async with control.connection() as connection:
        assert await connection.fetchval("SELECT 1") == 1


async def test_a_transaction_that_is_cancelled_at_any_moment_leaves_nothing_behind(
    empty_database: Secret, caplog: pytest.LogCaptureFixture
) -> None:
    # The driver's attempt at TLS complains when it is cancelled.
    control = ControlDatabase(Secret(f"{empty_database.reveal()}?sslmode=disable"))
    async with control.connection() as connection:
        await connection.execute("CREATE TABLE kept (n int)")
    for tenths_ms in range(40):
        with anyio.move_on_after(tenths_ms / 10_000):
            async with control.transaction() as connection:
                await connection.execute("INSERT INTO kept VALUES (1)")
                await connection.execute("INSERT INTO kept VALUES (2)")
    async with control.connection() as connection:
        assert not connection.is_in_transaction()
        halves = await connection.fetchval(
            "SELECT count(*) FILTER (WHERE n = 1) - count(*) FILTER (WHERE n = 2) FROM kept"
        )
    assert halves == 0
    await control.close()
    assert "active transaction" not in caplog.text


async def test_a_call_cancelled_at_any_moment_before_the_end_leaves_no_complaint(empty_database: Secret) -> None:
    complaints: list[dict[str, Any]] = []
    asyncio.get_running_loop().set_exception_handler(lambda _loop, context: complaints.append(context))

    async def ask(control: ControlDatabase) -> None:
        with contextlib.suppress(DatabaseUnavailable):
            async with control.connection() as connection:
                await connection.execute("SELECT 1")

    for steps in range(60):
        control = ControlDatabase(empty_database, migrate=False)
        await ask(control)
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(ask, control)
            for _ in range(steps):
                await anyio.lowlevel.checkpoint()
            tasks.cancel_scope.cancel()
            await control.close()
    gc.collect()
    assert complaints == []


async def test_two_changes_that_wait_for_each_other_end_as_an_error_to_try_again(control: ControlDatabase) -> None:
    identity = IdentityStore(control)
    for user in ("a", "b"):
        await identity.ensure_user(user)
    errors: list[AgentDBError] = []
    met = {"a": anyio.Event(), "b": anyio.Event()}

    async def change(first: str, second: str) -> None:
        lock = 'SELECT FROM "user" WHERE id = $1 FOR UPDATE'
        try:
            async with control.transaction() as connection:
                await connection.execute(lock, first)
                met[first].set()
                await met[second].wait()
                await connection.execute(lock, second)
        except AgentDBError as error:
            errors.append(error)

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(change, "a", "b")
        tasks.start_soon(change, "b", "a")
    [error] = errors
    assert error.retryable
    assert "undone" in error.message
