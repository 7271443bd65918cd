from __future__ import annotations

import secrets
from pathlib import Path
from typing import Any

import asyncpg
import pytest

from agentdb_mcp.bootstrap import Application, open_application
from agentdb_mcp.embedded import EmbeddedPostgres
from agentdb_mcp.errors import NotAllowed, SqlError
from agentdb_mcp.execution import Statement, catalog, statistics
from agentdb_mcp.execution.statistics import SORT_BY, SortBy
from agentdb_mcp.local_stack import LocalStack
from agentdb_mcp.models import Scope, Tenant
from agentdb_mcp.services import Health
from agentdb_mcp.settings import load_settings

ADA, BOB = Tenant("stats-ada", "of-ada"), Tenant("stats-bob", "of-bob")


async def run(application: Application, tenant: Tenant, *texts: str) -> None:
    for text in texts:
        await application.queries.execute(tenant, Scope.AGENT, [Statement(text)])


async def read(application: Application, tenant: Tenant, *statements: Statement) -> list[dict[str, Any]]:
    """The last statement's rows by column name."""
    result = (await application.queries.catalog(tenant, Scope.AGENT, statements))[-1]
    return [dict(zip([column.name for column in result.columns], row, strict=True)) for row in result.rows]


async def top(
    application: Application, tenant: Tenant, sort_by: SortBy = "total_time", limit: int = 100
) -> list[dict[str, Any]]:
    (found,) = await read(application, tenant, statistics.statements_schema())
    assert found["schema"] is not None
    return await read(application, tenant, statistics.top_queries(found["schema"], sort_by, limit))


@pytest.fixture(scope="module")
async def worked(application: Application) -> Application:
    """Ada has written a thousand rows and read them, by look-ups of types and of the catalog too; Bob did little."""
    await run(
        application,
        ADA,
        "CREATE TABLE things (i int PRIMARY KEY)",
        "CREATE TYPE mood AS ENUM ('glad', 'sad')",
        "INSERT INTO things SELECT generate_series(1, 1000)",
        "SELECT count(*) FROM things WHERE i > 5",
        "SELECT count(*) FROM things WHERE i > 6",
        "SELECT 'sad'::mood AS mood, pg_sleep(0.05)",
    )
    reads = [catalog.schemas(), catalog.relation("public", "things"), catalog.columns("public", "things")]
    await application.queries.catalog(ADA, Scope.AGENT, reads)
    await run(application, BOB, "CREATE TABLE of_bob (n int)", "SELECT count(*) FROM of_bob")
    return application


async def test_it_is_installed_loaded_and_usable_in_a_new_database(worked: Application) -> None:
    (found,) = await read(worked, ADA, statistics.statements_schema())
    assert found | {"version": "any"} == {
        "schema": "public",
        "version": "any",
        "loaded": True,
        "available": True,
        "usable": True,
    }


async def test_only_the_agents_own_statements_are_shown(worked: Application) -> None:
    for sort_by in SORT_BY:
        await top(worked, ADA, sort_by)
    assert {row["query"] for row in await top(worked, ADA)} == {
        "CREATE TABLE things (i int PRIMARY KEY)",
        "CREATE TYPE mood AS ENUM ('glad', 'sad')",
        "INSERT INTO things SELECT generate_series($1, $2)",
        "SELECT count(*) FROM things WHERE i > $1",
        "SELECT $1::mood AS mood, pg_sleep($2)",
    }
    assert {row["query"] for row in await top(worked, BOB)} == {
        "CREATE TABLE of_bob (n int)",
        "SELECT count(*) FROM of_bob",
    }


async def test_figures_are_those_of_all_calls_of_a_statement(worked: Application) -> None:
    rows = {row["query"]: row for row in await top(worked, ADA)}
    counted = rows["SELECT count(*) FROM things WHERE i > $1"]
    assert (counted["calls"], counted["rows"], counted["query_chars"]) == (2, 2, 40)
    assert counted["mean_ms"] == pytest.approx(counted["total_ms"] / 2, abs=0.001)
    assert counted["blocks_hit"] > 0
    assert rows["INSERT INTO things SELECT generate_series($1, $2)"]["rows"] == 1000
    assert sum(row["share"] for row in rows.values()) == pytest.approx(1, abs=0.001)
    slept = rows["SELECT $1::mood AS mood, pg_sleep($2)"]
    assert slept["total_ms"] >= 50
    assert slept["resource"] == "time"
    assert slept["resource_share"] == slept["share"]


async def test_they_are_sorted_as_asked_and_cut_at_the_limit(worked: Application) -> None:
    for sort_by, column in (("total_time", "total_ms"), ("mean_time", "mean_ms"), ("resources", "total_ms")):
        rows = await top(worked, ADA, sort_by)
        assert [row[column] for row in rows] == sorted((row[column] for row in rows), reverse=True)
    everything = await top(worked, ADA)
    assert await top(worked, ADA, limit=2) == everything[:2]


async def test_by_resources_are_those_with_a_large_part_of_any(worked: Application) -> None:
    large = [row["query"] for row in await top(worked, ADA, "resources")]
    assert large == [row["query"] for row in await top(worked, ADA) if row["resource_share"] >= 0.05]
    assert "INSERT INTO things SELECT generate_series($1, $2)" in large


