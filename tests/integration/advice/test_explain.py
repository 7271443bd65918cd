"""explain_query: plans, what runs and what does not, indexes that there are not, and texts that are up to no good."""

from __future__ import annotations

import secrets
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from typing import Any

import asyncpg
import pytest
from advising import World

from agentdb_mcp.bootstrap import open_application
from agentdb_mcp.embedded import EmbeddedPostgres
from agentdb_mcp.errors import AgentDBError, InvalidArgument, NotAllowed, SqlError, StatementRefused
from agentdb_mcp.execution import Statement
from agentdb_mcp.models import Scope, Tenant
from agentdb_mcp.services.analysis import Explained, Hypothesis
from agentdb_mcp.settings import load_settings

Opener = Callable[[str], Awaitable[World]]

TABLES = (
    "CREATE TABLE items (id int PRIMARY KEY, kind int, price numeric, tags int[]) WITH (autovacuum_enabled = off)",
    "INSERT INTO items SELECT n, n % 1000, n, ARRAY[n % 50] FROM generate_series(1, 20000) AS n",
    "CREATE TABLE parts (item int, label text) WITH (autovacuum_enabled = off)",
    "INSERT INTO parts SELECT 1 + n % 20000, 'label ' || n FROM generate_series(1, 20000) AS n",
    "ANALYZE items, parts",
    "CREATE TABLE notes (n int)",
    """CREATE FUNCTION note() RETURNS int VOLATILE LANGUAGE plpgsql
       AS $$BEGIN INSERT INTO notes VALUES (1); RETURN 1; END$$""",
    "CREATE VIEW noting AS SELECT note() AS n",
    'CREATE TABLE "Odd ""Name" ("a"";--" int)',
    'INSERT INTO "Odd ""Name" SELECT n FROM generate_series(1, 5000) AS n',
    "CREATE SCHEMA elsewhere",
    "CREATE TABLE elsewhere.items (kind int)",
    "CREATE VIEW cheap AS SELECT * FROM items WHERE price < 10",
    "CREATE TABLE parted (n int) PARTITION BY RANGE (n)",
)


@pytest.fixture(scope="module")
async def open_with(postgres: EmbeddedPostgres, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Opener]:
    """Opens an application under a policy, on a database that its caller brought."""
    name, password = f"explained_{secrets.token_hex(4)}", secrets.token_urlsafe(18)
    superuser = await asyncpg.connect(postgres.uri().reveal())
    await superuser.execute(f"CREATE ROLE {name} LOGIN PASSWORD '{password}'")
    await superuser.execute(f"CREATE DATABASE {name} OWNER {name}")
    url = f"postgresql://{name}:{password}@127.0.0.1:{postgres.port}/{name}"
    async with AsyncExitStack() as exits:

        async def open_one(rules: str) -> World:
            file = tmp_path_factory.mktemp("policies") / "policy.toml"
            file.write_text(f'name = "test"\nversion = "1"\n{rules}')
            settings = load_settings({"AGENT_DB_URL": url, "AGENTDB_POLICY": str(file)})
            return World(await exits.enter_async_context(open_application(settings)), Tenant(), "build")

        yield open_one
    await superuser.execute(f"DROP DATABASE {name} WITH (FORCE)")
    await superuser.execute(f"DROP ROLE {name}")
    await superuser.close()


@pytest.fixture(scope="module")
async def shop(open_with: Opener) -> World:
    world = await open_with("")
    await world.run(*TABLES)
    return world


async def explain(
    world: World, sql: str, params: tuple[object, ...] = (), *, analyze: bool = False, **hypothesis: Any
) -> Explained:
    hypothetical = [Hypothesis(**hypothesis)] if hypothesis else []
    return await world.analysis.explain(
        world.tenant, Scope.AGENT, Statement(sql, params), analyze=analyze, hypothetical=hypothetical
    )


async def refused(world: World, sql: str, **given: Any) -> AgentDBError:
    with pytest.raises(AgentDBError) as error:
        await explain(world, sql, **given)
    return error.value


async def test_a_plan_has_a_cost_a_text_and_advice_and_runs_nothing(shop: World) -> None:
    found = await explain(shop, "SELECT * FROM items WHERE kind = 7")
    assert found.plan.total_cost == (await shop.plan("SELECT * FROM items WHERE kind = 7"))["Total Cost"]
    assert found.plan.text().startswith(f"Seq Scan on public.items  (cost=0.00..{found.plan.total_cost:.2f} rows=20 ")
    assert "Filter: (items.kind = 7)" in found.plan.text()
    assert any("drops 99.9 %" in hint and "An index on (kind) may help" in hint for hint in found.hints)
    await explain(shop, "INSERT INTO notes VALUES (1)")
    await explain(shop, "SELECT * FROM noting")
    assert await shop.run("SELECT count(*) FROM notes") == [[0]]


