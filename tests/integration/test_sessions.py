"""Contained sessions on a real Postgres, with the gate left out: the walls alone."""

from __future__ import annotations

import contextlib

import anyio
import asyncpg
import pytest

from agentdb_mcp.embedded import EmbeddedPostgres
from agentdb_mcp.errors import (
    AgentDBError,
    DatabaseUnavailable,
    InvalidArgument,
    NotAllowed,
    ResultTooLarge,
    SqlError,
    StatementTimeout,
)
from agentdb_mcp.execution import Call, Pools, PoolSettings, Statement, layout, session
from agentdb_mcp.execution.login import OPENING_LOCK
from agentdb_mcp.models import DatabaseTarget, Limits, Result, Secret

LIMITS = Limits(timeout_s=30, max_rows=100, max_bytes=100_000)


async def run(
    pools: Pools, target: DatabaseTarget, *sqls: str, read_only: bool = False, limits: Limits = LIMITS
) -> list[Result]:
    return await pools.run(target, Call([Statement(sql) for sql in sqls], limits, read_only=read_only))


async def rows(pools: Pools, target: DatabaseTarget, sql: str, **options: bool) -> list[list[object]]:
    return (await run(pools, target, sql, **options))[0].rows


async def test_an_agent_makes_and_reads_its_own_tables(pools: Pools, agent_database: DatabaseTarget) -> None:
    await run(pools, agent_database, "CREATE TABLE notes (id int PRIMARY KEY, body text)")
    (inserted,) = await run(pools, agent_database, "INSERT INTO notes VALUES (1, 'a'), (2, 'b') RETURNING id")
    assert inserted.rows == [[1], [2]]
    assert inserted.command_tag == "INSERT 0 2"
    assert await rows(pools, agent_database, "SELECT * FROM notes ORDER BY id", read_only=True) == [[1, "a"], [2, "b"]]


async def test_a_transaction_takes_effect_as_a_whole_or_not_at_all(
    pools: Pools, agent_database: DatabaseTarget
) -> None:
    await run(pools, agent_database, "CREATE TABLE t (i int)")
    with pytest.raises(SqlError, match="Statement 2 of 2"):
        await run(pools, agent_database, "INSERT INTO t VALUES (1)", "INSERT INTO t VALUES (1/0)")
    assert await rows(pools, agent_database, "SELECT * FROM t") == []


async def test_a_call_that_is_not_kept_sees_its_own_changes_and_leaves_none(
    pools: Pools, agent_database: DatabaseTarget
) -> None:
    tried = [Statement("CREATE TABLE tried (i int)"), Statement("INSERT INTO tried VALUES (1) RETURNING i")]
    _, inserted = await pools.run(agent_database, Call(tried, LIMITS, read_only=False, keep=False))
    assert inserted.rows == [[1]]
    assert await rows(pools, agent_database, "SELECT to_regclass('tried')") == [[None]]


@pytest.mark.parametrize(
    "sql",
    ["SET TRANSACTION READ WRITE", "SELECT set_config('transaction_read_only', 'off', true)", "CREATE TABLE x (i int)"],
)
async def test_nothing_lifts_a_read_only_transaction(pools: Pools, agent_database: DatabaseTarget, sql: str) -> None:
    with pytest.raises(SqlError):
        await run(pools, agent_database, sql, "CREATE TABLE lifted (i int)", read_only=True)
    assert await rows(pools, agent_database, "SELECT to_regclass('lifted')") == [[None]]


async def test_postgres_itself_refuses_a_second_statement_in_a_text(
    pools: Pools, agent_database: DatabaseTarget
) -> None:
    with pytest.raises(SqlError) as caught:
        await run(pools, agent_database, "SELECT 1; CREATE TABLE second (i int)")
    assert caught.value.sqlstate == "42601"


@pytest.mark.parametrize("sql", ["COMMIT", "ROLLBACK", "COMMIT AND CHAIN", "ROLLBACK AND CHAIN"])
async def test_a_statement_that_ends_its_transaction_ends_the_session(
    pools: Pools, agent_database: DatabaseTarget, sql: str
) -> None:
    with pytest.raises(AgentDBError):
        await run(pools, agent_database, "SELECT 1", sql, "CREATE TABLE after_it (i int)")
    assert await rows(pools, agent_database, "SELECT to_regclass('after_it')") == [[None]]


