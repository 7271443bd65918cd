"""Migrations that are tried: what is told of them, and that nothing of them stays."""

from __future__ import annotations

import secrets

import anyio
import pytest

from agentdb_mcp.bootstrap import Application
from agentdb_mcp.errors import AgentDBError, BudgetExceeded, InvalidArgument, StatementRefused
from agentdb_mcp.execution import Statement
from agentdb_mcp.models import Scope, Tenant
from agentdb_mcp.services import MigrationTrial, MigrationTrials


@pytest.fixture
def trials(application: Application) -> MigrationTrials:
    return MigrationTrials(application.queries)


@pytest.fixture
async def tenant(application: Application) -> Tenant:
    tenant = Tenant(f"u{secrets.token_hex(4)}", f"w{secrets.token_hex(4)}")
    await run(
        application,
        tenant,
        "CREATE TABLE person (id integer PRIMARY KEY, name text)",
        "INSERT INTO person SELECT n, CASE n WHEN 7 THEN NULL ELSE 'p' || n END FROM generate_series(1, 500) AS n",
        "CREATE VIEW names AS SELECT name FROM person",
        "ANALYZE person",
    )
    return tenant


async def run(application: Application, tenant: Tenant, *statements: str) -> list[list[object]]:
    each = [Statement(sql) for sql in statements]
    return (await application.queries.execute(tenant, Scope.AGENT, each, transaction=True)).results[-1].rows


async def tried(trials: MigrationTrials, tenant: Tenant, *statements: str) -> MigrationTrial:
    return await trials.run(tenant, Scope.AGENT, [Statement(sql) for sql in statements])


async def test_what_succeeds_is_told_with_its_locks_rewrites_and_changes_and_is_gone(
    application: Application, trials: MigrationTrials, tenant: Tenant
) -> None:
    trial = await tried(
        trials,
        tenant,
        "ALTER TABLE person ADD COLUMN age integer DEFAULT 3",
        "ALTER TABLE person ALTER COLUMN id TYPE bigint",
        "CREATE INDEX by_name ON person (name)",
        "CREATE TABLE made (id integer REFERENCES person)",
        "SELECT * FROM person",
    )
    assert trial.succeeded
    assert trial.complete
    assert [step.tag for step in trial.steps] == [
        "ALTER TABLE",
        "ALTER TABLE",
        "CREATE INDEX",
        "CREATE TABLE",
        "SELECT 500",
    ]
    assert [(lock.name, lock.blocks, lock.rows) for lock in trial.steps[0].locks] == [
        ("public.person", "reads and writes", 500)
    ]
    assert [step.rewritten for step in trial.steps] == [(), ("public.person",), (), (), ()]
    assert trial.changes is not None
    assert [(change.kind, change.name) for change in trial.changes.added] == [
        ("column", "public.person.age"),
        ("index", "public.by_name"),
        ("table", "public.made"),
    ]
    assert [(change.name, change.before, change.after) for change in trial.changes.changed] == [
        ("public.person.id", "integer NOT NULL", "bigint NOT NULL")
    ]
    assert await run(application, tenant, "SELECT to_regclass('made'), to_regclass('by_name')") == [[None, None]]
    assert await run(
        application, tenant, "SELECT count(*) FROM information_schema.columns WHERE table_name = 'person'"
    ) == [[2]]


async def test_rows_that_violate_are_in_the_error_and_what_follows_is_not_run(
    trials: MigrationTrials, tenant: Tenant
) -> None:
    trial = await tried(
        trials,
        tenant,
        "CREATE INDEX by_name ON person (name)",
        "ALTER TABLE person ALTER COLUMN name SET NOT NULL",
        "DROP VIEW names",
    )
    assert [step.outcome for step in trial.steps] == ["ok", "failed", "not run"]
    error = trial.steps[1].error
    assert error is not None
    assert error.sqlstate == "23502"
    assert "Statement" not in error.message
    assert trial.steps[0].locks[0].blocks == "writes"
    assert trial.changes is None
    assert not trial.succeeded


async def test_what_depends_is_named_with_and_without_cascade(trials: MigrationTrials, tenant: Tenant) -> None:
    refused = await tried(trials, tenant, "ALTER TABLE person DROP COLUMN name")
    assert refused.steps[0].error is not None
    assert "names" in refused.steps[0].error.message
    trial = await tried(trials, tenant, "ALTER TABLE person DROP COLUMN name CASCADE")
    assert trial.succeeded
    assert [(change.kind, change.name) for change in trial.taken_along] == [("view", "public.names")]


async def test_what_only_a_commit_would_check_is_checked(trials: MigrationTrials, tenant: Tenant) -> None:
    trial = await tried(
        trials,
        tenant,
        "CREATE TABLE child (parent integer REFERENCES person DEFERRABLE INITIALLY DEFERRED)",
        "INSERT INTO child VALUES (9999)",
    )
    assert [step.outcome for step in trial.steps] == ["ok", "ok"]
    assert trial.at_commit is not None
    assert trial.at_commit.sqlstate == "23503"
    assert not trial.succeeded


async def test_parameters_and_rows_are_tried_like_anything_else(
    application: Application, trials: MigrationTrials, tenant: Tenant
) -> None:
    trial = await trials.run(tenant, Scope.AGENT, [Statement("UPDATE person SET name = $1 WHERE id < $2", ["x", 11])])
    assert [step.tag for step in trial.steps] == ["UPDATE 10"]
    assert await run(application, tenant, "SELECT count(*) FROM person WHERE name = 'x'") == [[0]]