async def test_values_make_the_plan_of_those_values_and_none_that_of_any(shop: World) -> None:
    sql = "SELECT * FROM items WHERE id > $1"
    few, many = await explain(shop, sql, (19_990,)), await explain(shop, sql, (10,))
    assert few.plan.total_cost < many.plan.total_cost / 5
    anyone = await explain(shop, sql)
    assert anyone.generic
    assert not few.generic
    assert "$1" in anyone.plan.text()


async def test_analyze_tells_what_happened(shop: World) -> None:
    found = await explain(shop, "SELECT * FROM items WHERE kind = 7 AND id % 10 = 7", analyze=True)
    assert found.plan.root["Actual Rows"] == 20
    assert found.plan.root["Rows Removed by Filter"] == 19_980
    assert "Execution Time" in found.plan.text()
    assert any("of 20,000 it drops 99.9 %" in hint for hint in found.hints)


@pytest.mark.parametrize(
    ("sql", "analyze", "said"),
    [
        ("SELECT repeat('x', 100), n FROM generate_series(1, 80000) AS n ORDER BY 1, 2", True, "kB to disk"),
        ("SELECT * FROM items WHERE id * 0 = 0", True, "20,000 came, 200 times more. Run ANALYZE public.items"),
        (
            "SELECT count(*) FROM parts AS p JOIN parts AS q ON p.label < q.label",
            False,
            "goes through public.parts 20,000",
        ),
        ("SELECT * FROM notes", False, "public.notes was never analyzed"),
    ],
)
async def test_advice_is_about_what_really_goes_wrong(shop: World, sql: str, analyze: bool, said: str) -> None:
    found = await explain(shop, sql, analyze=analyze)
    assert any(said in hint for hint in found.hints), (found.hints, found.plan.text())


@pytest.mark.parametrize(
    "sql",
    [
        "INSERT INTO notes VALUES (1)",
        "DELETE FROM notes",
        "WITH w AS (INSERT INTO notes VALUES (1) RETURNING n) SELECT * FROM w",
        "SELECT note()",
        "SELECT nextval('x')",
        "SELECT * FROM items FOR UPDATE",
        "CREATE TABLE copied AS SELECT 1",
        "SELECT 1 INTO copied",
        "EXECUTE something",
        "DECLARE c CURSOR FOR SELECT 1",
        "REFRESH MATERIALIZED VIEW x",
    ],
)
async def test_analyze_of_what_does_not_certainly_only_read_is_refused_with_a_hint(shop: World, sql: str) -> None:
    error = await refused(shop, sql, analyze=True)
    assert isinstance(error, StatementRefused)
    assert "analyze" in (error.hint or "") or "execute_transaction" in (error.hint or "")
    assert await shop.run("SELECT count(*) FROM notes") == [[0]]


async def test_analyze_of_a_view_that_writes_ends_at_the_wall(shop: World) -> None:
    error = await refused(shop, "SELECT * FROM noting", analyze=True)
    assert error.sqlstate == "25006"
    assert await shop.run("SELECT count(*) FROM notes") == [[0]]


async def test_analyze_with_an_operator_that_writes_ends_at_the_wall(shop: World) -> None:
    await shop.run(
        """CREATE FUNCTION noted(text, int) RETURNS bool VOLATILE LANGUAGE plpgsql
           AS $$BEGIN INSERT INTO notes VALUES (1); RETURN true; END$$""",
        "CREATE OPERATOR = (FUNCTION = noted, LEFTARG = text, RIGHTARG = int)",
    )
    sql = "SELECT * FROM parts WHERE label = item"
    assert (await refused(shop, sql, analyze=True)).sqlstate == "25006"
    assert (await explain(shop, sql)).plan.total_cost > 0
    assert await shop.run("SELECT count(*) FROM notes") == [[0]]


async def test_analyze_needs_values_and_goes_with_no_hypothetical_index(shop: World) -> None:
    assert "params" in ((await refused(shop, "SELECT * FROM items WHERE id = $1", analyze=True)).hint or "")
    error = await refused(shop, "SELECT * FROM items", analyze=True, table="items", columns=("kind",))
    assert isinstance(error, InvalidArgument)


