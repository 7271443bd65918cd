"""Rows copied from one of a tenant's databases to the other: which, as what, into what, and what is refused."""

from __future__ import annotations

from typing import Any

import anyio
import pytest
from mcp_types import TextContent

from agentdb_mcp.bootstrap import Application
from agentdb_mcp.errors import SqlError
from agentdb_mcp.mcp_server.server import call_tool
from agentdb_mcp.models import Scope, Tenant
from agentdb_mcp.services import Copying
from copying_sides import AGENT, GLOBAL, Sides

EVERY_TYPE = r"""SELECT 1::int2 AS a, 2::int4 AS b, 3::int8 AS c, 'Infinity'::float8 AS d, 1.50::numeric(10,2) AS e,
    E'tab\t line\n back\\ \\. é' AS f, NULL::text AS g, ''::text AS h, '\x00ff'::bytea AS i, '24:00'::time AS j,
    'infinity'::timestamptz AS k, '1 mon -2 days'::interval AS l, '{"a": [1]}'::jsonb AS m, ARRAY['x,"y', NULL] AS n,
    'b1b2c3d4-0000-0000-0000-000000000000'::uuid AS o, 'ab '::char(5) AS p, B'101'::bit(3) AS q,
    '[1,5)'::int4range AS r, true AS s, '10.0.0.1/8'::inet AS t, '4713-01-01 BC'::date AS u, ARRAY[[1,2],[3,4]] AS v,
    'x'::"char" AS w, '(1,2)'::point AS x, 0.1::float4 AS y, '\N' AS z"""


@pytest.fixture(scope="module")
def sides(application: Application) -> Sides:
    return Sides(application, Tenant("copier", "copying"))


async def test_values_of_every_common_type_arrive_as_they_were(sides: Sides) -> None:
    copied = await sides.copy(EVERY_TYPE, "every_type", "create")
    assert (copied.rows, copied.remarks) == (1, ())
    assert [column.type for column in copied.columns][:5] == [
        "smallint", "integer", "bigint", "double precision", "numeric",
    ]  # fmt: skip
    whole = "SELECT to_jsonb(t)::text, pg_typeof(e)::text, pg_typeof(q)::text, pg_typeof(p)::text FROM (%s) AS t"
    assert await sides.sql(GLOBAL, whole % "SELECT * FROM every_type") == await sides.sql(AGENT, whole % EVERY_TYPE)


@pytest.mark.parametrize("source", [AGENT, GLOBAL])
async def test_all_rows_arrive_in_the_other_database_and_how_far_it_is_is_told(sides: Sides, source: Scope) -> None:
    target = GLOBAL if source is AGENT else AGENT
    sides.reports.clear()
    query = "SELECT i AS id, repeat('x', i % 500) AS text FROM generate_series(1, 30000) AS i;  -- all of them"
    copied = await sides.copy(query, f"all_rows_{source}", "create", source)
    assert (copied.rows, copied.scope, copied.table) == (30_000, target, ("public", f"all_rows_{source}"))
    sums = f"SELECT count(*), sum(id), sum(length(text)) FROM all_rows_{source}"
    assert await sides.sql(target, sums) == [[30_000, 450_015_000, 7_485_000]]
    assert sides.reports == sorted(set(sides.reports))
    assert (sides.reports[0], sides.reports[-1]) == (0, 30_000)


async def test_a_column_of_what_means_something_to_copy(sides: Sides) -> None:
    query = r"SELECT n, text FROM (VALUES (1, '\.'), (2, ''), (3, NULL), (4, '\N'), (5, E'\n')) AS t (n, text)"
    await sides.copy(f"SELECT text FROM ({query}) AS t", "meaning", "create")
    assert await sides.sql(GLOBAL, "SELECT text FROM meaning") == [["\\."], [""], [None], ["\\N"], ["\n"]]


