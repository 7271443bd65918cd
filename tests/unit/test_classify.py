"""What the gate finds in a text: kinds, certainty, names, reasons."""

from __future__ import annotations

import pytest

from agentdb_mcp.gate import TextLimits, classify
from agentdb_mcp.models import Kind, StatementFacts

LIMITS = TextLimits()
R, W, S, D = Kind.READ, Kind.WRITE, Kind.SCHEMA, Kind.RECLAIM
SESSION, TRANSACTION, PRIVILEGE = Kind.SESSION, Kind.TRANSACTION, Kind.PRIVILEGE
SERVER, UNKNOWN = Kind.SERVER, Kind.UNKNOWN

CERTAIN_READS = """
select
select 1
select 1;
;; select 1 ;
SeLeCt/**/1
select(1)
(select 1)
((select 1) union (select 2)) order by 1
values (1, 'a'), (2, 'b')
table t
show search_path
show all
select null, 9223372036854775807, 1.5e-3, 'NaN'::numeric, '-infinity'::timestamptz
select $1::int + $2
select * from t where v like '%;%' or v = '--'
select $$drop table t$$
select $a$ ; delete from t $a$
select E'a\\'; drop table t; --'
select 1 -- ; drop table t
select 1 /* ; drop table t */
select "a;b" from (select 1 as "a;b") as x
select "update" from t
select count(*), sum(x) filter (where y), avg(z) over (partition by a order by b) from t group by a
select a.id from t a join u b using (id) where exists (select 1 from t c where c.id = a.id)
select * from a left join b on a.id = b.id right join c on b.id = c.id cross join d natural join e
with x as (select 1 as n) select * from x
with recursive x(n) as (values (1) union all select n + 1 from x where n < 9) select * from x
select * from generate_series(1, 3) as g(i)
select * from t tablesample system (50)
select coalesce(nullif(trim(v), ''), 'none') from t
select pg_catalog.now(), now() - interval '1 day', current_date, localtimestamp(2)
select v::varchar(10), cast(v as numeric(10, 2)) from t
select '{"a": [1]}'::jsonb #> '{a,0}', j ->> 'b', j @> '{}' from t
select jsonb_agg(j) from t
select x is distinct from y, a between 1 and 2, b in (1, 2), c = any(array[1, 2]) from t
select case when a then 1 else 2 end as "case" from t
select extract(epoch from d), date_trunc('day', d), to_char(d, 'YYYY') from t
select row_number() over w from t window w as (order by id)
select * from t order by id limit 10 offset 5
select a from t fetch first 3 rows only
select distinct on (a) a, b from t
select * from information_schema.columns where table_name = 't'
select pg_size_pretty(pg_total_relation_size('t'))
select current_setting('timezone')
select pg_sleep(1), random(), gen_random_uuid(), clock_timestamp()
select currval('sq'), lastval()
select n_live_tup, pg_stat_get_live_tuples(relid) from pg_stat_user_tables
select percentile_cont(0.5) within group (order by x) from t
select regexp_replace(v, '[^a-z]', '', 'g'), string_to_array(v, ',') from t
select to_tsvector('english', v) @@ plainto_tsquery('x') from t
select lo_get(1)
explain select * from t
explain (format json, costs off) select count(*) from t
explain verbose select 1
explain analyze select 1
explain (analyze, buffers) select * from t
explain (select 1)
explain insert into t values (1)
explain delete from t
""".strip().splitlines()

UNCERTAIN_READS = """
select my_function()
select * from t where app.allowed(id)
select * from public.now()
select "random" ()::int, "Now"()
select "pg_catalog.now"()
select "in"(1)
select 1 operator(public.@@@) 2
select 1 ### 2
select similarity(a, b) from t
select query_to_xml('select 1', true, true, '')
select table_to_xml('t', true, true, '')
select txid_current()
select ts_stat('select v from t')
select delete from t
select 1 /* outer /* inner */ */
select 'a' 'b'
select U&'\\0041'
select 'unterminated
select "unterminated
select $$unterminated
select 1 /* unterminated
select 1 -- a\rdrop table t
select 1\u00a0
select \ufeff1
select \u2028 1
select {1}
select `a`
explain select my_function()
explain analyze select my_function()
""".strip().split("\n")