async def test_a_hypothetical_index_is_planned_with_measured_and_gone(shop: World) -> None:
    before = await shop.indexes()
    found = await explain(shop, "SELECT * FROM items WHERE kind = 7", table="items", columns=("kind", "price"))
    (tried,) = found.tried
    assert tried.name in found.plan.used_indexes()
    assert found.method == "build"
    assert found.cost_without is not None
    assert found.plan.total_cost < found.cost_without / 2
    assert 100_000 < tried.size_bytes < 2_000_000
    assert await shop.indexes() == before
    assert (await shop.plan("SELECT * FROM items WHERE kind = 7"))["Total Cost"] == found.cost_without


async def test_other_kinds_of_indexes_can_be_tried_where_postgres_has_them(shop: World) -> None:
    sql = "SELECT * FROM items WHERE tags @> ARRAY[7]"
    found = await explain(shop, sql, table="items", columns=("tags",), using="gin")
    assert found.tried[0].name in found.plan.used_indexes()
    error = await refused(shop, sql, table="items", columns=("kind",), using="gin")
    assert error.sqlstate == "42704"
    assert error.position is None


async def test_a_table_is_looked_for_as_in_the_callers_statements_or_in_its_schema(shop: World) -> None:
    found = await explain(shop, "SELECT 1", table="items", columns=("kind",))
    assert found.tried[0].index.schema == "public"
    found = await explain(shop, "SELECT 1", table="items", columns=("kind",), schema="elsewhere")
    assert found.tried[0].index.sql() == 'CREATE INDEX ON "elsewhere"."items" ("kind")'


@pytest.mark.parametrize(
    ("hypothesis", "said"),
    [
        ({"table": "nowhere", "columns": ("a",)}, "hypothetical_indexes[0].table"),
        ({"table": "notes", "columns": ("n",), "schema": "elsewhere"}, "hypothetical_indexes[0].table"),
        ({"table": "pg_class", "columns": ("relname",)}, "hypothetical_indexes[0].table"),
        ({"table": "cheap", "columns": ("kind",)}, "hypothetical_indexes[0].table"),
        ({"table": "parted", "columns": ("n",)}, "hypothetical_indexes[0].table"),
        ({"table": "items", "columns": ("lower(kind)",)}, "hypothetical_indexes[0].columns"),
        ({"table": "items", "columns": ("kind) WHERE (note() = 1",)}, "hypothetical_indexes[0].columns"),
        ({"table": "items (kind); DROP TABLE notes; --", "columns": ("kind",)}, "hypothetical_indexes[0].table"),
        ({"table": 'items" ("kind"); DROP TABLE notes; --', "columns": ("kind",)}, "hypothetical_indexes[0].table"),
        ({"table": "public.items", "columns": ("kind",)}, "hypothetical_indexes[0].table"),
    ],
)
async def test_names_are_looked_up_and_never_become_sql(shop: World, hypothesis: dict[str, Any], said: str) -> None:
    error = await refused(shop, "SELECT 1", **hypothesis)
    assert isinstance(error, InvalidArgument)
    assert said in error.message
    assert await shop.run("SELECT count(*) FROM notes") == [[0]]


async def test_names_that_need_quotes_have_them(shop: World) -> None:
    found = await explain(shop, 'SELECT * FROM "Odd ""Name" WHERE "a"";--" = 5', table='Odd "Name', columns=('a";--',))
    assert found.tried[0].name in found.plan.used_indexes()


@pytest.mark.parametrize(
    "sql",
    [
        "SELECT 1; DROP TABLE notes",
        "SELECT 1; SELECT 2",
        "ANALYZE SELECT note()",
        "(ANALYZE) SELECT note()",
        "(ANALYZE true, VERBOSE) SELECT note()",
        "VERBOSE SELECT 1",
        ") SELECT note()",
        ", ANALYZE) SELECT note()",
        "/* */ ANALYZE /* */ SELECT note()",
        "EXPLAIN ANALYZE SELECT note()",
        "ANALYZE items",
        "DROP TABLE notes",
        "CREATE TABLE other (n int)",
        "COPY notes TO STDOUT",
        "SET search_path = elsewhere",
        "EXECUTE something",
        "COMMIT",
        "VACUUM",
        "--",
        " ",
        "SELECT 'not closed",
        "SELECT 1 /* not closed",
        "SELECT \0",
    ],
)
async def test_a_text_is_one_statement_that_is_planned_or_nothing(shop: World, sql: str) -> None:
    before = await shop.run("SELECT count(*) FROM pg_class")
    error = await refused(shop, sql)
    assert isinstance(error, SqlError | StatementRefused | InvalidArgument)
    assert await shop.run("SELECT count(*) FROM notes") == [[0]]
    assert await shop.run("SELECT count(*) FROM pg_class") == before


