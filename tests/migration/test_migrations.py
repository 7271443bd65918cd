"""The control database comes up to date from any beginning, once, whoever else is at it."""

from __future__ import annotations

import asyncio
import os
import re
import sys
from collections.abc import AsyncIterator
from importlib.resources import files

import anyio
import asyncpg
import pytest

from agentdb_mcp.errors import ConfigurationError, DatabaseUnavailable
from agentdb_mcp.models import Secret
from agentdb_mcp.store import ControlDatabase, migrations

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
    INSERT INTO "user" VALUES ('u1', 'Ada', 'ada@example.org');
    INSERT INTO workspace VALUES ('w1', 'Notes', 'u1');
"""

EVERY_COLUMN = """
    SELECT table_name, column_name, data_type, is_nullable, column_default FROM information_schema.columns
     WHERE table_schema = 'public' ORDER BY 1, 2
"""

OURS = {
    "agentdb_job",
    "agentdb_migration",
    "agentdb_token",
    "db_audit_chain",
    "db_audit_log",
    "db_usage_ledger",
    "user_db_budget",
    "user_global_database",
    "workspace_database",
}

STEPS = migrations.all_migrations()

DATABASE_COLUMNS = {
    "id": "text",
    "user_id": "text",
    "ownership_type": "text",
    "neon_project_id": "text",
    "neon_branch_id": "text",
    "neon_connection_uri": "text",
    "database_name": "text",
    "current_period_cost_cents": "bigint",
    "last_consumption_sync": "timestamp with time zone",
}


@pytest.fixture
async def connection(empty_database: Secret) -> AsyncIterator[asyncpg.Connection]:
    connection = await asyncpg.connect(empty_database.reveal())
    yield connection
    await connection.close()


async def tables(connection: asyncpg.Connection) -> set[str]:
    rows = await connection.fetch("SELECT relname FROM pg_class WHERE relkind = 'r' AND relnamespace = 2200")
    return {row["relname"] for row in rows}


async def shape(connection: asyncpg.Connection, *names: str) -> list[tuple[object, ...]]:
    return [tuple(row) for row in await connection.fetch(EVERY_COLUMN) if row["table_name"] in names]


async def constraints(connection: asyncpg.Connection, *names: str) -> list[tuple[object, ...]]:
    rows = await connection.fetch(
        "SELECT conrelid::regclass::text, conname, pg_get_constraintdef(oid) FROM pg_constraint"
        " WHERE conrelid::regclass::text = ANY ($1) ORDER BY 1, 2",
        list(names),
    )
    return [tuple(row) for row in rows]


def test_the_files_have_unique_versions_that_rise_without_a_gap() -> None:
    names = sorted(file.name for file in files("agentdb_mcp.store.migrations").iterdir() if file.name.endswith(".sql"))
    assert all(re.fullmatch(r"\d{4}_[a-z0-9_]+\.sql", name) for name in names)
    assert [int(name[:4]) for name in names] == list(range(1, len(names) + 1))
    assert [step.version for step in migrations.all_migrations()] == list(range(1, len(names) + 1))


async def test_an_empty_database_gets_our_tables_and_minimal_identity_tables(connection: asyncpg.Connection) -> None:
    assert await migrations.pending(connection) == migrations.all_migrations()
    assert await migrations.apply(connection) == migrations.all_migrations()
    assert await tables(connection) >= OURS | {"user", "workspace"}
    assert await migrations.pending(connection) == []


async def test_a_second_run_changes_nothing(connection: asyncpg.Connection) -> None:
    await migrations.apply(connection)
    before = [tuple(row) for row in await connection.fetch(EVERY_COLUMN)]
    stamps = await connection.fetch("SELECT version, checksum, applied_at FROM agentdb_migration")
    assert await migrations.apply(connection) == []
    assert [tuple(row) for row in await connection.fetch(EVERY_COLUMN)] == before
    assert await connection.fetch("SELECT version, checksum, applied_at FROM agentdb_migration") == stamps


async def test_six_connections_at_once_apply_each_step_once(empty_database: Secret) -> None:
    applied: list[list[migrations.Migration]] = []

    async def run() -> None:
        connection = await asyncpg.connect(empty_database.reveal())
        try:
            applied.append(await migrations.apply(connection))
        finally:
            await connection.close()

    async with anyio.create_task_group() as group:
        for _ in range(6):
            group.start_soon(run)
    assert sorted(map(len, applied)) == [0, 0, 0, 0, 0, len(migrations.all_migrations())]


async def test_two_processes_at_once_both_succeed_and_one_applies(
    empty_database: Secret, connection: asyncpg.Connection
) -> None:
    environ = {**os.environ, "AGENTDB_CONTROL_URL": empty_database.reveal()}
    command = [sys.executable, "-m", "agentdb_mcp", "migrate"]
    ended = await asyncio.gather(*(anyio.run_process(command, env=environ, check=False) for _ in range(2)))
    assert [done.returncode for done in ended] == [0, 0], [done.stderr.decode() for done in ended]
    outputs = sorted(done.stdout.decode().strip() for done in ended)
    assert outputs[0].startswith("Applied 0001 initial")
    assert outputs[1] == "Up to date."
    assert await migrations.pending(connection) == []


async def test_inside_sims_database_only_our_tables_are_added(connection: asyncpg.Connection) -> None:
    await connection.execute(SIM_TABLES)
    theirs = await tables(connection)
    columns, rules = await shape(connection, *theirs), await constraints(connection, '"user"', *theirs)
    await migrations.apply(connection)
    assert await tables(connection) - theirs == OURS
    assert await shape(connection, *theirs) == columns
    assert await constraints(connection, '"user"', *theirs) == rules
    assert await connection.fetchval("SELECT obj_description('\"user\"'::regclass)") is None
    assert await connection.fetchval("SELECT count(*) FROM workspace") == 1


async def test_our_tables_refer_to_sims_users_and_workspaces(connection: asyncpg.Connection) -> None:
    await connection.execute(SIM_TABLES)
    await migrations.apply(connection)
    rules = await constraints(connection, "user_global_database", "workspace_database", "user_db_budget")
    references = {(table, text) for table, _, text in rules if "REFERENCES" in str(text)}
    assert references == {
        ("user_global_database", 'FOREIGN KEY (user_id) REFERENCES "user"(id) ON DELETE SET NULL'),
        ("workspace_database", "FOREIGN KEY (workspace_id) REFERENCES workspace(id) ON DELETE SET NULL"),
        ("workspace_database", 'FOREIGN KEY (user_id) REFERENCES "user"(id) ON DELETE SET NULL'),
        ("user_db_budget", 'FOREIGN KEY (user_id) REFERENCES "user"(id) ON DELETE CASCADE'),
    }


async def test_the_documents_columns_exist_with_usable_types(connection: asyncpg.Connection) -> None:
    await migrations.apply(connection)
    rows = await connection.fetch(EVERY_COLUMN)
    types = {(row["table_name"], row["column_name"]): row["data_type"] for row in rows}
    expected = {("user_global_database", name): kind for name, kind in DATABASE_COLUMNS.items()}
    expected |= {("workspace_database", name): kind for name, kind in DATABASE_COLUMNS.items()}
    expected |= {
        ("workspace_database", "workspace_id"): "text",
        ("user_db_budget", "user_id"): "text",
        ("user_db_budget", "custom_budget_cents"): "bigint",
        ("user_db_budget", "budget_exceeded"): "boolean",
        ("user_db_budget", "current_period_start"): "timestamp with time zone",
        ("user_db_budget", "total_cost_cents"): "bigint",
        ("user_db_budget", "last_sync"): "timestamp with time zone",
    }
    assert {key: types.get(key) for key in expected} == expected


@pytest.mark.parametrize(("microcents", "cents"), [(0, 0), (499_999, 0), (1_000_000, 1), (123_956_789, 123)])
async def test_cents_follow_from_micro_cents(connection: asyncpg.Connection, microcents: int, cents: int) -> None:
    await migrations.apply(connection)
    shown = await connection.fetchval(
        "INSERT INTO workspace_database (project_name, current_period_cost_microcents) VALUES ('p', $1)"
        " RETURNING current_period_cost_cents",
        microcents,
    )
    assert shown == cents


@pytest.mark.parametrize(
    "change",
    [
        "INSERT INTO workspace_database (project_name, ownership_type) VALUES ('p', 'nobody')",
        "INSERT INTO workspace_database (project_name, status) VALUES ('p', 'gone')",
        "INSERT INTO workspace_database (project_name, access_mode) VALUES ('p', 'admin')",
        "INSERT INTO user_global_database (project_name, current_period_cost_microcents) VALUES ('p', -1)",
        "INSERT INTO user_db_budget (user_id, custom_budget_cents) VALUES ('u', -1)",
    ],
)
async def test_values_without_a_meaning_are_refused(connection: asyncpg.Connection, change: str) -> None:
    await migrations.apply(connection)
    await connection.execute("INSERT INTO \"user\" (id) VALUES ('u')")
    with pytest.raises(asyncpg.CheckViolationError):
        await connection.execute(change)


async def test_a_database_outlives_its_user_as_a_tombstone(connection: asyncpg.Connection) -> None:
    await migrations.apply(connection)
    await connection.execute(
        """
        INSERT INTO "user" (id) VALUES ('u');
        INSERT INTO workspace (id, name, owner_id) VALUES ('w', 'Notes', 'u');
        INSERT INTO user_global_database (user_id, project_name) VALUES ('u', 'global-u');
        INSERT INTO workspace_database (workspace_id, user_id, project_name) VALUES ('w', 'u', 'agent-w');
        INSERT INTO user_db_budget (user_id) VALUES ('u');
        DELETE FROM "user";
        """
    )
    assert [tuple(row) for row in await connection.fetch("SELECT user_id, project_name FROM user_global_database")] == [
        (None, "global-u")
    ]
    left = await connection.fetch("SELECT workspace_id, user_id, project_name FROM workspace_database")
    assert [tuple(row) for row in left] == [(None, None, "agent-w")]
    assert await connection.fetchval("SELECT count(*) FROM user_db_budget") == 0


async def test_a_step_that_was_applied_in_another_form_is_refused(connection: asyncpg.Connection) -> None:
    await migrations.apply(connection)
    await connection.execute("UPDATE agentdb_migration SET checksum = 'other' WHERE version = 1")
    with pytest.raises(ConfigurationError, match="Migration 0001") as refused:
        await migrations.apply(connection)
    assert refused.value.hint
    assert await connection.fetchval("SELECT checksum FROM agentdb_migration WHERE version = 1") == "other"


async def test_a_refused_database_keeps_no_connection_open(
    empty_database: Secret, connection: asyncpg.Connection
) -> None:
    await migrations.apply(connection)
    await connection.execute("UPDATE agentdb_migration SET checksum = 'other'")
    control = ControlDatabase(empty_database)
    for _ in range(3):
        with pytest.raises(ConfigurationError):
            async with control.connection():
                pytest.fail("opened a database in another form")
    await control.close()
    assert await others_connected(connection) == 0


async def others_connected(connection: asyncpg.Connection) -> int:
    """Connections to this database but our own, once those that are ending have had their moment."""
    count = 0
    with anyio.move_on_after(30):
        while True:
            count = await connection.fetchval(
                "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()"
            )
            if count == 0:
                break
            await anyio.sleep(0.02)
    return count


WAITS = """
    SELECT count(*) FROM pg_stat_activity
     WHERE wait_event_type = 'Lock' AND query LIKE 'ALTER%' AND datname = current_database()