OTHERS: list[tuple[str, set[Kind]]] = [
    ("insert into t values (1)", {W}),
    ("insert into t (id, v) values (1, 'a') on conflict (id) do update set v = excluded.v returning *", {W}),
    ("insert into t select * from u", {W}),
    ("update t set v = upper(v) where id = 1", {W}),
    ("delete from t", {W}),
    ("merge into t using u on t.id = u.id when matched then delete", {W}),
    ("truncate t", {W}),
    ("lock table t in share mode", {W}),
    ("refresh materialized view concurrently m", {W}),
    ("with x as (insert into t values (1) returning *) select * from x", {R, W}),
    ("with a as (with b as (update t set v = 'q' returning *) select * from b) select * from a", {R, W}),
    ("with x as (select 1) delete from t using x", {R, W}),
    ("select * from t for update", {R, W}),
    ("select * from t for no key update skip locked", {R, W}),
    ("select * from (select * from t for share) x", {R, W}),
    ("select * from t for key share of t nowait", {R, W}),
    ("explain analyze insert into t values (1)", {R, W}),
    ("explain (analyze, verbose) delete from t", {R, W}),
    ("explain analyze verbose with x as (delete from t returning 1) select 1 from x", {R, W}),
    ("select * into t2 from t", {R, S}),
    ("create table t2 as select * from t", {S}),
    ("explain analyze create table t2 as select 1", {R, S}),
    ("create table t (id int primary key, v text default 'x')", {S}),
    ("create temp table scratch (i int)", {S}),
    ("create unlogged table u (i int)", {S}),
    ("create unique index on t (v)", {S}),
    ("create or replace view v as select 1", {S}),
    ("create materialized view m as select 1", {S}),
    ("create schema evil create table e (i int)", {S}),
    ("create type color as enum ('red')", {S}),
    ("create sequence s", {S}),
    ("create extension if not exists pg_trgm", {S}),
    ("create function f() returns int language sql as 'select 1'", {S}),
    ("create function f() returns int begin atomic select 1; select case when true then 1 end; end", {S}),
    ("create rule r as on insert to t do also (delete from u; delete from v)", {S}),
    ("create constraint trigger c after insert on t for each row execute function f()", {S}),
    ("create policy p on t using (true)", {S}),
    ("alter table t add column c int", {S}),
    ("alter table t enable row level security", {S}),
    ("comment on table t is 'x; y'", {S}),
    ("analyze t", {S}),
    ("reindex table t", {S}),
    ("cluster t using t_pkey", {S}),
    ("drop table t", {S, D}),
    ('drop table if exists public.t, "My Table" cascade', {S, D}),
    ("drop index ti;", {S, D}),
    ("drop materialized view m", {S, D}),
    ("/* tidy up */ drop schema app cascade", {S, D}),
    ("drop function f(int, text)", {S, D}),
    ("drop trigger tr on t", {S, D}),
    ("drop policy p on t", {S}),
    ("drop operator class oc using btree", {S}),
    ("set search_path = evil, pg_catalog", {SESSION}),
    ("set local statement_timeout = 0", {SESSION}),
    ("set constraints all immediate", {SESSION}),
    ("reset all", {SESSION}),
    ("discard all", {SESSION}),
    ("listen c", {SESSION}),
    ("notify c, 'x'", {SESSION, W}),
    ("prepare p as delete from t", {SESSION}),
    ("execute p", {SESSION}),
    ("deallocate all", {SESSION}),
    ("declare c cursor for select 1", {SESSION}),
    ("declare c cursor without hold for select 1", {SESSION}),
    ("fetch all from c", {SESSION}),
    ("declare c cursor with hold for select 1", {TRANSACTION}),
    ("begin", {TRANSACTION}),
    ("start transaction read write", {TRANSACTION}),
    ("commit and chain", {TRANSACTION}),
    ("end", {TRANSACTION}),
    ("rollback", {TRANSACTION}),
    ("abort", {TRANSACTION}),
    ("savepoint s", {TRANSACTION}),
    ("release savepoint s", {TRANSACTION}),
    ("prepare transaction 'p'", {TRANSACTION}),
    ("commit prepared 'p'", {TRANSACTION}),
    ("set transaction read write", {TRANSACTION}),
    ("set transaction_read_only = off", {TRANSACTION}),
    ("set session characteristics as transaction read only", {TRANSACTION}),
    ("grant select on t to public", {PRIVILEGE}),
    ("revoke all on t from public", {PRIVILEGE}),
    ("alter role current_user password 'x'", {PRIVILEGE}),
    ("create role evil login", {PRIVILEGE}),
    ("create user evil", {PRIVILEGE}),
    ("drop owned by current_user", {PRIVILEGE}),
    ("reassign owned by a to b", {PRIVILEGE}),
    ("alter default privileges grant select on tables to public", {PRIVILEGE}),
    ("set role none", {PRIVILEGE}),
    ("reset role", {PRIVILEGE}),
    ("set session authorization default", {PRIVILEGE}),
    ("set local role x", {PRIVILEGE}),
    ("copy t from stdin", {SERVER}),
    ("copy (select 1) to stdout", {SERVER}),
    ("copy t from program 'id'", {SERVER}),
    ("vacuum t", {SERVER}),
    ("create index concurrently i on t (v)", {SERVER}),
    ("drop index concurrently i", {SERVER}),
    ("reindex (verbose) index concurrently i", {SERVER}),
    ("alter table t detach partition p concurrently", {SERVER}),
    ("checkpoint", {SERVER}),
    ("load 'x'", {SERVER}),
    ("alter system set work_mem = '1GB'", {SERVER}),
    ("create database d", {SERVER}),
    ("alter database d set x = 1", {SERVER}),
    ("create tablespace s location '/x'", {SERVER}),
    ("create subscription s connection 'c' publication p", {SERVER}),
    ("create event trigger e on ddl_command_start execute function f()", {SERVER}),
    ("create foreign data wrapper w", {SERVER}),
    ("create server s foreign data wrapper w", {SERVER}),
    ("create user mapping for current_user server s", {SERVER}),
    ("import foreign schema a from server s into b", {SERVER}),
    ("create trusted language l", {SERVER}),
    ("security label on table t is 'x'", {SERVER}),
]