@pytest.mark.parametrize(
    "sql",
    [
        "CREATE TABLE other AS SELECT * FROM items",
        "DECLARE c CURSOR FOR SELECT * FROM items",
        "SELECT * FROM items -- ; DROP TABLE notes",
        "SELECT * FROM items;",
        "  (SELECT * FROM items)",
        "/* ( */ SELECT * FROM items /* ) */",
        "TABLE items",
    ],
)
async def test_what_only_looks_like_more_is_planned_and_made_by_nobody(shop: World, sql: str) -> None:
    found = await explain(shop, sql)
    assert found.plan.relations() == {"items": ("public", "items")}
    assert await shop.run("SELECT to_regclass('other') IS NULL") == [[True]]


async def test_an_error_counts_characters_in_the_callers_own_text(shop: World) -> None:
    error = await refused(shop, "SELECT nothing FROM items")
    assert (error.sqlstate, error.position) == ("42703", 8)
    with pytest.raises(SqlError) as second:
        await shop.advise("SELECT 1", "SELECT nothing FROM items")
    assert (second.value.sqlstate, second.value.position) == ("42703", 8)
    assert second.value.message.startswith("Query 2: ")


@pytest.mark.parametrize("sql", ["EXPLAIN SELECT 1", "ANALYZE items", "CREATE TABLE made (n int)"])
async def test_who_writes_explain_too_is_told_that_it_is_put_there(shop: World, sql: str) -> None:
    assert "EXPLAIN is put before it here" in ((await refused(shop, sql)).hint or "")


async def test_restricted_access_plans_and_builds_no_index(shop: World, open_with: Opener) -> None:
    reader = await open_with('[access]\nmode = "restricted"\n')
    assert (await explain(reader, "SELECT * FROM items WHERE kind = 7")).plan.total_cost > 0
    assert (await explain(reader, "SELECT * FROM items WHERE kind = 7", analyze=True)).plan.root["Actual Rows"] == 20
    error = await refused(reader, "SELECT * FROM items", table="items", columns=("kind",))
    assert isinstance(error, StatementRefused)
    assert "built to be tried" in error.message
    assert "read-only" in error.message
    with pytest.raises(StatementRefused, match="read-only"):
        await reader.advise("SELECT * FROM items WHERE kind = 7")


async def test_a_large_table_has_no_index_built_and_the_answer_says_why(shop: World, open_with: Opener) -> None:
    careful = await open_with("[analysis]\nbuild_max_bytes = 8192\n")
    error = await refused(careful, "SELECT * FROM items", table="items", columns=("kind",))
    assert isinstance(error, NotAllowed)
    for word in ("public.items", "hypopg is not installed", "8,192"):
        assert word in error.message
    advice = await careful.advise("SELECT * FROM items WHERE kind = 7")
    assert not advice.recommendations
    assert any("hypopg is not installed" in remark for remark in advice.remarks)


async def test_when_the_trials_are_over_what_helps_other_statements_is_advised_too(
    shop: World, open_with: Opener
) -> None:
    hurried = await open_with("[analysis]\nmax_trials = 2\n")
    advice = await hurried.advise(
        "SELECT * FROM items WHERE kind = 7 AND price > 100", "SELECT * FROM parts WHERE label = 'label 7'"
    )
    assert advice.tried == 2
    assert {one.index.table for one in advice.recommendations} == {"items", "parts"}
    assert any("Not every candidate" in remark for remark in advice.remarks)


async def test_without_statistics_of_statements_there_is_no_workload(shop: World) -> None:
    with pytest.raises(NotAllowed, match="pg_stat_statements") as error:
        await shop.analysis.indexes_for_workload(shop.tenant, Scope.AGENT, 10**9)
    assert "analyze_query_indexes" in (error.value.hint or "")


async def test_building_waits_a_second_for_a_writer_and_gives_up(shop: World, open_with: Opener) -> None:
    other = await open_with("")
    async with AsyncExitStack() as exits:
        url = other.application.settings.agent_db_url
        assert url is not None
        writer = await asyncpg.connect(url.reveal())
        exits.push_async_callback(writer.close)
        await exits.enter_async_context(writer.transaction())
        await writer.execute("UPDATE items SET price = price WHERE id = 1")
        error = await refused(shop, "SELECT * FROM items", table="items", columns=("kind",))
        assert error.sqlstate == "55P03"
        assert error.retryable
        advice = await shop.advise("SELECT * FROM items WHERE kind = 7 AND price > 5")
        assert not advice.recommendations
        assert advice.tried == 1, "nobody waits a second time"
        assert any("public.items is being written to" in remark for remark in advice.remarks)