async def test_a_long_statement_is_cut_and_says_how_long_it_is(worked: Application) -> None:
    statement = statistics.top_queries("public", "total_time", 1, most_chars=10)
    (row,) = await read(worked, ADA, statement)
    assert len(row["query"]) == 10
    assert row["query_chars"] > 10


async def test_neighbours_texts_stay_hidden_and_nobody_resets_figures(worked: Application) -> None:
    sql = "SELECT DISTINCT query FROM pg_stat_statements WHERE userid <> current_user::regrole"
    answer = await worked.queries.execute(BOB, Scope.AGENT, [Statement(sql)])
    assert answer.results[0].rows == [["<insufficient privilege>"]]
    for reset in ("SELECT pg_stat_statements_reset()", "SELECT pg_stat_statements_reset(current_user::regrole, 0, 0)"):
        with pytest.raises(SqlError) as refused:
            await run(worked, BOB, reset)
        assert refused.value.sqlstate == "42501"
    assert len(await top(worked, ADA)) == 5


async def test_of_a_login_with_several_databases_and_an_odd_name_only_this_one_is_shown(
    postgres: EmbeddedPostgres, superuser: asyncpg.Connection
) -> None:
    login = f"Odd {secrets.token_hex(4)}"
    await superuser.execute(f"CREATE ROLE \"{login}\" LOGIN PASSWORD 'of-no-importance'")
    names = [f"stats_{secrets.token_hex(4)}" for _ in range(2)]
    for name in names:
        await superuser.execute(f'CREATE DATABASE {name} OWNER "{login}"')
        inside = await asyncpg.connect(postgres.uri(name).reveal())
        await inside.execute('CREATE SCHEMA "Odd place"')
        await inside.execute('CREATE EXTENSION pg_stat_statements SCHEMA "Odd place"')
        await inside.close()
    try:
        for name in names:
            url = f"postgresql://{login.replace(' ', '%20')}:of-no-importance@127.0.0.1:{postgres.port}/{name}"
            async with open_application(load_settings({"AGENT_DB_URL": url})) as application:
                (found,) = await read(application, Tenant(), statistics.statements_schema())
                assert (found["schema"], found["usable"]) == ("Odd place", False)
                inside = await asyncpg.connect(postgres.uri(name).reveal())
                await inside.execute(f'GRANT USAGE ON SCHEMA "Odd place" TO "{login}"')
                await inside.close()
                await run(application, Tenant(), f"CREATE TABLE in_{name} ()")
                assert [row["query"] for row in await top(application, Tenant())] == [f"CREATE TABLE in_{name} ()"]
    finally:
        for name in names:
            await superuser.execute(f"DROP DATABASE {name} WITH (FORCE)")
        await superuser.execute(f'DROP ROLE "{login}"')


async def test_where_policy_allows_it_an_agent_adds_it_and_sees_its_statements(
    environ: dict[str, str], stack: LocalStack, tmp_path: Path
) -> None:
    """As at Neon, where the admin may create it; here it takes a superuser."""
    policy = tmp_path / "adds.toml"
    policy.write_text('name = "adds"\nversion = "1"\n[extensions]\nallow = ["pg_stat_statements"]\n')
    eve = Tenant("stats-eve", "of-eve")
    async with open_application(load_settings(environ | {"AGENTDB_POLICY": str(policy)})) as application:
        answer = await application.queries.execute(eve, Scope.AGENT, [Statement("SELECT current_database()")])
        inside = await asyncpg.connect(stack.postgres.uri(str(answer.results[0].rows[0][0])).reveal())
        await inside.execute("DROP EXTENSION pg_stat_statements")
        admin = await inside.fetchval(
            "SELECT datdba::regrole::text FROM pg_database WHERE datname = current_database()"
        )
        await inside.execute(f"ALTER ROLE {admin} SUPERUSER")
        health = Health(application.queries, application.policy)
        with pytest.raises(NotAllowed) as missing:
            await health.top_queries(eve, Scope.AGENT, "total_time", 100, 100)
        hint = missing.value.hint or ""
        assert hint.startswith("Run it with execute_sql: ")
        await run(application, eve, hint.removeprefix("Run it with execute_sql: "), "CREATE TABLE of_eve ()")
        result = await health.top_queries(eve, Scope.AGENT, "total_time", 100, 100)
        assert "CREATE TABLE of_eve ()" in [row[0] for row in result.rows]
        with pytest.raises(SqlError):
            await run(application, eve, "SELECT extensions.pg_stat_statements_reset()")
        await inside.execute(f"ALTER ROLE {admin} NOSUPERUSER")
        await inside.close()


async def test_where_it_is_missing_the_catalog_says_so(postgres: EmbeddedPostgres, project_uri: Any) -> None:
    async with open_application(load_settings({"AGENT_DB_URL": project_uri.reveal()})) as application:
        (found,) = await read(application, Tenant(), statistics.statements_schema())
    assert found == {"schema": None, "version": None, "loaded": True, "available": True, "usable": False}
