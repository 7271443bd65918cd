"""From every earlier schema, with rows in it, to today's: nothing is lost on the way.

`rows/NNNN.sql` fills what step NNNN brought. A new step needs a file of its own there, and nothing here.
"""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import asyncpg
import pytest

from agentdb_mcp.embedded import EmbeddedPostgres
from agentdb_mcp.models import Secret
from agentdb_mcp.store import AuditStore, ControlDatabase, migrations
from definitions import Definitions, all_definitions

STEPS = migrations.all_migrations()
EARLIER = [step.version for step in STEPS[:-1]]
ROWS = Path(__file__).parent / "rows"
SIM_TABLES = Path(__file__).parents[1] / "sim_tables.sql"
# Where our first step makes the identity tables, and where they are Sim Studio's.
IDENTITY = {
    "ours": """
        INSERT INTO "user" (id, created_at) VALUES ('ada', '2025-12-31 00:00+00'), ('bob', '2024-02-29 00:00+00');
        INSERT INTO workspace (id, name, owner_id, created_at, archived_at)
        VALUES ('desk', 'Ada''s desk', 'ada', '2025-12-31 00:00+00', NULL),
               ('shelf', 'Shelf', 'bob', '2024-02-29 00:00+00', '2026-01-01 00:00+00');
    """,
    "sims": """
        INSERT INTO "user" (id, name, email, email_verified, created_at, updated_at)
        SELECT each, each, each || '@example.org', true, now(), now() FROM unnest('{ada,bob}'::text[]) AS each;
        INSERT INTO workspace (id, name, owner_id, billed_account_user_id, archived_at)
        VALUES ('desk', 'Ada''s desk', 'ada', 'bob', NULL), ('shelf', 'Shelf', 'bob', 'bob', '2026-01-01 00:00');
        INSERT INTO environment (id, user_id, variables) VALUES ('e', 'ada', '{"KEPT": "sealed"}');
        INSERT INTO workspace_environment (id, workspace_id, variables) VALUES ('e', 'desk', '{"KEPT": "sealed"}');
        INSERT INTO mcp_servers (id, workspace_id, name, transport) VALUES ('m', 'desk', 'theirs', 'stdio');
    """,
}

Rows = dict[str, list[dict[str, Any]]]


@pytest.fixture
async def connection(empty_database: Secret) -> AsyncIterator[asyncpg.Connection]:
    connection = await asyncpg.connect(empty_database.reveal())
    yield connection
    await connection.close()