FUNCTIONS_THAT_DO_MORE: list[tuple[str, set[Kind]]] = [
    ("select nextval('sq')", {R, W}),
    ("select pg_catalog.setval('sq', 1)", {R, W}),
    ("select * from t where id = nextval('sq')", {R, W}),
    ("insert into t values (nextval('sq'))", {W}),
    ("select lo_create(0)", {R, W}),
    ("select pg_notify('c', 'x')", {R, W}),
    ("select pg_advisory_xact_lock(1)", {R, W}),
    ("select set_config('transaction_read_only', 'off', true)", {R, SESSION}),
    ("select pg_advisory_lock(1)", {R, SESSION}),
    ("select pg_try_advisory_lock_shared(1)", {R, SESSION}),
    ("select pg_read_file('/etc/passwd')", {R, SERVER}),
    ("select pg_ls_dir('/')", {R, SERVER}),
    ("select lo_import('/etc/passwd')", {R, SERVER}),
    ("select pg_logical_emit_message(true, 'a', 'b')", {R, SERVER}),
    ("select pg_export_snapshot()", {R, SERVER}),
    ("select pg_terminate_backend(1)", {R, SERVER}),
    ("select * from dblink('dbname=x', 'select 1') as t(i int)", {R, SERVER}),
    ("select 1 from pg_create_logical_replication_slot('a', 'b')", {R, SERVER}),
    ('select "pg_reload_conf"()', {R, SERVER}),
    ("insert into t select pg_read_file('x')", {W, SERVER}),
]

NOT_SEEN: list[tuple[str, set[Kind]]] = [
    ("do $$begin delete from t; end$$", {UNKNOWN}),
    ("call p()", {UNKNOWN}),
    ("nonsense", {UNKNOWN}),
    ("select\u00a01", {UNKNOWN}),
    ("1 + 1", {UNKNOWN}),
    ("explain", {UNKNOWN}),
    ("explain explain select 1", {UNKNOWN}),
    ("explain drop table t", {UNKNOWN}),
    ("create gizmo g", {S, UNKNOWN}),
    ("insert into t values ('a' 'b')", {W, UNKNOWN}),
    ("drop table t /* outer /* inner */ */", {S, UNKNOWN}),
    ("drop table t\u00a0", {S, UNKNOWN}),
]


def facts_of(sql: str) -> StatementFacts:
    return classify(sql, LIMITS)


@pytest.mark.parametrize("sql", CERTAIN_READS)
def test_it_is_certainly_a_read(sql: str) -> None:
    facts = facts_of(sql)
    assert facts.kinds == {R}
    assert facts.certain
    assert facts.why is None