@pytest.mark.parametrize(
    ("leave", "look", "clean"),
    [
        ("SET search_path = nowhere", "SHOW search_path", "public, pg_temp, extensions"),
        ("SET statement_timeout = 0", "SHOW statement_timeout", "30s"),
        ("CREATE TEMP TABLE left_over (i int)", "SELECT to_regclass('pg_temp.left_over')", None),
        ("PREPARE left_over AS SELECT 1", "SELECT count(*)::int FROM pg_prepared_statements WHERE name <> ''", 0),
        ("SELECT pg_advisory_lock(7)", "SELECT count(*)::int FROM pg_locks WHERE locktype = 'advisory'", 0),
        ("LISTEN left_over", "SELECT count(*)::int FROM pg_listening_channels()", 0),
        ("SET ROLE NONE", "SELECT (current_user = session_user)::text", "true"),
        ("SET client_min_messages = debug5", "SHOW client_min_messages", "error"),
    ],
)
async def test_nothing_of_a_session_outlives_its_call(
    project_uri: Secret, agent_database: DatabaseTarget, leave: str, look: str, clean: object
) -> None:
    pools = Pools(PoolSettings(size=1))
    try:
        await run(pools, agent_database, leave)
        assert await rows(pools, agent_database, look) == [[clean]]
    finally:
        await pools.close()


async def test_the_agents_role_cannot_log_in_between_openings(
    pools: Pools, agent_database: DatabaseTarget, superuser: asyncpg.Connection
) -> None:
    await run(pools, agent_database, "ALTER ROLE CURRENT_USER PASSWORD 'owned-by-me'")
    role = agent_database.role
    assert await superuser.fetchval("SELECT rolcanlogin FROM pg_roles WHERE rolname = $1", role) is False
    with pytest.raises(asyncpg.InvalidAuthorizationSpecificationError):
        await asyncpg.connect(agent_database.uri.reveal(), user=role, password="owned-by-me")


async def test_what_a_role_set_for_itself_does_not_reach_the_next_login(
    agent_database: DatabaseTarget,
) -> None:
    first = Pools(PoolSettings())
    await run(first, agent_database, "ALTER ROLE CURRENT_USER SET local_preload_libraries = 'nonsense'")
    await run(first, agent_database, "ALTER ROLE CURRENT_USER SET search_path = evil")
    await first.close()
    second = Pools(PoolSettings())
    try:
        assert await rows(second, agent_database, "SHOW search_path") == [["public, pg_temp, extensions"]]
    finally:
        await second.close()


async def test_many_callers_share_a_few_sessions(pools: Pools, agent_database: DatabaseTarget) -> None:
    answers: list[object] = []

    async def one(number: int) -> None:
        answers.extend(await rows(pools, agent_database, f"SELECT {number}"))

    async with anyio.create_task_group() as group:
        for number in range(40):
            group.start_soon(one, number)
    assert sorted(answers) == [[number] for number in range(40)]


async def test_two_processes_worth_of_pools_open_one_database_at_once(agent_database: DatabaseTarget) -> None:
    several = [Pools(PoolSettings()) for _ in range(3)]
    async with anyio.create_task_group() as group:
        for pools in several:
            group.start_soon(rows, pools, agent_database, "SELECT 1")
    for pools in several:
        await pools.close()


async def test_a_statement_past_its_limit_is_cancelled(pools: Pools, agent_database: DatabaseTarget) -> None:
    await rows(pools, agent_database, "SELECT 1")  # opening counts too
    with pytest.raises(StatementTimeout):
        await run(pools, agent_database, "SELECT pg_sleep(60)", limits=Limits(0.2, 10, 1000))
    assert await rows(pools, agent_database, "SELECT 1") == [[1]]