async def bring_to(connection: asyncpg.Connection, version: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """As the version left it whose last step that was."""
    with monkeypatch.context() as patch:
        patch.setattr(migrations, "all_migrations", lambda: STEPS[:version])
        assert await migrations.apply(connection) == STEPS[:version]


async def fill(connection: asyncpg.Connection, version: int, identity: str) -> None:
    await connection.execute(IDENTITY[identity])
    for step in STEPS[:version]:
        await connection.execute((ROWS / f"{step.version:04}.sql").read_text("utf-8"))


async def rows_of(connection: asyncpg.Connection) -> Rows:
    found = {}
    for name, kind, *_ in (await all_definitions(connection))["tables"]:
        if kind == b"r":
            rows = await connection.fetch(f'SELECT to_jsonb(t)::text AS row FROM "{name}" AS t')
            found[str(name)] = [json.loads(row["row"], parse_float=str) for row in rows]
    return found


def assert_filled(rows: Rows) -> None:
    """Every column has a value somewhere."""
    assert set(rows) >= {"user", "workspace", "workspace_database", "agentdb_migration"}
    for name, of_table in rows.items():
        assert of_table, f"{name} has no rows"
        assert {column for row in of_table for column in row if row[column] is not None} == set(of_table[0]), name


def restricted(after: list[dict[str, Any]], before: list[dict[str, Any]]) -> list[str]:
    """The rows with the columns that there were before, in an order that can be compared."""
    columns = {column for row in before for column in row}
    return sorted(json.dumps({name: row[name] for name in columns}, sort_keys=True) for row in after)


@pytest.fixture(params=IDENTITY)
async def identity(request: pytest.FixtureRequest, connection: asyncpg.Connection) -> str:
    if request.param == "sims":
        await connection.execute(SIM_TABLES.read_text("utf-8"))
    return str(request.param)


@pytest.fixture
async def newest(
    identity: str, postgres: EmbeddedPostgres, superuser: asyncpg.Connection
) -> AsyncIterator[Definitions]:
    """What all steps at once make of a database without rows of ours."""
    await superuser.execute("CREATE DATABASE newest")
    connection = await asyncpg.connect(postgres.uri("newest").reveal())
    if identity == "sims":
        await connection.execute(SIM_TABLES.read_text("utf-8"))
    await migrations.apply(connection)
    yield await all_definitions(connection)
    await connection.close()
    await superuser.execute("DROP DATABASE newest")


@pytest.mark.parametrize("version", EARLIER)
async def test_an_earlier_schema_becomes_todays_with_every_row(
    connection: asyncpg.Connection, identity: str, newest: Definitions, version: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    await bring_to(connection, version, monkeypatch)
    await fill(connection, version, identity)
    before = await rows_of(connection)
    if identity == "ours":
        assert_filled(before)
    assert await migrations.apply(connection) == STEPS[version:]
    assert await all_definitions(connection) == newest
    after = await rows_of(connection)
    steps = after.pop("agentdb_migration")
    assert [row for row in steps if row["version"] <= version] == before.pop("agentdb_migration")
    assert [(row["version"], row["checksum"]) for row in steps] == [(step.version, step.checksum) for step in STEPS]
    for name, rows in before.items():
        assert restricted(after[name], rows) == restricted(rows, rows), name


@pytest.mark.parametrize("version", EARLIER)
async def test_rows_of_an_earlier_schema_can_be_worked_with(
    connection: asyncpg.Connection, empty_database: Secret, version: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What the later steps fill can be filled, so that the constraints and triggers hold for old rows as for new."""
    await bring_to(connection, version, monkeypatch)
    await fill(connection, version, "ours")
    await migrations.apply(connection)
    for step in STEPS[version:]:
        await connection.execute((ROWS / f"{step.version:04}.sql").read_text("utf-8"))
    control = ControlDatabase(empty_database)
    verified = await AuditStore(control).verify("ada")
    await control.close()
    assert verified.broken is None
    assert verified.entries == 3


async def test_a_step_that_brings_a_table_or_a_column_brings_rows_for_it_here(connection: asyncpg.Connection) -> None:
    await migrations.apply(connection)
    await fill(connection, len(STEPS), "ours")
    assert_filled(await rows_of(connection))


async def test_budgets_from_before_the_ledger_keep_their_period_and_tier(
    connection: asyncpg.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    await bring_to(connection, 1, monkeypatch)
    await fill(connection, 1, "ours")
    await migrations.apply(connection)
    rows = await connection.fetch(
        "SELECT user_id, placed_tier, period_anchor = current_period_start AS kept FROM user_db_budget ORDER BY 1"
    )
    assert [tuple(row) for row in rows] == [("ada", "pro", True), ("bob", "free", True)]


async def test_chains_from_before_request_ids_verify_and_go_on(
    connection: asyncpg.Connection, empty_database: Secret, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One user's chain with entries in the form of two versions, side by side."""
    await bring_to(connection, 6, monkeypatch)
    await fill(connection, 6, "ours")
    control = ControlDatabase(empty_database)  # brings it up to date
    verified = await AuditStore(control).verify("ada")
    assert (verified.entries, verified.broken) == (2, None)
    await connection.execute("ALTER TABLE db_audit_log DISABLE TRIGGER USER")
    await connection.execute("UPDATE db_audit_log SET request_id = 'put in later' WHERE sequence = 2")
    tampered = (await AuditStore(control).verify("ada")).broken
    await control.close()
    assert tampered is not None
    assert (tampered.sequence, tampered.what) == (2, "was changed")