@pytest.mark.parametrize("sql", UNCERTAIN_READS)
def test_it_looks_like_a_read_but_is_not_certain(sql: str) -> None:
    facts = facts_of(sql)
    assert facts.kinds == {R, UNKNOWN}
    assert not facts.certain
    assert facts.why


@pytest.mark.parametrize(("sql", "kinds"), OTHERS, ids=[sql for sql, _ in OTHERS])
def test_its_kinds_are_seen_with_certainty(sql: str, kinds: set[Kind]) -> None:
    facts = facts_of(sql)
    assert facts.kinds == kinds
    assert facts.certain
    assert facts.why


@pytest.mark.parametrize(("sql", "kinds"), FUNCTIONS_THAT_DO_MORE, ids=[sql for sql, _ in FUNCTIONS_THAT_DO_MORE])
def test_a_function_that_does_more_than_read_is_seen(sql: str, kinds: set[Kind]) -> None:
    facts = facts_of(sql)
    assert facts.kinds == kinds
    assert not facts.certain


@pytest.mark.parametrize(("sql", "kinds"), NOT_SEEN, ids=[ascii(sql) for sql, _ in NOT_SEEN])
def test_what_cannot_be_read_with_certainty_is_unknown(sql: str, kinds: set[Kind]) -> None:
    facts = facts_of(sql)
    assert facts.kinds == kinds
    assert not facts.certain
    assert facts.why


@pytest.mark.parametrize(
    ("sql", "objects"),
    [
        ("select * from a join app.b on true, (select * from c) x", ("a", "app.b", "c")),
        ("with x as (select * from t) select * from x", ("t",)),
        ('insert into app."My Table" values (1)', ("app.My Table",)),
        ("update only t set v = 1", ("t",)),
        ("drop table if exists t cascade", ("t",)),
        ("create index i on t (v)", ("i",)),
        ("create index on t (v)", ("t",)),
        ("alter table only app.t add c int", ("app.t",)),
        ("comment on table t is 'x'", ("t",)),
        ("show search_path", ()),
    ],
)
def test_it_names_the_objects(sql: str, objects: tuple[str, ...]) -> None:
    assert set(facts_of(sql).objects) == set(objects)


def test_it_names_the_functions_without_keywords() -> None:
    facts = facts_of("select app.f(1), count(*), \"G\"() from t where id in (1) and exists (select lower('A'))")
    assert facts.functions == ("app.f", "count", "G", "lower")


@pytest.mark.parametrize(
    ("sql", "word"),
    [
        ("select my_function()", "my_function"),
        ("select nextval('sq')", "nextval"),
        ("select 1 /* /* */ */", "nests comments"),
        ("vacuum t", "cannot run inside a transaction"),
        ("create index concurrently i on t (v)", "CREATE INDEX CONCURRENTLY"),
        ("do $$begin end$$", "DO"),
        ("with x as (delete from t returning 1) select 1 from x", "DELETE"),
    ],
)
def test_it_says_why(sql: str, word: str) -> None:
    assert word in (facts_of(sql).why or "")


def test_a_long_query_is_not_parsed_and_not_certain() -> None:
    facts = facts_of("select 1" + " + 1" * 10_000)
    assert facts.kinds == {R, UNKNOWN}
    assert "too long" in (facts.why or "")


@pytest.mark.parametrize(
    "sql",
    [
        "select " + "array[" * 60 + "1" + "]" * 60,
        "select " + "date(array[" * 40 + "1" + "])" * 40,
        "select * from t" + " join t" * 60,
        "select a" + "[1]" * 2_000,
    ],
    ids=["nested arrays", "nested types", "joins without a condition", "many subscripts"],
)
def test_what_would_take_the_parser_ages_is_not_parsed(sql: str) -> None:
    assert "too long or too deep" in (facts_of(sql).why or "")


@pytest.mark.parametrize("prefix", ["not ", "- ", "interval ", "{", "+ ", "@ "])
def test_endless_prefixes_are_survived(prefix: str) -> None:
    facts = facts_of("select " + prefix * 5_000 + "true")
    assert UNKNOWN in facts.kinds


def test_the_same_text_is_read_once() -> None:
    assert facts_of("select 'remembered'") is facts_of("select 'remembered'")


def test_the_parser_logs_nothing(caplog: pytest.LogCaptureFixture) -> None:
    facts_of("select 'secret' from from where")
    facts_of("with x as (vacuum 'secret') select 1")
    assert caplog.text == ""