@pytest.mark.parametrize(
    "sql",
    [
        "DO $$BEGIN LOOP BEGIN PERFORM pg_sleep(60); EXCEPTION WHEN query_canceled THEN NULL; END; END LOOP; END$$",
        "COPY pg_class FROM STDIN",
    ],
    ids=["catches its cancellation", "copies in"],
)
async def test_the_watchdog_ends_what_does_not_listen(
    pools: Pools, agent_database: DatabaseTarget, superuser: asyncpg.Connection, sql: str
) -> None:
    await rows(pools, agent_database, "SELECT 1")  # opening counts too
    with pytest.raises(AgentDBError):
        await run(pools, agent_database, sql, limits=Limits(0.2, 10, 1000))
    alive = "SELECT count(*) FROM pg_stat_activity WHERE usename = $1 AND state = 'active'"
    assert await superuser.fetchval(alive, agent_database.role) == 0
    assert await rows(pools, agent_database, "SELECT 1") == [[1]]


async def test_a_caller_who_goes_away_takes_the_statement_along(
    pools: Pools, agent_database: DatabaseTarget, superuser: asyncpg.Connection
) -> None:
    alive = "SELECT count(*) FROM pg_stat_activity WHERE usename = $1 AND state = 'active'"
    async with anyio.create_task_group() as group:
        group.start_soon(_ends_somehow, pools, agent_database, "SELECT pg_sleep(60)")
        with anyio.fail_after(30):
            while not await superuser.fetchval(f"{alive} AND wait_event = 'PgSleep'", agent_database.role):
                await anyio.sleep(0.02)
        group.cancel_scope.cancel()
    assert await superuser.fetchval(alive, agent_database.role) == 0


async def test_rows_past_the_limit_are_not_read(pools: Pools, agent_database: DatabaseTarget) -> None:
    (by_rows,) = await run(pools, agent_database, "SELECT generate_series(1, 1000)", limits=Limits(5, 10, 10**6))
    assert by_rows.truncated
    assert len(by_rows.rows) == 10
    (by_bytes,) = await run(
        pools, agent_database, "SELECT repeat('x', 100) FROM generate_series(1, 50)", limits=Limits(5, 100, 1000)
    )
    assert by_bytes.truncated
    assert 0 < len(by_bytes.rows) <= 10


async def test_the_number_of_parameters_is_checked(pools: Pools, agent_database: DatabaseTarget) -> None:
    call = Call([Statement("SELECT $1::int + $2::int", [1])], LIMITS)
    with pytest.raises(InvalidArgument, match="takes 2 parameters"):
        await pools.run(agent_database, call)


async def test_one_agent_cannot_reach_anothers_database(
    pools: Pools, agent_database: DatabaseTarget, postgres: object, superuser: asyncpg.Connection
) -> None:
    others = await superuser.fetch("SELECT datname FROM pg_database WHERE datallowconn AND datname <> 'template0'")
    own = agent_database.uri.reveal().rsplit("/", 1)[1]
    for (name,) in others:
        (answer,) = await rows(pools, agent_database, f"SELECT has_database_privilege('{name}', 'CREATE')::text")
        assert answer == ["true" if name == own else "false"]


async def test_an_error_names_no_address_and_no_login() -> None:
    pools = Pools(PoolSettings())
    target = DatabaseTarget("gone", Secret("postgresql://somebody:hidden@127.0.0.1:1/nowhere"))
    with pytest.raises(DatabaseUnavailable) as caught:
        await run(pools, target, "SELECT 1")
    await pools.close()
    assert not any(word in str(caught.value.as_dict()) for word in ("somebody", "hidden", "127.0.0.1", "nowhere"))