"""


async def test_a_table_in_use_is_tried_again_and_not_kept_from_others(
    connection: asyncpg.Connection, empty_database: Secret, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A backup reads it, say. What waits for the backup's end would have everybody else wait as well."""
    monkeypatch.setattr(migrations, "PAUSES_S", [0.05] * 200)
    monkeypatch.setattr(migrations, "LOCK_TIMEOUT_MS", 100)
    monkeypatch.setattr(migrations, "all_migrations", lambda: STEPS)
    await migrations.apply(connection)
    step = migrations.Migration(len(STEPS) + 1, "next", "ALTER TABLE workspace_database ADD COLUMN next integer")
    monkeypatch.setattr(migrations, "all_migrations", lambda: [*STEPS, step])
    backup, other = [await asyncpg.connect(empty_database.reveal()) for _ in range(2)]
    applied: list[migrations.Migration] = []

    async def run() -> None:
        applied.extend(await migrations.apply(connection))

    with anyio.fail_after(30):
        async with anyio.create_task_group() as group, backup.transaction():
            await backup.execute("LOCK TABLE workspace_database IN ACCESS SHARE MODE")
            group.start_soon(run)
            while not await other.fetchval(WAITS):
                await anyio.sleep(0.01)
            assert await other.fetchval("SELECT count(*) FROM workspace_database") == 0
            assert applied == []
    assert applied == [step]
    for each in (backup, other):
        await each.close()


