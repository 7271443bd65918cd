"""Our tables inside Sim Studio's own database: beside its tables, which stay as they are, through a whole life.

The tables of tests/sim_tables.sql stand for Sim's. `AGENTDB_SIM_CHECKOUT` names a checkout of Sim (packages/db in it is
enough): then its own migrations are applied instead, too, and both are compared.
"""

from __future__ import annotations

import json
import os
import re
import secrets
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import asyncpg
import pytest

from agentdb_mcp.bootstrap import Application, open_application
from agentdb_mcp.credentials.cipher import Cipher
from agentdb_mcp.errors import NotAllowed
from agentdb_mcp.execution import Statement
from agentdb_mcp.jobs.table import follow_owners, follow_variables, reconcile
from agentdb_mcp.local_stack import LocalStack, local_stack
from agentdb_mcp.models import DatabaseStatus, Scope, Secret, Tenant
from agentdb_mcp.settings import load_settings
from agentdb_mcp.store import migrations
from definitions import Definitions, all_definitions

SHAPES = Path(__file__).parents[1] / "sim_tables.sql"
GUIDE = Path(__file__).parents[2] / "docs" / "sim.md"
CHECKOUT = os.environ.get("AGENTDB_SIM_CHECKOUT")
SIM_KEY = "5e" * 32
needs_checkout = pytest.mark.skipif(CHECKOUT is None, reason="AGENTDB_SIM_CHECKOUT names no checkout of Sim Studio")
OURS = ("agentdb_", "db_audit_", "db_usage_ledger", "user_db_budget", "user_global_database", "workspace_database")


async def apply_sims_migrations(connection: asyncpg.Connection, folder: Path) -> None:
    """In the journal's order and all in one transaction, which some of the files end themselves."""
    journal = json.loads((folder / "meta" / "_journal.json").read_text("utf-8"))
    await connection.execute("BEGIN")
    for entry in sorted(journal["entries"], key=lambda entry: int(entry["idx"])):
        for statement in (folder / f"{entry['tag']}.sql").read_text("utf-8").split("--> statement-breakpoint"):
            if statement.strip():
                await connection.execute(statement)
    if connection.is_in_transaction():
        await connection.execute("COMMIT")


async def make_sims_tables(connection: asyncpg.Connection, kind: str) -> None:
    if kind == "checkout":
        assert CHECKOUT is not None
        await apply_sims_migrations(connection, Path(CHECKOUT) / "packages" / "db" / "migrations")
    else:
        await connection.execute(SHAPES.read_text("utf-8"))


@asynccontextmanager
async def database_of(stack: LocalStack, kind: str) -> AsyncIterator[tuple[Secret, asyncpg.Connection]]:
    admin = await asyncpg.connect(stack.postgres.uri().reveal())
    name = f"sim_{secrets.token_hex(6)}"
    await admin.execute(f"CREATE DATABASE {name}")
    await admin.close()
    connection = await asyncpg.connect(stack.postgres.uri(name).reveal())
    try:
        await make_sims_tables(connection, kind)
        yield stack.postgres.uri(name), connection
    finally:
        await connection.close()


@pytest.fixture(scope="module")
async def stack(anyio_backend: str) -> AsyncIterator[LocalStack]:
    async with local_stack() as running:
        yield running


@pytest.fixture(params=["shapes", pytest.param("checkout", marks=needs_checkout)])
async def sim(request: pytest.FixtureRequest, stack: LocalStack) -> AsyncIterator[tuple[Secret, asyncpg.Connection]]:
    async with database_of(stack, request.param) as database:
        yield database


