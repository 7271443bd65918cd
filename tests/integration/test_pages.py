"""Answers in pages: what follows the first, from real statements on a real Postgres."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import asyncpg
import pytest

from agentdb_mcp.bootstrap import Application, open_application
from agentdb_mcp.embedded import EmbeddedPostgres
from agentdb_mcp.errors import AgentDBError, InvalidArgument
from agentdb_mcp.execution import Statement, wire
from agentdb_mcp.models import Scope, Tenant
from agentdb_mcp.services import Page, calls
from agentdb_mcp.services.calls import READ_ON_LEAST_S, READ_ON_S
from agentdb_mcp.settings import load_settings
from agentdb_mcp.store.control import create_database

POLICY = """
name = "pages"
version = "1"
[limits]
max_rows = 100
max_bytes = 200_000
held_rows = 1000
held_row_bytes = 400_000
max_value = 1000
"""
ME = Tenant("ada", "w1")


@pytest.fixture(autouse=True)
def unhurried(monkeypatch: pytest.MonkeyPatch) -> None:
    """Time enough to read past a page on any machine: shipped, it is twentieths of a second."""
    monkeypatch.setattr(calls, "READ_ON_S", 20.0)
    monkeypatch.setattr(calls, "READ_ON_LEAST_S", 20.0)


def hurried(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(calls, "READ_ON_S", READ_ON_S)
    monkeypatch.setattr(calls, "READ_ON_LEAST_S", READ_ON_LEAST_S)


@pytest.fixture(scope="module")
def policy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("policy") / "pages.toml"
    file.write_text(POLICY)
    return file


@pytest.fixture(scope="module")
async def application(postgres: EmbeddedPostgres, policy: Path) -> AsyncIterator[Application]:
    """On databases that were brought, so that any tenant may call."""
    for name in ("pages_agent", "pages_global"):
        await create_database(postgres.uri(), name)
    environ = {
        "AGENT_DB_URL": postgres.uri("pages_agent").reveal(),
        "GLOBAL_DB_URL": postgres.uri("pages_global").reveal(),
        "AGENTDB_POLICY": str(policy),
    }
    async with open_application(load_settings(environ)) as application:
        yield application


async def first(application: Application, sql: str, *params: object, max_rows: int | None = None) -> Page:
    return await application.pages.first(ME, Scope.AGENT, Statement(sql, params), max_rows)


async def follow(application: Application, page: Page, max_rows: int | None = None) -> list[Page]:
    """The page and all that follow it."""
    pages = [page]
    while pages[-1].next:
        pages.append(await application.pages.next(ME, Scope.AGENT, pages[-1].next, max_rows))
    return pages


async def refused(
    application: Application, handle: str, tenant: Tenant = ME, scope: Scope = Scope.AGENT
) -> AgentDBError:
    with pytest.raises(InvalidArgument) as caught:
        await application.pages.next(tenant, scope, handle)
    return caught.value


async def test_pages_together_are_the_whole_answer_once(application: Application) -> None:
    page = await first(application, "SELECT i, 'row ' || i FROM generate_series(1, 350) AS i")
    assert (page.held, page.total, page.result.truncated) == (250, 350, True)
    pages = await follow(application, page)
    assert [len(each.result.rows) for each in pages] == [100, 100, 100, 50]
    assert [each.held for each in pages] == [250, 150, 50, 0]
    assert [each.result.truncated for each in pages] == [True, True, True, False]
    assert {each.total for each in pages} == {350}
    assert [row for each in pages for row in each.result.rows] == [[i, f"row {i}"] for i in range(1, 351)]


async def test_a_page_may_be_asked_for_again_and_in_another_size(application: Application) -> None:
    page = await first(application, "SELECT i FROM generate_series(1, 50) AS i", max_rows=10)
    again = [(await application.pages.next(ME, Scope.AGENT, page.next or "")) for _ in range(2)]
    assert again[0] == again[1]
    assert [row for each in await follow(application, page, 7) for row in each.result.rows] == [
        [i] for i in range(1, 51)
    ]
    for wrong in (0, 101):
        with pytest.raises(InvalidArgument, match="max_rows"):
            await application.pages.next(ME, Scope.AGENT, page.next or "", wrong)


async def test_a_statement_that_writes_runs_once_and_its_pages_show_that_moment(application: Application) -> None:
    await first(application, "CREATE TABLE written (id int)")
    page = await first(application, "INSERT INTO written SELECT generate_series(1, 250) RETURNING id")
    assert page.result.command_tag == "INSERT 0 250"
    await first(application, "DELETE FROM written")
    rows = [row for each in await follow(application, page) for row in each.result.rows]
    assert rows == [[i] for i in range(1, 251)]
    assert (await first(application, "SELECT count(*) FROM written")).result.rows == [[0]]


async def test_more_than_is_held_ends_in_a_page_that_says_so(application: Application) -> None:
    page = await first(application, "SELECT i FROM generate_series(1, 5000) AS i")
    assert (page.held, page.total) == (1000, None)
    pages = await follow(application, page)
    assert sum(len(each.result.rows) for each in pages) == 1100
    assert pages[-1].next is None
    assert pages[-1].result.truncated
    assert [row for each in pages for row in each.result.rows] == [[i] for i in range(1, 1101)]


async def test_a_small_page_has_few_rows_read_past_it(application: Application) -> None:
    page = await first(application, "SELECT i FROM generate_series(1, 5000) AS i", max_rows=3)
    assert (len(page.result.rows), page.held) == (3, 30)


@pytest.mark.parametrize("sql", [
    "SELECT i, repeat('x', 3000) FROM generate_series(1, 1000) AS i",
    "SELECT i, repeat('€', CASE WHEN i < 20 THEN 10 ELSE 150000 END) FROM generate_series(1, 1000) AS i",
])  # fmt: skip
async def test_bytes_bound_what_is_held_as_well(application: Application, sql: str) -> None:
    pages = await follow(application, await first(application, sql, max_rows=10))
    numbers = [row[0] for each in pages for row in each.result.rows]
    assert numbers == list(range(1, len(numbers) + 1))
    assert 10 < len(numbers) < 150
    assert pages[-1].result.truncated


@pytest.mark.parametrize(
    ("rest", "known"),
    [
        pytest.param("1 / (30 - i)", 29, id="an error"),
        pytest.param("CASE WHEN i > 30 THEN (SELECT pg_sleep(5) IS NULL) END", 30, id="a wait"),
        pytest.param("CASE WHEN i > 30 THEN repeat('x', 50000000) END", 30, id="a value that is too large"),
    ],
)
async def test_what_goes_wrong_past_the_page_does_not_take_the_page(
    application: Application, monkeypatch: pytest.MonkeyPatch, rest: str, known: int
) -> None:
    hurried(monkeypatch)
    page = await first(application, f"SELECT i, {rest} FROM generate_series(1, 1000) AS i", max_rows=20)
    assert len(page.result.rows) == 20
    assert page.result.truncated
    assert page.total is None
    assert page.held <= known - 20
    assert (await first(application, "SELECT 1")).result.rows == [[1]]


async def test_reading_past_the_page_that_does_not_end_in_time_costs_the_session_and_not_the_page(
    application: Application, monkeypatch: pytest.MonkeyPatch
) -> None:
    hurried(monkeypatch)
    monkeypatch.setattr(wire, "READ_ON_GRACE_S", -wire.READ_ON_GRACE_S)  # ended before Postgres ends it
    before = (await first(application, "SELECT pg_backend_pid()")).result.rows
    page = await first(application, "SELECT i, pg_sleep(i / 30) IS NULL FROM generate_series(1, 99) AS i", max_rows=20)
    assert len(page.result.rows) == 20
    assert page.result.truncated
    assert (await first(application, "SELECT pg_backend_pid()")).result.rows != before


async def test_values_of_later_pages_are_those_of_the_first(application: Application) -> None:
    sql = (
        "SELECT i, i * 9007199254740991, 1.10::numeric, 'NaN'::float8, '2024-02-29 12:00'::timestamp, '\\x00ff'::bytea,"
        " ARRAY[1, NULL], ARRAY['a b', NULL], '{\"n\": [1.5, 12345678901234567890]}'::jsonb, NULL, true, 'é\n\"'"
        " FROM generate_series(1, 4) AS i"
    )
    whole = (await first(application, sql)).result
    pages = await follow(application, await first(application, sql, max_rows=1))
    assert [row for each in pages for row in each.result.rows] == whole.rows
    assert {each.result.columns for each in pages} == {whole.columns}


async def test_a_handle_is_good_for_whom_it_was_made_and_no_other(application: Application) -> None:
    page = await first(application, "SELECT i FROM generate_series(1, 50) AS i", max_rows=10)
    handle = page.next or ""
    token, _, row = handle.rpartition(".")
    unknown = await refused(application, f"{'A' * 24}.10")
    assert "run it again" in (unknown.hint or "").lower()
    assert "ORDER BY" in (unknown.hint or "")
    said = {(unknown.message, unknown.hint, unknown.code)}
    for tenant, scope in (
        (Tenant("eve", "w1"), Scope.AGENT),
        (Tenant("ada", "w2"), Scope.AGENT),
        (Tenant(), Scope.AGENT),
        (ME, Scope.GLOBAL),
    ):
        error = await refused(application, handle, tenant, scope)
        said.add((error.message, error.hint, error.code))
    for crooked in (
        "", ".", token, f"{token}.", f"{token}.9", f"{token}.50", f"{token}.999999999", f"{token}.-1", f"{token}.1٣",
        f"{token}.10.5.0", f"{token}.10.0.99", f"{token}.10.0", f"{handle}\n", f" {handle}", f"{token[:-1]}.{row}",
    ):  # fmt: skip
        error = await refused(application, crooked)
        said.add((error.message, error.hint, error.code))
    assert len(said) == 1
    assert len((await application.pages.next(ME, Scope.AGENT, handle)).result.rows) == 10


async def test_the_rest_of_a_long_value_is_had_by_its_handle(application: Application) -> None:
    text = "".join(chr(0x100 + i % 5000) for i in range(2500))
    sql = "SELECT i, CASE WHEN i % 2 = 0 THEN $1::text ELSE 'short' END AS body FROM generate_series(1, 6) AS i"
    pages = await follow(application, await first(application, sql, text, max_rows=3))
    assert [(cut.row, cut.column, cut.length) for each in pages for cut in each.cut] == [
        (1, 1, 2500), (0, 1, 2500), (2, 1, 2500)
    ]  # fmt: skip
    for page in pages:
        for cut in page.cut:
            shown = str(page.result.rows[cut.row][cut.column])
            assert shown == text[:1000] + "… [cut: 1,000 of 2,500 characters]"
            parts = await follow(application, await application.pages.next(ME, Scope.AGENT, cut.handle or ""))
            assert text[:1000] + "".join(str(part.result.rows[0][0]) for part in parts) == text
            assert [part.value for part in parts] == [(1000, 2500), (2000, 2500)]
            assert [part.result.truncated for part in parts] == [True, False]


async def test_json_and_bytes_that_are_cut_are_text_and_their_parts_make_the_whole(application: Application) -> None:
    sql = "SELECT jsonb_agg(i) AS numbers, decode(repeat('00ff', 2000), 'hex') AS raw FROM generate_series(1, 500) AS i"
    page = await first(application, sql)
    assert page.next is None
    assert not page.result.truncated
    wholes = []
    for cut, value in zip(page.cut, page.result.rows[0], strict=True):
        assert isinstance(value, str)
        parts = await follow(application, await application.pages.next(ME, Scope.AGENT, cut.handle or ""))
        assert {part.result.columns[0].type for part in parts} == {"text"}
        wholes.append(value.partition("…")[0] + "".join(str(part.result.rows[0][0]) for part in parts))
    assert wholes == ["[" + ",".join(map(str, range(1, 501))) + "]", "AP8A/wD/" * 666 + "AP8A/w=="]


async def test_what_is_held_ends_with_the_database_that_it_is_of(
    application: Application, postgres: EmbeddedPostgres
) -> None:
    page = await first(application, "SELECT i FROM generate_series(1, 50) AS i", max_rows=10)
    held = application.pages._held.get(ME, Scope.AGENT, (page.next or "").partition(".")[0])
    assert held is not None
    object.__setattr__(held, "database", "another")
    assert "Nothing is held" in (await refused(application, page.next or "")).message


async def test_reading_past_the_page_leaves_nothing_in_the_session(
    application: Application, postgres: EmbeddedPostgres
) -> None:
    for sql in (
        "SELECT i FROM generate_series(1, 5000) AS i",
        "SELECT i, 1 / (30 - i) FROM generate_series(1, 99) AS i",
    ):
        await first(application, sql, max_rows=5)
        found = await first(application, "SELECT current_setting('statement_timeout'), count(*) FROM pg_cursors")
        assert found.result.rows == [["15s", 1]], "its own"
    outside = await asyncpg.connect(postgres.uri("pages_agent").reveal())
    assert await outside.fetchval("SELECT count(*) FROM pg_stat_activity WHERE state LIKE 'idle in transaction%'") == 0
    await outside.close()
