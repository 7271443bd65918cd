"""Advised indexes are real: created, the planner uses them, and they save what was promised."""

from __future__ import annotations

import logging
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import anyio
import pytest
from advising import World, brief
from workloads import WORKLOADS

from agentdb_mcp.bootstrap import Application, open_application
from agentdb_mcp.errors import BudgetExceeded, SqlError
from agentdb_mcp.execution import Statement
from agentdb_mcp.models import BudgetState, Quantities, Scope, Tenant
from agentdb_mcp.services.analysis import Explained, Hypothesis
from agentdb_mcp.store import SettledHour

# The figures: --log-cli-level=INFO shows them.
log = logging.getLogger(__name__)
# Costs below this say nothing: a page here or there.
LITTLE = 5.0


@pytest.mark.parametrize("name", WORKLOADS)
async def test_an_advised_index_is_used_when_it_is_made_and_saves_what_was_promised(world: World, name: str) -> None:
    texts, least = WORKLOADS[name]
    untouched = await world.indexes()
    before = [await world.plan(text) for text in texts]
    advice = await world.advise(*texts)
    assert advice.method == world.method
    assert await world.indexes() == untouched
    for expected in least:
        assert any(expected.rstrip(")") in found for found in brief(advice)), brief(advice)
    names = [f"advised_{number}" for number in range(len(advice.recommendations))]
    blocks = [await _blocks(world, text) for text in texts]
    for made, one in zip(names, advice.recommendations, strict=True):
        await world.run(one.index.sql(made))
    try:
        after = [await world.plan(text) for text in texts]
        read = [await _blocks(world, text) for text in texts]
    finally:
        for made in names:
            await world.run(f"DROP INDEX {made}")
    for made, one in zip(names, advice.recommendations, strict=True):
        assert one.queries
        for number in one.queries:
            assert made in str(after[number - 1]), "the planner uses it"
    for asked, old, new in zip(advice.asked, before, after, strict=True):
        promised, kept = (asked.cost_before or 0) - (asked.cost_after or 0), old["Total Cost"] - new["Total Cost"]
        figures = asked.cost_before, asked.cost_after, old["Total Cost"], new["Total Cost"]
        log.info("%s, %s: promised %.0f → %.1f, measured %.0f → %.1f", world.method, name, *figures)
        assert asked.cost_before == pytest.approx(old["Total Cost"])
        assert promised >= 0.1 * (asked.cost_before or 0)
        assert promised / 2 <= kept <= promised * 2
        assert new["Total Cost"] <= max(2 * (asked.cost_after or 0), LITTLE)
        assert (asked.cost_after or 0) <= max(2 * new["Total Cost"], LITTLE)
    for old_blocks, new_blocks in zip(blocks, read, strict=True):
        assert new_blocks < old_blocks, "fewer pages are read when it really runs"


async def _blocks(world: World, text: str) -> int:
    """The pages that the statement reads when it runs, in a transaction that is not kept."""
    explained = f"EXPLAIN (FORMAT JSON, ANALYZE, BUFFERS) {text}"
    answer = await world.application.queries.execute(
        world.tenant, Scope.AGENT, [Statement(explained)], transaction=True, keep=False
    )
    plan: dict[str, Any] = answer.results[0].rows[0][0][0]["Plan"]  # type: ignore[index]
    return int(plan["Shared Hit Blocks"] + plan["Shared Read Blocks"])


@pytest.mark.parametrize(
    ("there", "sql"),
    [
        (None, "SELECT * FROM accounts WHERE aid = 5"),
        (None, "SELECT * FROM lineitem WHERE l_orderkey = 5"),
        (None, "SELECT * FROM lineitem WHERE l_orderkey = 5 AND l_linenumber = 1 AND l_quantity = 7"),
        ("orders (o_custkey, o_orderdate)", "SELECT * FROM orders WHERE o_custkey = 5"),
        ("orders (o_orderdate DESC)", "SELECT * FROM orders ORDER BY o_orderdate LIMIT 3"),
        (None, "SELECT * FROM orders WHERE o_orderstatus IN ('O', 'F')"),
        (None, "SELECT * FROM orders"),
        (None, "SELECT 1"),
        (None, "INSERT INTO history VALUES (1, 2, 3, 4, now())"),
    ],
)
async def test_nothing_is_advised_that_is_there_or_wins_too_little(built: World, there: str | None, sql: str) -> None:
    if there is not None:
        await built.run(f"CREATE INDEX there ON {there}")
    try:
        assert brief(await built.advise(sql)) == set()
    finally:
        await built.run("DROP INDEX IF EXISTS there")