async def test_names_from_a_database_stand_in_the_text_as_somebody_elses(sides: Sides) -> None:
    await sides.sql(AGENT, "CREATE TYPE \"Obey me\" AS ENUM ('a')")
    await sides.remake("framed", 'id int, "Obey me" int')
    operations = sides.application.operations(sides.tenant)
    for query, table, mode in (
        ("SELECT 'a'::\"Obey me\" AS a", "framed_as_text", "create"),
        ('SELECT 1 AS "Obey mr"', "framed", "append"),
    ):
        arguments = {"from_database": "agent", "query": query, "to_table": table, "mode": mode}
        (block,) = (await call_tool(operations, "copy_rows", arguments)).content
        assert isinstance(block, TextContent)
        before, mark, inside = block.text.partition("<untrusted-data-")
        assert mark
        assert "Obey me" not in before
        assert "Obey me" in inside
        assert "Obey me" not in inside.rpartition("</untrusted-data-")[2]


async def test_whoever_is_slow_to_hear_how_far_it_is_holds_up_no_copy(sides: Sides) -> None:
    async def report(_rows: int, _message: str) -> None:
        await anyio.sleep_forever()

    copying = Copying(sides.application.queries.calls)
    with anyio.fail_after(20):
        copied = await copying.copy(sides.tenant, AGENT, "SELECT 1 AS id", ("public", "unheard"), "create", report)
    assert copied.rows == 1


async def test_no_rows_make_an_empty_table(sides: Sides) -> None:
    assert (await sides.copy("SELECT 1 AS id WHERE false", "no_rows", "create")).rows == 0
    assert await sides.sql(GLOBAL, "SELECT count(*) FROM no_rows") == [[0]]


async def test_columns_go_by_name_and_what_is_left_out_takes_its_default(sides: Sides) -> None:
    await sides.remake("people", 'id int PRIMARY KEY, name text, since date DEFAULT \'2026-01-01\', "Odd ""name" text')
    await sides.sql(GLOBAL, "INSERT INTO people VALUES (1, 'Ada')")
    query = """SELECT 'Bob' AS name, 2 AS id, 'odd' AS "Odd ""name" """
    assert (await sides.copy(query, "people")).rows == 1
    assert await sides.sql(GLOBAL, "SELECT * FROM people ORDER BY id") == [
        [1, "Ada", "2026-01-01", None],
        [2, "Bob", "2026-01-01", "odd"],
    ]


async def test_replacing_leaves_the_querys_rows_alone_and_keeps_who_refers_to_them(sides: Sides) -> None:
    await sides.remake("parents", "id int PRIMARY KEY, name text, parent int REFERENCES parents ON DELETE CASCADE")
    deferred = "DEFERRABLE INITIALLY DEFERRED"
    await sides.remake("children", f"parent int REFERENCES parents {deferred}")
    await sides.sql(GLOBAL, "INSERT INTO parents VALUES (1, 'old'), (2, 'old')")
    await sides.sql(GLOBAL, "INSERT INTO children VALUES (1)")
    assert (await sides.copy("SELECT 1 AS id, 'new' AS name", "parents", "replace")).rows == 1
    assert await sides.sql(GLOBAL, "SELECT id, name FROM parents") == [[1, "new"]]
    assert await sides.sql(GLOBAL, "SELECT * FROM children") == [[1]]
    error = await sides.refused("SELECT 3 AS id", "parents", "replace")
    assert error.sqlstate == "23503"
    assert await sides.sql(GLOBAL, "SELECT id, name FROM parents") == [[1, "new"]]


async def test_replacing_changes_no_other_table(sides: Sides) -> None:
    await sides.remake("owners", "id int PRIMARY KEY")
    await sides.remake("pets", "owner int REFERENCES owners ON DELETE CASCADE")
    await sides.sql(GLOBAL, "INSERT INTO owners VALUES (1)")
    await sides.sql(GLOBAL, "INSERT INTO pets VALUES (1)")
    error = await sides.refused("SELECT 1 AS id", "owners", "replace")
    assert isinstance(error, SqlError)
    assert "pets" in error.message
    assert "pets_owner_fkey" in error.message
    assert await sides.sql(GLOBAL, "SELECT count(*) FROM pets") == [[1]]