@pytest.mark.parametrize(
    "sql",
    [
        "SELECT repeat('x', 100000000)",
        "SELECT repeat('x', 1000000) FROM generate_series(1, 90)",
        "DO $$BEGIN RAISE EXCEPTION '%', repeat('x', 100000000); END$$",
        "SELECT repeat('x', 100000000)::int",
        "SELECT repeat('x', 200000)",
    ],
    ids=["one huge value", "many wide rows", "huge error text", "huge error of a cast", "one row past the limit"],
)
async def test_an_answer_past_its_bytes_ends_in_one_error(
    pools: Pools, agent_database: DatabaseTarget, superuser: asyncpg.Connection, sql: str
) -> None:
    with pytest.raises(ResultTooLarge):
        await run(pools, agent_database, sql)
    alive = "SELECT count(*) FROM pg_stat_activity WHERE usename = $1 AND state = 'active'"
    assert await superuser.fetchval(alive, agent_database.role) == 0
    assert await rows(pools, agent_database, "SELECT 1") == [[1]]


async def test_an_extension_that_needs_the_admin_is_installed_beside_the_agents_own_objects(
    pools: Pools, postgres: EmbeddedPostgres, empty_database: Secret
) -> None:
    role = layout.new_role_name()
    await layout.install(empty_database, role, connection_limit=8)
    target = DatabaseTarget("extended", empty_database, role=role)
    with pytest.raises(SqlError, match="permission denied"):
        await run(pools, target, "CREATE EXTENSION bloom")
    await pools.install_extension(target, "bloom")
    await run(pools, target, "CREATE TABLE items (a int, b int)", "CREATE INDEX ON items USING bloom (a, b)")
    with pytest.raises(SqlError):
        await run(pools, target, "CREATE FUNCTION extensions.f() RETURNS int LANGUAGE sql AS 'SELECT 1'")


async def test_a_layout_that_does_not_come_to_its_end_leaves_no_role(
    empty_database: Secret, superuser: asyncpg.Connection
) -> None:
    role = layout.new_role_name()
    with pytest.raises(AgentDBError):
        await layout.install(empty_database, role, connection_limit=-2)
    assert not await superuser.fetchval("SELECT true FROM pg_roles WHERE rolname = $1", role)


async def test_an_extension_is_not_installed_into_a_schema_of_the_agents(pools: Pools, empty_database: Secret) -> None:
    role = layout.new_role_name()
    await layout.install(empty_database, role, connection_limit=8)
    target = DatabaseTarget("extended", empty_database, role=role)
    superuser = await asyncpg.connect(empty_database.reveal())
    await superuser.execute(f"DROP SCHEMA extensions; CREATE SCHEMA extensions AUTHORIZATION {role}")
    await superuser.close()
    with pytest.raises(NotAllowed):
        await pools.install_extension(target, "bloom")


async def test_vectors_work_for_an_agent_on_the_embedded_postgres(pools: Pools, agent_database: DatabaseTarget) -> None:
    await run(pools, agent_database, "CREATE EXTENSION vector")
    await run(pools, agent_database, "CREATE TABLE items (v vector(3))", "INSERT INTO items VALUES ('[1,2,3]')")
    assert await rows(pools, agent_database, "SELECT v <-> '[1,2,4]' FROM items") == [[1.0]]


async def test_a_transaction_that_changes_the_role_cannot_keep_its_login_open(
    pools: Pools, agent_database: DatabaseTarget, superuser: asyncpg.Connection
) -> None:
    hold = "DO $$BEGIN ALTER ROLE CURRENT_USER PASSWORD 'owned'; PERFORM pg_sleep(30); END$$"
    others = Pools(PoolSettings())
    async with anyio.create_task_group() as group:
        group.start_soon(_ends_somehow, pools, agent_database, hold)
        while not await superuser.fetchval(
            "SELECT count(*) FROM pg_stat_activity WHERE query LIKE 'DO $$BEGIN ALTER%'"
        ):
            await anyio.sleep(0.02)
        assert await rows(others, agent_database, "SELECT 1") == [[1]]
        can_log_in = "SELECT rolcanlogin FROM pg_roles WHERE rolname = $1"
        assert await superuser.fetchval(can_log_in, agent_database.role) is False
        group.cancel_scope.cancel()
    await others.close()