@pytest.fixture
async def application(
    stack: LocalStack, sim: tuple[Secret, asyncpg.Connection], monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[Application]:
    """Nothing is kept in memory between calls: each looks at Sim's tables."""
    monkeypatch.setattr("agentdb_mcp.services.databases.FRESH_S", 0.0)
    environ = stack.environ() | {"AGENTDB_CONTROL_URL": sim[0].reveal(), "ENCRYPTION_KEY": SIM_KEY}
    async with open_application(load_settings(environ)) as application:
        yield application


async def definitions(connection: asyncpg.Connection) -> Definitions:
    """All that is not ours."""
    return {
        name: [row for row in rows if not str(row[1 if name == "other" else 0]).startswith(OURS)]
        for name, rows in (await all_definitions(connection)).items()
    }


async def sign_up(connection: asyncpg.Connection, *user_ids: str) -> None:
    for user_id in user_ids:
        await connection.execute(
            'INSERT INTO "user" (id, name, email, email_verified, created_at, updated_at)'
            " VALUES ($1, $1, $1 || '@example.org', true, now(), now())",
            user_id,
        )


async def make_workspace(connection: asyncpg.Connection, workspace_id: str, owner: str, billed: str) -> None:
    await connection.execute(
        "INSERT INTO workspace (id, name, owner_id, billed_account_user_id) VALUES ($1, $1, $2, $3)",
        workspace_id,
        owner,
        billed,
    )


async def query(application: Application, tenant: Tenant, sql: str, scope: Scope = Scope.AGENT) -> list[list[object]]:
    return (await application.queries.execute(tenant, scope, [Statement(sql)])).results[0].rows


async def projects(application: Application) -> set[str]:
    provider = application.managed().provider
    assert provider is not None
    return {project.name for prefix in ("agent-", "global-") for project in await provider.projects(prefix)}


async def test_our_migrations_add_our_tables_and_change_none_of_sims(sim: tuple[Secret, asyncpg.Connection]) -> None:
    _, connection = sim
    before = await definitions(connection)
    assert before["tables"]
    assert await migrations.apply(connection) == migrations.all_migrations()
    assert await definitions(connection) == before
    referenced = await connection.fetch(
        "SELECT DISTINCT confrelid::regclass::text AS name FROM pg_constraint WHERE contype = 'f'"
        " AND conrelid::regclass::text = ANY ($1)",
        ["user_global_database", "workspace_database", "user_db_budget", "agentdb_token"],
    )
    assert {row["name"] for row in referenced} == {'"user"', "workspace"}


async def test_a_life_in_sims_database(
    sim: tuple[Secret, asyncpg.Connection], application: Application, stack: LocalStack
) -> None:
    """Registration, workspaces, calls, a handover with the creator's account deleted, an archive, deletion."""
    _, connection = sim
    lifecycle, cipher = application.managed().lifecycle, Cipher([Secret(SIM_KEY)])
    ada, bob = f"ada-{secrets.token_hex(4)}", f"bob-{secrets.token_hex(4)}"
    desk, shelf = f"desk-{ada}", f"shelf-{ada}"
    await sign_up(connection, ada, bob)
    for workspace_id in (desk, shelf):
        await make_workspace(connection, workspace_id, ada, bob)

    async def variable(table: str, owner: str, name: str) -> str | None:
        stored = await connection.fetchval(f"SELECT variables ->> $2 FROM {table} WHERE {owner}", ada, name)
        return cipher.decrypt(stored).reveal() if stored else None

    assert (await lifecycle.create_user(ada)).status is DatabaseStatus.READY
    assert await variable("environment", "user_id = $1", "GLOBAL_DB_URL") == "agentdb://global"
    assert (await lifecycle.create_workspace(desk, ada, "Desk")).status is DatabaseStatus.READY
    assert await variable("workspace_environment", "workspace_id = 'desk-' || $1", "AGENT_DB_URL") == "agentdb://agent"
    await query(application, Tenant(ada, desk), "CREATE TABLE kept AS SELECT 1 AS n")
    await query(application, Tenant(ada, shelf), "SELECT 1")  # made on first use
    assert await variable("workspace_environment", "workspace_id = 'shelf-' || $1", "AGENT_DB_URL") == "agentdb://agent"

    # Ada's account goes as Sim deletes one: what is shared is handed over, all in one transaction.
    async with connection.transaction():
        await connection.execute("DELETE FROM workspace WHERE id = $1", shelf)
        await connection.execute("UPDATE workspace SET owner_id = $2 WHERE id = $1", desk, bob)
        await connection.execute('DELETE FROM "user" WHERE id = $1', ada)
    await lifecycle.delete_user(ada)
    await follow_owners(application)
    await reconcile(application)
    assert await projects(application) & {f"global-{ada}", f"agent-{shelf}", f"agent-{desk}"} == {f"agent-{desk}"}
    payer = "SELECT user_id FROM workspace_database WHERE workspace_id = $1"
    assert await connection.fetchval(payer, desk) == bob
    assert await query(application, Tenant(bob, desk), "SELECT n FROM kept") == [[1]]

    # An archived workspace is closed and kept, until its days are over.
    await connection.execute("UPDATE workspace SET archived_at = timezone('UTC', now()) WHERE id = $1", desk)
    with pytest.raises(NotAllowed, match="archived"):
        await query(application, Tenant(bob, desk), "SELECT n FROM kept")
    await reconcile(application)
    await connection.execute("UPDATE workspace SET archived_at = NULL WHERE id = $1", desk)
    assert await query(application, Tenant(bob, desk), "SELECT n FROM kept") == [[1]]
    await connection.execute("UPDATE workspace SET archived_at = now() - interval '31 days' WHERE id = $1", desk)
    await follow_variables(application)
    await reconcile(application)
    assert f"agent-{desk}" not in await projects(application)
    stored = "SELECT variables::text FROM workspace_environment WHERE workspace_id = $1"
    assert await connection.fetchval(stored, desk) == "{}"


async def test_the_servers_of_the_guide_fit_sims_table(sim: tuple[Secret, asyncpg.Connection]) -> None:
    _, connection = sim
    await sign_up(connection, "ada")
    await make_workspace(connection, "desk", "ada", "ada")
    (insert,) = re.findall(r"```sql\n(.*?)```", GUIDE.read_text("utf-8"), re.DOTALL)
    assert [await connection.execute(insert) for _ in range(2)] == ["INSERT 0 2", "INSERT 0 0"]
    rows = await connection.fetch("SELECT url, headers::text, transport FROM mcp_servers ORDER BY url")
    assert [(row["url"].split("/mcp/")[1], json.loads(row["headers"])) for row in rows] == [
        ("agent", {"Authorization": "Bearer {{AGENT_DB_URL}}"}),
        ("global", {"Authorization": "Bearer {{GLOBAL_DB_URL}}"}),
    ]
    assert {row["transport"] for row in rows} == {"streamable-http"}


SHAPE = """
    SELECT table_name AS of, column_name AS what, data_type, is_nullable, (column_default IS NULL)::text
      FROM information_schema.columns WHERE table_schema = 'public'
    UNION ALL SELECT conrelid::regclass::text, pg_get_constraintdef(oid), '', '', '' FROM pg_constraint
     WHERE contype IN ('f', 'u', 'p') AND connamespace = 'public'::regnamespace
"""


@needs_checkout
async def test_the_shapes_that_stand_for_sims_tables_are_sims(stack: LocalStack) -> None:
    """All that they have is there, and what Sim's rows cannot be made without is in them."""
    async with database_of(stack, "shapes") as (_, ours), database_of(stack, "checkout") as (_, sims):
        shapes = {tuple(row) for row in await ours.fetch(SHAPE)}
        real = {tuple(row) for row in await sims.fetch(SHAPE)}
    assert shapes <= real
    tables = {row[0] for row in shapes}
    assert {row for row in real if row[0] in tables and row[3:] == ("NO", "true")} <= shapes