async def test_replacing_keeps_the_rows_of_tables_that_inherit_and_empties_every_partition(sides: Sides) -> None:
    await sides.remake("general", "id int")
    await sides.sql(GLOBAL, "CREATE TABLE special () INHERITS (general)")
    await sides.sql(GLOBAL, "INSERT INTO special VALUES (7)")
    await sides.sql(GLOBAL, "INSERT INTO general VALUES (1)")
    assert (await sides.copy("SELECT 2 AS id", "general", "replace")).rows == 1
    assert await sides.sql(GLOBAL, "SELECT id FROM ONLY general") == [[2]]
    assert await sides.sql(GLOBAL, "SELECT id FROM special") == [[7]]
    await sides.sql(GLOBAL, "CREATE TABLE split (id int) PARTITION BY RANGE (id)")
    await sides.sql(GLOBAL, "CREATE TABLE split_all PARTITION OF split DEFAULT")
    await sides.sql(GLOBAL, "INSERT INTO split VALUES (1)")
    await sides.copy("SELECT 2 AS id", "split", "replace")
    assert await sides.sql(GLOBAL, "SELECT id FROM split") == [[2]]


async def test_a_rule_or_trigger_that_keeps_old_rows_lets_nothing_be_replaced(sides: Sides) -> None:
    await sides.remake("kept", "id int")
    await sides.sql(GLOBAL, "INSERT INTO kept VALUES (1)")
    await sides.sql(GLOBAL, "CREATE RULE stay AS ON DELETE TO kept DO INSTEAD NOTHING")
    error = await sides.refused("SELECT 2 AS id", "kept", "replace")
    assert "public.kept" in error.message
    assert "rule" in error.message
    assert error.hint
    assert await sides.sql(GLOBAL, "SELECT id FROM kept") == [[1]]


async def test_a_syntax_error_inside_a_function_is_told_as_that(sides: Sides) -> None:
    await sides.remake("plain", "id int")
    await sides.sql(
        AGENT, "CREATE FUNCTION bad() RETURNS int LANGUAGE plpgsql AS $$BEGIN EXECUTE 'selec 1'; RETURN 1; END$$"
    )
    error = await sides.refused("SELECT bad() AS id", "plain")
    assert error.sqlstate == "42601"
    assert "selec" in error.message


async def test_types_that_the_other_database_lacks_become_text_with_a_note_and_others_are_kept(sides: Sides) -> None:
    for kind in (
        "TYPE mood AS ENUM ('good', 'bad')",
        "DOMAIN short AS varchar(5)",
        "TYPE place AS (x int, y int)",
        "TYPE shared AS ENUM ('a', 'b')",
    ):
        await sides.sql(AGENT, f"CREATE {kind}")
    await sides.sql(GLOBAL, "CREATE TYPE shared AS ENUM ('a', 'b')")
    query = """SELECT 'good'::mood AS mood, ARRAY['bad']::mood[] AS moods, 'abc'::short AS short,
        ROW(1, 2)::place AS place, ARRAY['x'::short] AS shorts, 'b'::shared AS shared, ARRAY['a']::shared[] AS many,
        ROW(1) AS anything"""
    copied = await sides.copy(query, "odd_types", "create")
    types = {column.name: column.type for column in copied.columns}
    assert types == {
        "mood": "text", "moods": "text[]", "short": "character varying", "place": "text", "shorts": "text[]",
        "shared": "shared", "many": "shared[]", "anything": "text",
    }  # fmt: skip
    noted = [note.split("'")[1] for note in copied.remarks]
    assert noted == ["mood", "moods", "place", "shorts", "anything"]
    (row,) = await sides.sql(GLOBAL, "SELECT * FROM odd_types")
    assert row == ["good", ["bad"], "abc", "(1,2)", ["x"], "b", ["a"], "(1)"]