@pytest.mark.parametrize(
    "sql",
    ["VACUUM person", "CREATE INDEX CONCURRENTLY i ON person (name)", "COMMIT", "GRANT ALL ON person TO PUBLIC",
     "CREATE DATABASE other", "COPY person TO '/tmp/x'"],
)  # fmt: skip
async def test_what_the_gate_refuses_elsewhere_it_refuses_here(
    application: Application, trials: MigrationTrials, tenant: Tenant, sql: str
) -> None:
    with pytest.raises(StatementRefused):
        await tried(trials, tenant, "CREATE TABLE first ()", sql)
    assert await run(application, tenant, "SELECT to_regclass('first')") == [[None]]


@pytest.mark.parametrize(
    "sql",
    ["DO $$BEGIN COMMIT; END$$", "DO $$BEGIN EXECUTE 'ALTER ROLE CURRENT_USER PASSWORD ''x'''; END$$",
     "DO $$BEGIN EXECUTE 'SET search_path = evil'; END$$", "DO $$BEGIN PERFORM pg_advisory_lock(1); END$$"],
)  # fmt: skip
async def test_a_statement_that_tries_to_get_out_changes_nothing(
    application: Application, trials: MigrationTrials, tenant: Tenant, sql: str
) -> None:
    refused: list[AgentDBError] = []
    try:
        await tried(trials, tenant, "CREATE TABLE first ()", sql, "CREATE TABLE second ()")
    except AgentDBError as error:
        refused.append(error)
    assert "internal" not in {error.code for error in refused}
    found = await run(application, tenant, "SELECT to_regclass('first'), to_regclass('second')")
    assert found == [[None, None]]


async def test_an_extension_is_not_installed_by_a_trial(
    application: Application, trials: MigrationTrials, tenant: Tenant
) -> None:
    await tried(trials, tenant, "CREATE EXTENSION tsm_system_rows")
    assert await run(application, tenant, "SELECT count(*) FROM pg_extension WHERE extname = 'tsm_system_rows'") == [
        [0]
    ]


async def test_a_shadowed_catalog_misleads_its_owner_alone(trials: MigrationTrials, tenant: Tenant) -> None:
    trial = await tried(
        trials,
        tenant,
        "CREATE SCHEMA evil",
        "CREATE FUNCTION evil.eq(name, name) RETURNS boolean LANGUAGE sql AS 'SELECT true'",
        "CREATE OPERATOR evil.= (LEFTARG = name, RIGHTARG = name, FUNCTION = evil.eq)",
        "SET LOCAL search_path = evil, pg_catalog",
        "SELECT 1",
    )
    assert len(trial.steps) == 5


async def test_a_path_that_a_migration_sets_is_no_change_of_the_schema(
    application: Application, trials: MigrationTrials, tenant: Tenant
) -> None:
    """As dumps do, which name everything with its schema."""
    await run(
        application,
        tenant,
        "CREATE FUNCTION one() RETURNS int LANGUAGE sql AS 'SELECT 1'",
        "CREATE TABLE pet (owner integer REFERENCES person)",
    )
    trial = await tried(trials, tenant, "SET search_path = ''", "ALTER TABLE public.pet ADD COLUMN name text")
    assert trial.succeeded
    assert trial.changes is not None
    assert [change.name for change in trial.changes.added] == ["public.pet.name"]
    assert (trial.changes.removed, trial.changes.changed) == ((), ())
    put_off = "ALTER TABLE pet ALTER CONSTRAINT pet_owner_fkey DEFERRABLE INITIALLY DEFERRED"
    failed = await tried(trials, tenant, put_off, "INSERT INTO pet VALUES (-1)")
    assert failed.at_commit is not None
    assert [step.outcome for step in failed.steps] == ["ok", "ok"]


async def test_the_audit_log_has_the_statements_that_were_tried_and_their_rows_alone(
    application: Application, trials: MigrationTrials, tenant: Tenant
) -> None:
    await tried(trials, tenant, "SELECT id FROM person LIMIT 3", "CREATE TABLE first ()")
    audit = application.managed().audit
    await audit.flush()
    (entry,) = await audit.entries(tenant.user_id or "", limit=1)
    assert (entry.rows, entry.kinds) == (3, ("read", "schema"))


async def test_too_many_statements_and_an_exceeded_budget_are_refused(
    application: Application, trials: MigrationTrials, tenant: Tenant
) -> None:
    with pytest.raises(InvalidArgument, match="at most"):
        await tried(trials, tenant, *["SELECT 1"] * 51)
    await application.managed().usage.set_tier(tenant.user_id or "", "free", custom_budget_cents=0)
    with pytest.raises(BudgetExceeded):
        await tried(trials, tenant, "CREATE TABLE first ()")


async def test_whoever_gives_up_leaves_nothing(
    application: Application, trials: MigrationTrials, tenant: Tenant
) -> None:
    with anyio.move_on_after(0.3):
        await tried(trials, tenant, "CREATE TABLE first ()", "SELECT pg_sleep(10)")
    with anyio.fail_after(30):
        assert await run(application, tenant, "SELECT to_regclass('first')") == [[None]]