async def test_the_space_for_new_indexes_bounds_them(world: World) -> None:
    texts, _ = WORKLOADS["several: what they share"]
    free = await world.advise(*texts)
    smallest = min(one.size_bytes for one in free.recommendations)
    assert not (await world.advise(*texts, max_bytes=8192)).recommendations
    bounded = await world.advise(*texts, max_bytes=2 * smallest)
    assert bounded.recommendations
    assert sum(one.size_bytes for one in bounded.recommendations) <= 2 * smallest


async def test_statements_with_places_for_values_are_advised_on_for_any_values(world: World) -> None:
    advice = await world.advise("SELECT * FROM orders WHERE o_custkey = $1 AND o_orderdate > $2")
    assert any(one.startswith("orders(o_custkey") for one in brief(advice))


async def test_columns_are_found_through_views_subqueries_and_common_table_expressions(built: World) -> None:
    await built.run("CREATE VIEW of_clerks AS SELECT o_orderkey AS number, o_clerk AS clerk FROM orders")
    for sql in (
        "SELECT number FROM of_clerks WHERE clerk = 'Clerk 7'",
        "SELECT * FROM (SELECT o_clerk AS a, o_orderkey FROM orders) AS s WHERE a = 'Clerk 7'",
        "WITH w AS (SELECT * FROM orders) SELECT o_orderkey FROM w WHERE o_clerk = 'Clerk 7'",
        "SELECT 1 FROM customer WHERE c_custkey = (SELECT max(o_custkey) FROM orders WHERE o_clerk = 'Clerk 7')",
        "DELETE FROM orders WHERE o_clerk IN ('Clerk 7', 'Clerk 8')",
    ):
        assert any(one.startswith("orders(o_clerk") for one in brief(await built.advise(sql))), sql


async def test_a_table_that_was_never_analyzed_is_remarked_on(built: World) -> None:
    await built.run(
        "CREATE TABLE unseen WITH (autovacuum_enabled = off) AS SELECT n FROM generate_series(1, 9000) AS n"
    )
    advice = await built.advise("SELECT * FROM unseen WHERE n = 5")
    assert any("ANALYZE public.unseen" in remark for remark in advice.remarks)


async def test_costs_before_and_after_are_of_the_same_knowledge_of_the_table(built: World) -> None:
    """Rows turned out to be many more than estimated: a build finds out, and no index is to have the credit for it."""
    await built.run(
        "CREATE TABLE stale (n int, filler text) WITH (autovacuum_enabled = off)",
        "INSERT INTO stale SELECT n, repeat('x', 2000) FROM generate_series(1, 300) AS n",
        "ANALYZE stale",
        "INSERT INTO stale SELECT n, '' FROM generate_series(1, 20000) AS n",
    )
    sql = "SELECT * FROM stale WHERE n = 5"
    (asked,) = (await built.advise(sql)).asked
    assert asked.cost_before == (await built.plan(sql))["Total Cost"]


async def test_the_workload_is_what_ran_weighed_by_its_calls(application: Application) -> None:
    world = World(application, Tenant("working", "workload"), "build")
    await world.run(
        "CREATE TABLE films (id int PRIMARY KEY, genre text, year int)",
        "INSERT INTO films SELECT n, 'genre ' || n % 300, 1900 + n % 120 FROM generate_series(1, 20000) AS n",
        "ANALYZE films",
    )
    for number in range(5):
        await world.run(f"SELECT count(*) FROM films WHERE genre = 'genre 5' AND year = {1990 + number}")
    await world.run("SELECT interval '1 day'", "EXPLAIN SELECT 1", "SELECT count(*) FROM films WHERE id = 5 -- once")
    advice = await world.analysis.indexes_for_workload(world.tenant, Scope.AGENT, 10**9)
    (asked,) = [one for one in advice.asked if "genre = $1 AND year = $2" in one.sql]
    assert asked.calls == 5
    assert asked.cost_before is not None
    assert asked.cost_after is not None
    assert asked.cost_after < asked.cost_before / 2
    assert brief(advice) == {"films(genre, year)"}
    assert [one.queries for one in advice.recommendations] == [(asked.number,)]
    (without_plan,) = [one for one in advice.asked if one.sql == "SELECT interval $1"]
    assert without_plan.skipped
    assert not [one for one in advice.asked if one.sql.startswith(("EXPLAIN", "CREATE", "ANALYZE", "PREPARE"))]
    assert await world.indexes() == [["films_pkey"]]


HYPOTHESES = 'SELECT count(*)::int FROM "What If".hypopg()'
OF_CLERK = "SELECT * FROM orders WHERE o_clerk = 'Clerk 7'"