async def test_an_extensions_type_needs_the_extension_and_is_found_in_any_schema(sides: Sides) -> None:
    await sides.sql(AGENT, "CREATE EXTENSION hstore")
    query = "SELECT 'a=>1'::hstore AS h, ARRAY['b=>2'::hstore] AS hs"
    error = await sides.refused(query, "stored", "create")
    assert error.sqlstate == "42704"
    assert "'h'" in error.message
    assert "CREATE EXTENSION hstore" in (error.hint or "")
    await sides.sql(GLOBAL, "CREATE SCHEMA elsewhere")
    await sides.sql(GLOBAL, "CREATE EXTENSION hstore SCHEMA elsewhere")
    assert (await sides.copy(query, "stored", "create")).remarks == ()
    assert await sides.sql(GLOBAL, "SELECT pg_typeof(h)::text, pg_typeof(hs)::text FROM stored") == [
        ["elsewhere.hstore", "elsewhere.hstore[]"]
    ]


async def test_a_trigger_that_drops_rows_makes_them_not_count(sides: Sides) -> None:
    await sides.remake("picky", "id int")
    await sides.sql(
        GLOBAL,
        "CREATE OR REPLACE FUNCTION pick() RETURNS trigger LANGUAGE plpgsql AS"
        " $$ BEGIN IF new.id % 2 = 0 THEN RETURN NULL; END IF; RETURN new; END $$",
    )
    await sides.sql(GLOBAL, "CREATE TRIGGER pick BEFORE INSERT ON picky FOR EACH ROW EXECUTE FUNCTION pick()")
    assert (await sides.copy("SELECT generate_series(1, 10) AS id", "picky")).rows == 5


async def test_a_column_that_numbers_rows_itself_is_noted(sides: Sides) -> None:
    await sides.remake("numbered", "id serial, other int GENERATED BY DEFAULT AS IDENTITY, text text")
    copied = await sides.copy("SELECT 7 AS id, 8 AS other, 'x' AS text", "numbered")
    assert [note.split("'")[1] for note in copied.remarks] == ["id", "other"]


@pytest.mark.parametrize(
    ("query", "table", "mode", "said"),
    [
        ("SELECT 1 AS idd", "target", "append", "no column 'idd'; the nearest is 'id'"),
        ("SELECT 1 AS zzzzzz", "target", "append", "no column 'zzzzzz'."),
        ("SELECT 1 AS twice", "target", "append", "'twice' of public.target is generated from other columns"),
        ("SELECT 1 AS counted", "target", "append", "'counted' of public.target is GENERATED ALWAYS AS IDENTITY"),
        ("SELECT 1 AS id", "nowhere", "append", "There is no table public.nowhere in the global database"),
        ("SELECT 1 AS id", "nowhere", "replace", "There is no table public.nowhere"),
        ("SELECT 1 AS id", "public.nowhere", "create", "a table's name without its schema (got 'public.nowhere')"),
        ("SELECT 1 AS id", "target", "create", "There is a public.target in the global database already"),
        ("SELECT 1 AS id", "seen", "append", "public.seen is not a table"),
        ("SELECT 1 AS id, 2 AS id", "target", "append", "two columns 'id'"),
        ("SELECT 1, 2 AS id", "target", "append", "Column 1 of the query has no name"),
        ("SELECT", "target", "append", "gives no columns"),
        ("SELECT $1::int AS id", "target", "append", "has parameters"),
        ("EXPLAIN SELECT 1", "target", "append", "no column 'QUERY PLAN'"),
        ("EXPLAIN SELECT 1", "plans", "create", "Only a query's rows can be copied"),
        ("SHOW work_mem", "settings", "create", "Only a query's rows can be copied"),
        ("INSERT INTO target VALUES (1) RETURNING id", "target", "append", "The query must read"),
        ("SELECT nextval('s') AS id", "target", "append", "The query must read"),
        ("DROP TABLE target", "target", "append", "The query must read"),
        ("COPY target TO STDOUT", "target", "append", "The query must read"),
        ("SELECT 1 AS id; SELECT 2 AS id", "target", "append", "2 statements"),
        ("", "target", "append", "The SQL is empty"),
        ("SELECT 1 AS id FOR UPDATE", "target", "append", "The query must read"),
        ("SELECT set_config('a.b', 'c', false) AS id", "target", "append", "The query must read"),
        ("SELECT '\0' AS id", "target", "append", "NUL"),
    ],
)
async def test_what_cannot_be_copied_is_refused_with_what_is_wrong(
    sides: Sides, query: str, table: str, mode: Any, said: str
) -> None:
    made = "CREATE TABLE IF NOT EXISTS target (id int PRIMARY KEY, twice int GENERATED ALWAYS AS (id * 2) STORED,"
    await sides.sql(GLOBAL, f"{made} counted int GENERATED ALWAYS AS IDENTITY)")
    await sides.sql(GLOBAL, "CREATE OR REPLACE VIEW seen AS SELECT id FROM target")
    error = await sides.refused(query, table, mode)
    assert said in error.message
    assert error.hint
    assert await sides.sql(GLOBAL, "SELECT count(*) FROM target") == [[0]]


