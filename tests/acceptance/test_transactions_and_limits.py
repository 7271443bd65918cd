"""execute_transaction is all or nothing; time and budget have an end."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import anyio
import asyncpg
import pytest

from agentdb_mcp.local_stack import LocalStack

if TYPE_CHECKING:
    from tests.acceptance.conftest import Answer, Serve, ServeFactory


def statements(*texts: str) -> list[dict[str, Any]]:
    return [{"sql": text} for text in texts]


async def transaction(agent: Serve, *texts: str) -> Answer:
    return await agent.call("execute_transaction", statements=statements(*texts))


async def test_a_transaction_answers_each_statement(agent: Serve) -> None:
    answer = await agent.call(
        "execute_transaction",
        statements=[
            {"sql": "CREATE TABLE ledger (id int, amount int)"},
            {"sql": "INSERT INTO ledger VALUES ($1, $2), (2, 20) RETURNING id", "params": [1, 10]},
            {"sql": "SELECT sum(amount) FROM ledger WHERE id = ANY ($1)", "params": [[1, 2]]},
        ],
    )
    assert not answer.is_error
    created, inserted, total = answer.fields["results"]
    assert created["command_tag"] == "CREATE TABLE"
    assert inserted["rows"] == [[1], [2]]
    assert total["rows"] == [[30]]
    assert (await agent.sql("SELECT count(*) FROM ledger")).rows == [[2]]


async def test_a_transaction_that_fails_leaves_nothing_and_names_the_statement(agent: Serve) -> None:
    answer = await transaction(
        agent, "CREATE TABLE half (id int)", "INSERT INTO half VALUES (1)", "SELECT 1 / 0", "SELECT 2"
    )
    assert answer.code == "sql_error"
    assert answer.error["sqlstate"] == "22012"
    assert "3 of 4" in answer.error["message"]
    assert (await agent.sql("SELECT to_regclass('half')")).rows == [[None]]


async def test_a_constraint_checked_at_the_end_undoes_the_whole(agent: Serve) -> None:
    await agent.sql("CREATE TABLE late (id int UNIQUE DEFERRABLE INITIALLY DEFERRED)")
    answer = await transaction(agent, "INSERT INTO late VALUES (1)", "INSERT INTO late VALUES (1)")
    assert answer.error["sqlstate"] == "23505"
    assert (await agent.sql("SELECT count(*) FROM late")).rows == [[0]]


async def test_a_long_value_in_a_transaction_is_cut_and_its_rest_is_there(agent: Serve) -> None:
    texts = ("SELECT 1", "SELECT repeat('x', 20003) AS long", "SELECT generate_series(1, 2000)")
    answer = await transaction(agent, *texts)
    one, cut, many = answer.fields["results"]
    assert "cut" not in one
    assert cut["rows"][0][0].endswith("… [cut: 20,000 of 20,003 characters]")
    rest = await agent.call("get_rows", handle=cut["cut"][0]["handle"])
    assert rest.rows == [["xxx"]]
    assert many["truncated"]
    assert "next_handle" not in many
    assert "ORDER BY" in many["more"]


@pytest.mark.parametrize("word", ["COMMIT", "ROLLBACK", "BEGIN", "END", "COMMIT AND CHAIN", "ABORT"])
async def test_a_transaction_cannot_be_ended_from_inside(agent: Serve, word: str) -> None:
    answer = await transaction(agent, "CREATE TABLE kept (id int)", word, "SELECT 1 / 0")
    assert answer.code == "statement_refused"
    assert answer.error["hint"]
    assert (await agent.sql("SELECT to_regclass('kept')")).rows == [[None]]


async def test_a_text_of_two_statements_in_a_transaction_is_refused_before_anything_runs(agent: Serve) -> None:
    answer = await transaction(agent, "CREATE TABLE before (id int)", "SELECT 1; SELECT 2")
    assert answer.code == "statement_refused"
    assert "2 of 2" in answer.error["message"]
    assert (await agent.sql("SELECT to_regclass('before')")).rows == [[None]]


async def test_a_setting_or_temporary_table_lasts_as_long_as_the_transaction(agent: Serve) -> None:
    answer = await transaction(
        agent,
        "CREATE TEMP TABLE scratch ON COMMIT DROP AS SELECT 1 AS id",
        "SET LOCAL timezone = 'Asia/Tokyo'",
        "SELECT current_setting('timezone'), (SELECT id FROM scratch)",
    )
    assert not answer.is_error, answer.text
    assert answer.fields["results"][2]["rows"] == [["Asia/Tokyo", 1]]
    assert (await agent.sql("SELECT current_setting('timezone')")).rows != [["Asia/Tokyo"]]


async def test_a_transaction_in_the_global_database_stays_there(agent: Serve) -> None:
    answer = await agent.call(
        "execute_transaction", database="global", statements=statements("CREATE TABLE everyone (id int)")
    )
    assert not answer.is_error
    assert (await agent.sql("SELECT to_regclass('everyone')")).rows == [[None]]
    assert (await agent.sql("SELECT to_regclass('everyone')::text", database="global")).rows == [["everyone"]]


@pytest.fixture(scope="module")
async def hurried(
    serve: ServeFactory,
    tenant: Callable[..., dict[str, str]],
    until: Callable[..., Awaitable[None]],
    tmp_path_factory: pytest.TempPathFactory,
) -> AsyncIterator[Serve]:
    """An agent whose policy gives a statement half a second."""
    policy = tmp_path_factory.mktemp("policy") / "hurried.toml"
    policy.write_text('name = "hurried"\nversion = "1"\n[limits]\ntimeout_s = 0.5\n')
    async with serve(tenant("hurried-user", "hurried-workspace", AGENTDB_POLICY=str(policy))) as server:
        await until(lambda: answers(server))
        yield server


async def answers(hurried: Serve) -> bool:
    """Whether a statement is answered: half a second is less than a busy machine may take to open a connection."""
    answer = await hurried.call("execute_sql", sql="SELECT 1")
    assert not answer.is_error or answer.code in ("database_unavailable", "timeout"), answer.text
    return not answer.is_error


@pytest.mark.parametrize(
    "sql",
    [
        "SELECT pg_sleep(60)",
        "SELECT count(*) FROM generate_series(1, 1000000000)",
        "DO $$ BEGIN LOOP BEGIN PERFORM pg_sleep(60); EXCEPTION WHEN query_canceled THEN NULL; END; END LOOP; END $$",
    ],
)
async def test_a_statement_that_does_not_end_is_a_timeout_and_the_next_one_works(
    hurried: Serve, stack: LocalStack, until: Callable[..., Awaitable[None]], sql: str
) -> None:
    answer = await hurried.refused(sql)
    assert answer.code == "timeout"
    assert answer.error["hint"]
    await until(lambda: answers(hurried))
    outside = await asyncpg.connect(stack.postgres.uri().reveal())

    async def nothing_runs() -> bool:
        running = "SELECT count(*) FROM pg_stat_activity WHERE query = $1 AND state = 'active'"
        return not await outside.fetchval(running, sql)

    await until(nothing_runs)
    await outside.close()


async def test_a_statement_cannot_give_itself_more_time(hurried: Serve) -> None:
    answer = await transaction(hurried, "SET statement_timeout = 0", "SELECT pg_sleep(60)")
    assert answer.is_error


@pytest.fixture
async def spender(
    serve: ServeFactory, tenant: Callable[..., dict[str, str]], tmp_path: Path
) -> AsyncIterator[tuple[Serve, dict[str, str]]]:
    """An agent for whom a tenth of a second costs a good part of the month."""
    policy = tmp_path / "dear.toml"
    policy.write_text(
        'name = "dear"\nversion = "1"\n[budget]\npaused_percent = 100000\n'
        '[prices]\nbook = "dear"\n[compute]\nsuspend_timeout_s = 0\n[price_books.dear]\ndate = 2026-11-01\n'
        'source = "invented"\ncompute_per_cu_hour = "14400"\nstorage_per_gb_month = "0"\nhistory_per_gb_month = "0"\n'
        'egress_per_gb = "0"\negress_free_gb = 0\nbranch_month = "0"\n'
    )
    environ = tenant("spender", "spending", AGENTDB_POLICY=str(policy))
    async with serve(environ) as server:
        yield server, environ


async def test_who_overspends_may_read_and_drop_but_not_write(spender: tuple[Serve, dict[str, str]]) -> None:
    agent, _ = spender
    await agent.sql("CREATE TABLE spent (id int)")
    with anyio.fail_after(30):
        while (await agent.call("get_budget")).fields["state"] != "exceeded":
            await agent.call("execute_sql", sql="SELECT pg_sleep(0.3)")
    for sql in ("INSERT INTO spent VALUES (1)", "CREATE TABLE more (id int)", "DELETE FROM spent", "TRUNCATE spent"):
        answer = await agent.refused(sql)
        assert answer.code == "budget_exceeded", sql
        assert "get_budget" in answer.text
    refused = await transaction(agent, "SELECT 1", "INSERT INTO spent VALUES (1)")
    assert refused.code == "budget_exceeded"
    hidden = await agent.refused("WITH w AS (INSERT INTO spent VALUES (1) RETURNING 1) SELECT * FROM w")
    assert hidden.code == "budget_exceeded"
    read = await agent.sql("SELECT count(*) FROM spent")
    assert read.rows == [[0]]
    assert "exceeded" in read.fields["budget_note"]
    assert (await agent.sql("DROP TABLE spent")).fields["command_tag"] == "DROP TABLE"
    budget = (await agent.call("get_budget")).fields
    assert budget["remaining_cents"] == 0
    assert "write" not in budget["allowed"]