async def test_a_table_that_stays_in_use_is_told_and_nothing_is_changed(
    connection: asyncpg.Connection, empty_database: Secret, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(migrations, "PAUSES_S", (0.0,))
    monkeypatch.setattr(migrations, "LOCK_TIMEOUT_MS", 20)
    await connection.execute(SIM_TABLES)
    backup = await asyncpg.connect(empty_database.reveal())
    async with backup.transaction():
        await backup.execute('LOCK TABLE "user" IN ACCESS EXCLUSIVE MODE')
        with anyio.fail_after(15), pytest.raises(DatabaseUnavailable, match="in use") as refused:
            await migrations.apply(connection)
    await backup.close()
    assert refused.value.retryable
    assert "migrate" in (refused.value.hint or "")
    assert not OURS & await tables(connection)
    assert await migrations.apply(connection) == STEPS


async def test_a_failure_half_way_leaves_nothing_behind(connection: asyncpg.Connection) -> None:
    """A view in the way of one of our tables: the identity tables made before it go as well."""
    await connection.execute("CREATE VIEW user_db_budget AS SELECT 1")
    with pytest.raises(asyncpg.PostgresError):
        await migrations.apply(connection)
    assert await tables(connection) == set()
    await connection.execute("DROP VIEW user_db_budget")
    assert await migrations.apply(connection) == migrations.all_migrations()


async def test_a_login_that_may_not_create_tables_is_told_so_without_a_secret(
    empty_database: Secret, superuser: asyncpg.Connection
) -> None:
    await superuser.execute("CREATE ROLE visitor LOGIN PASSWORD 'correct-horse'")
    try:
        uri = Secret(re.sub("//.*@", "//visitor:correct-horse@", empty_database.reveal()))
        control = ControlDatabase(uri)
        with pytest.raises(DatabaseUnavailable, match="does not let this login") as refused:
            async with control.connection():
                pytest.fail("migrated without the right to")
        assert "correct-horse" not in f"{refused.value} {refused.value.hint}"
        await control.close()
    finally:
        await superuser.execute("DROP OWNED BY visitor; DROP ROLE visitor")


async def test_without_migrating_an_empty_database_is_told_to_be_out_of_date(empty_database: Secret) -> None:
    control = ControlDatabase(empty_database, migrate=False)
    with pytest.raises(DatabaseUnavailable, match="agentdb-mcp migrate"):
        async with control.connection() as connection:
            await connection.fetchval("SELECT count(*) FROM user_db_budget")
    await control.close()