async def test_an_agent_that_holds_our_lock_does_not_keep_others_out(
    pools: Pools, agent_database: DatabaseTarget, superuser: asyncpg.Connection
) -> None:
    others = Pools(PoolSettings())
    async with anyio.create_task_group() as group:
        hold = f"SELECT pg_advisory_lock({OPENING_LOCK}), pg_sleep(30)"
        group.start_soon(_ends_somehow, pools, agent_database, hold)
        while not await superuser.fetchval("SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND granted"):
            await anyio.sleep(0.02)
        assert await rows(others, agent_database, "SELECT 1") == [[1]]
        group.cancel_scope.cancel()
    await others.close()


async def _ends_somehow(pools: Pools, target: DatabaseTarget, sql: str) -> None:
    with contextlib.suppress(AgentDBError):
        await run(pools, target, sql, limits=Limits(60, 10, 1000))


async def test_whoever_came_in_without_us_is_put_out_at_the_next_opening(
    pools: Pools, agent_database: DatabaseTarget, superuser: asyncpg.Connection
) -> None:
    await rows(pools, agent_database, "SELECT 1")
    role = agent_database.role
    await superuser.execute(f"ALTER ROLE {role} LOGIN PASSWORD 'owned'")
    intruder = await asyncpg.connect(agent_database.uri.reveal(), user=role, password="owned")
    await superuser.execute(f"ALTER ROLE {role} NOLOGIN")
    others = Pools(PoolSettings())
    assert await rows(others, agent_database, "SELECT 1") == [[1]]
    with pytest.raises((asyncpg.PostgresError, asyncpg.InterfaceError)):
        await intruder.fetchval("SELECT 1")
    assert await rows(pools, agent_database, "SELECT 1") == [[1]]
    await others.close()


async def test_a_statement_with_side_effects_runs_to_its_end_although_its_rows_are_cut(
    pools: Pools, agent_database: DatabaseTarget
) -> None:
    await run(pools, agent_database, "CREATE TABLE done (i int)")
    await run(
        pools,
        agent_database,
        "CREATE FUNCTION mark(i int) RETURNS int LANGUAGE sql AS 'INSERT INTO done VALUES (i) RETURNING i'",
    )
    sql = "SELECT mark(g) FROM generate_series(1, 500) AS g"
    (answer,) = await run(pools, agent_database, sql, limits=Limits(5, 3, 100_000))
    assert (answer.truncated, len(answer.rows)) == (True, 3)
    assert await rows(pools, agent_database, "SELECT count(*)::int FROM done") == [[500]]


NOTED_WHEN_READ = (
    "CREATE SEQUENCE public.reads",
    """CREATE FUNCTION public.noted(v int) RETURNS bool LANGUAGE plpgsql AS $$BEGIN
    IF current_setting('transaction_read_only') = 'off' THEN PERFORM nextval('public.reads'); END IF;
    RETURN true; END$$""",
    "CREATE DOMAIN public.checked AS int CHECK (public.noted(VALUE))",
    "CREATE TYPE public.pair AS (x public.checked)",
)


async def test_a_text_is_not_even_read_where_its_transaction_could_not_begin(
    pools: Pools, agent_database: DatabaseTarget, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole, failing = session._preamble, ["SELECT 1/0"]

    def preamble(call: Call, *, sealed: bool) -> list[str]:
        return [*([failing.pop()] if failing else []), *whole(call, sealed=sealed)]

    await run(pools, agent_database, *NOTED_WHEN_READ)
    monkeypatch.setattr(session, "_preamble", preamble)
    assert await rows(pools, agent_database, "SELECT '(7)'::public.pair::text", read_only=True) == [["(7)"]]
    assert failing == []
    assert await rows(pools, agent_database, "SELECT is_called FROM public.reads") == [[False]]


async def test_a_text_that_cannot_be_sent_leaves_the_session_as_it_was(
    pools: Pools, agent_database: DatabaseTarget
) -> None:
    before = await rows(pools, agent_database, "SELECT pg_backend_pid()")
    for sqls in (["SELECT '\0'"], ["SELECT 1", "SELECT '\ud800'"], ["SELECT $1::int"]):
        with pytest.raises(InvalidArgument):
            await run(pools, agent_database, *sqls)
    assert await rows(pools, agent_database, "SELECT pg_backend_pid()") == before