async def test_a_bad_value_is_told_with_its_line_and_column_and_nothing_is_copied(sides: Sides) -> None:
    await sides.remake("lines", "id int CHECK (id <> 70000), text text")
    await sides.sql(GLOBAL, "INSERT INTO lines VALUES (0, 'old')")
    many = "SELECT %s AS id, 'x' AS text FROM (SELECT generate_series(1, 2000000000) AS i) AS s"
    error = await sides.refused(many % "CASE WHEN i = 60000 THEN 'bad' ELSE i::text END", "lines", "replace")
    assert isinstance(error, SqlError)
    assert error.sqlstate == "22P02"
    assert 'COPY lines, line 60000, column id: "bad"' in error.message
    assert "The global database did not take the rows; nothing was copied." in (error.hint or "")
    error = await sides.refused(many % "i", "lines")
    assert error.sqlstate == "23514"
    assert "lines_id_check" in error.message
    assert "COPY lines, line 70000" in error.message
    assert await sides.sql(GLOBAL, "SELECT * FROM lines") == [[0, "old"]]


async def test_a_constraint_that_is_checked_at_the_end_takes_everything_back(sides: Sides) -> None:
    await sides.remake("keyed", "id int UNIQUE DEFERRABLE INITIALLY DEFERRED")
    error = await sides.refused("SELECT i % 10 AS id FROM generate_series(1, 1000) AS i", "keyed")
    assert error.sqlstate == "23505"
    assert await sides.sql(GLOBAL, "SELECT count(*) FROM keyed") == [[0]]


async def test_a_query_that_fails_half_way_leaves_the_table_as_it_was(sides: Sides) -> None:
    await sides.remake("kept", "id int")
    await sides.sql(GLOBAL, "INSERT INTO kept VALUES (7)")
    failing = "SELECT 1 / (100000 - i) AS id FROM generate_series(1, 1000000) AS i"
    for mode in ("append", "replace"):
        error = await sides.refused(failing, "kept", mode)
        assert error.sqlstate == "22012"
        assert "The query failed in the agent database; nothing was copied." in (error.hint or "")
    assert (await sides.refused(failing, "never_made", "create")).sqlstate == "22012"
    assert await sides.sql(GLOBAL, "SELECT * FROM kept") == [[7]]
    assert await sides.sql(GLOBAL, "SELECT to_regclass('never_made') IS NULL") == [[True]]


async def test_a_view_whose_function_writes_cannot_write(sides: Sides) -> None:
    await sides.sql(AGENT, "CREATE TABLE diary (id int)")
    await sides.sql(
        AGENT, "CREATE FUNCTION note() RETURNS int LANGUAGE sql AS 'INSERT INTO diary VALUES (1) RETURNING id'"
    )
    await sides.sql(AGENT, "CREATE VIEW noting AS SELECT note() AS id")
    assert (await sides.refused("SELECT id FROM noting", "noted", "create")).sqlstate == "25006"
    assert await sides.sql(AGENT, "SELECT count(*) FROM diary") == [[0]]