async def test_what_hypopg_made_is_gone_before_the_next_call_of_the_same_backend(hypothetical: World) -> None:
    backends = await hypothetical.run("SELECT pg_backend_pid()")
    before = await hypothetical.plan(OF_CLERK)
    clerk = Hypothesis("orders", ("o_clerk",))
    found = await explain(hypothetical, OF_CLERK, clerk)
    assert found.method == "hypopg"
    assert found.tried[0].name in found.plan.used_indexes()
    assert await hypothetical.run(HYPOTHESES) == [[0]]
    assert await hypothetical.plan(OF_CLERK) == before
    # The second index cannot be made, when the first is there already.
    await hypothetical.run("CREATE TABLE IF NOT EXISTS shapes (p point)")
    with pytest.raises(SqlError):
        await explain(hypothetical, OF_CLERK, clerk, Hypothesis("shapes", ("p",)))
    assert await hypothetical.run(HYPOTHESES) == [[0]]
    await hypothetical.advise(OF_CLERK)
    assert await hypothetical.run(HYPOTHESES) == [[0]]
    assert await hypothetical.plan(OF_CLERK) == before
    assert await hypothetical.run("SELECT pg_backend_pid()") == backends, "all of it was in one backend"


async def test_a_call_that_is_cancelled_at_any_moment_leaves_no_hypothesis(hypothetical: World) -> None:
    before = await hypothetical.plan(OF_CLERK)
    for milliseconds in range(2, 42, 4):
        with anyio.move_on_after(milliseconds / 1000):
            await explain(hypothetical, OF_CLERK, Hypothesis("orders", ("o_clerk",)))
        assert await hypothetical.run(HYPOTHESES) == [[0]]
        assert await hypothetical.plan(OF_CLERK) == before


async def test_what_an_agent_left_to_hypopg_itself_is_in_no_plan_of_ours(hypothetical: World) -> None:
    left = "CREATE INDEX ON customer (c_name)"
    await hypothetical.run(f"""SELECT indexname FROM "What If".hypopg_create_index('{left}')""")
    sql = "SELECT * FROM customer WHERE c_name = 'Customer 7'"
    assert (await explain(hypothetical, sql, Hypothesis("orders", ("o_clerk",)))).plan.used_indexes() == set()


async def test_what_hypopg_does_not_know_is_built(hypothetical: World) -> None:
    await hypothetical.run("CREATE TABLE IF NOT EXISTS shapes (p point)")
    found = await explain(hypothetical, "SELECT * FROM shapes", Hypothesis("shapes", ("p",), "gist"))
    assert found.method == "build"


async def test_hypopg_is_for_readers_too(hypothetical: World, tmp_path: Path) -> None:
    policy = tmp_path / "policy.toml"
    policy.write_text('name = "x"\nversion = "1"\n[access]\nmode = "restricted"\n[analysis]\nbuild_max_bytes = 0\n')
    settings = replace(hypothetical.application.settings, policy_path=policy)
    async with open_application(settings) as application:
        reader = World(application, hypothetical.tenant, "hypopg")
        assert (await explain(reader, OF_CLERK, Hypothesis("orders", ("o_clerk",)))).method == "hypopg"
        assert brief(await reader.advise(OF_CLERK)) == {"orders(o_clerk)"}


async def test_over_budget_plans_are_made_and_no_index_is_built(application: Application) -> None:
    world = World(application, Tenant("spent", "spent-workspace"), "build")
    managed = application.managed()
    await managed.lifecycle.identity.ensure_user("spent")
    await managed.usage.store.ensure("spent", anchor=datetime.now(UTC) - timedelta(days=3))
    await managed.lifecycle.create_workspace("spent-workspace", "spent", "Notes")
    await world.run("CREATE TABLE t (n int)", "INSERT INTO t SELECT generate_series(1, 5000)", "ANALYZE t")
    row = await managed.lifecycle.databases.find(Scope.AGENT, "agent-spent-workspace")
    assert row is not None
    hour = datetime.now(UTC).replace(minute=0, second=0, microsecond=0) - timedelta(hours=2)
    used = Quantities(storage_byte_us=round(2.02 / 0.35 * 10**9 * 744 * 3600 * 10**6))
    await managed.usage.ledger.settle([SettledHour(row.id, hour, used)], {}, 250)
    assert (await managed.usage.report("spent")).state is BudgetState.EXCEEDED
    found = await explain(world, "SELECT * FROM t WHERE n = 5")
    assert found.plan.total_cost > 0
    assert "$2.00" in (found.budget_note or "")
    with pytest.raises(BudgetExceeded, match="built to be tried"):
        await explain(world, "SELECT * FROM t WHERE n = 5", Hypothesis("t", ("n",)))
    with pytest.raises(BudgetExceeded, match="built to be tried"):
        await world.advise("SELECT * FROM t WHERE n = 5")


async def explain(world: World, sql: str, *hypotheses: Hypothesis) -> Explained:
    return await world.analysis.explain(world.tenant, Scope.AGENT, Statement(sql), hypothetical=hypotheses)
