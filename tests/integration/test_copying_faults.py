"""Copies that are cut off: by a lost backend, a caller who goes, a deadline, a limit. Nothing of them is left."""

from __future__ import annotations

import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import AsyncExitStack
from pathlib import Path

import anyio
import asyncpg
import pytest

from agentdb_mcp.bootstrap import Application, open_application
from agentdb_mcp.embedded import EmbeddedPostgres
from agentdb_mcp.errors import (
    AgentDBError,
    BudgetExceeded,
    DatabaseUnavailable,
    RateLimited,
    ResultTooLarge,
    StatementRefused,
    StatementTimeout,
)
from agentdb_mcp.execution import Call, Pools, PoolSettings, Transfer
from agentdb_mcp.local_stack import LocalStack
from agentdb_mcp.models import DatabaseTarget, Limits, Scope, Secret, Tenant
from agentdb_mcp.settings import load_settings
from copying_sides import AGENT, GLOBAL, STALLING, Outside, Sides, outside, until

Opener = Callable[[str], Awaitable[Sides]]
ENDLESS = "SELECT i AS id, repeat('x', 100) AS text FROM (SELECT generate_series(1, 2000000000) AS i) AS s"


@pytest.fixture(scope="module")
async def sides(application: Application) -> Sides:
    sides = Sides(application, Tenant("faulty", "copying"))
    await sides.remake("kept", "id int, text text")
    await sides.sql(GLOBAL, "INSERT INTO kept VALUES (7, 'old')")
    return sides


@pytest.fixture(scope="module")
async def source(sides: Sides, stack: LocalStack) -> AsyncIterator[Outside]:
    ((name,),) = await sides.sql(AGENT, "SELECT current_database()")
    async with outside(stack.postgres, name) as seen:
        yield seen


@pytest.fixture(scope="module")
async def target(sides: Sides, stack: LocalStack) -> AsyncIterator[Outside]:
    ((name,),) = await sides.sql(GLOBAL, "SELECT current_database()")
    async with outside(stack.postgres, name) as seen:
        yield seen


@pytest.fixture
async def nothing_left(sides: Sides, source: Outside, target: Outside) -> AsyncIterator[None]:
    """At the end no backend is at it, and the target is as it was."""
    before = await target.tables()
    yield
    await source.quiet()
    await target.quiet()
    assert await target.tables() == before
    assert await sides.sql(GLOBAL, "SELECT * FROM kept") == [[7, "old"]]


async def failure(sides: Sides, query: str, table: str, mode: str, failures: list[AgentDBError]) -> None:
    failures.append(await sides.refused(query, table, mode))


@pytest.mark.parametrize(("table", "mode"), [("kept", "append"), ("kept", "replace"), ("made", "create")])
@pytest.mark.usefixtures("nothing_left")
async def test_a_target_whose_backend_is_ended_keeps_nothing(
    sides: Sides, target: Outside, table: str, mode: str
) -> None:
    failures: list[AgentDBError] = []
    async with anyio.create_task_group() as group:
        group.start_soon(failure, sides, ENDLESS, table, mode, failures)
        pid = await target.arriving()
        assert await sides.sql(GLOBAL, "SELECT * FROM kept") == [[7, "old"]]  # whoever reads is not in the way
        await target.connection.execute("SELECT pg_terminate_backend($1)", pid)
    assert isinstance(failures[0], DatabaseUnavailable)
    assert "nothing of it took effect" in failures[0].message
    assert failures[0].retryable


@pytest.mark.parametrize("query", [STALLING, ENDLESS])
@pytest.mark.usefixtures("nothing_left")
async def test_a_source_whose_backend_is_ended_leaves_nothing(
    sides: Sides, source: Outside, target: Outside, query: str
) -> None:
    failures: list[AgentDBError] = []
    async with anyio.create_task_group() as group:
        group.start_soon(failure, sides, query, "made", "create", failures)
        await target.arriving()
        await source.connection.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_progress_copy WHERE command = 'COPY TO'"
        )
    assert isinstance(failures[0], DatabaseUnavailable)
    assert failures[0].retryable


@pytest.mark.parametrize("query", [STALLING, ENDLESS])
@pytest.mark.usefixtures("nothing_left")
async def test_a_cancelled_call_leaves_nothing(sides: Sides, target: Outside, query: str) -> None:
    async with anyio.create_task_group() as group:
        group.start_soon(sides.copy, query, "made", "create")
        await target.arriving()
        group.cancel_scope.cancel()


@pytest.mark.usefixtures("nothing_left")
async def test_a_stalling_source_ends_with_the_target_that_fails(sides: Sides, target: Outside) -> None:
    failures: list[AgentDBError] = []
    async with anyio.create_task_group() as group:
        group.start_soon(failure, sides, STALLING, "made", "create", failures)
        pid = await target.arriving()
        with anyio.fail_after(20):
            await target.connection.execute("SELECT pg_terminate_backend($1)", pid)
            await until(_some(failures))


def _some(found: list[AgentDBError]) -> Callable[[], Awaitable[bool]]:
    async def some() -> bool:
        return bool(found)

    return some


@pytest.fixture
async def open_with(project_uri: Secret, empty_database: Secret, tmp_path: Path) -> AsyncIterator[Opener]:
    """Two plain databases of one tenant under these limits, or one twice."""
    async with AsyncExitStack() as exits:

        async def opened(policy: str, *, once: bool = False) -> Sides:
            file = tmp_path / "policy.toml"
            file.write_text(f'name = "test"\nversion = "1"\n{policy}\n')
            urls = {"AGENT_DB_URL": project_uri.reveal(), "GLOBAL_DB_URL": (empty_database, project_uri)[once].reveal()}
            settings = load_settings(urls | {"AGENTDB_POLICY": str(file)})
            return Sides(await exits.enter_async_context(open_application(settings)), Tenant("limited"))

        yield opened


async def test_a_copy_ends_at_its_time_limit_whichever_side_is_slow(open_with: Opener) -> None:
    sides = await open_with("[limits]\ncopy_timeout_s = 1.0")
    await sides.sql(GLOBAL, "CREATE TABLE slow (id int)")
    await sides.sql(
        GLOBAL,
        "CREATE FUNCTION dawdle() RETURNS trigger LANGUAGE plpgsql AS"
        " $$ BEGIN PERFORM pg_sleep(0.5); RETURN new; END $$",
    )
    await sides.sql(GLOBAL, "CREATE TRIGGER dawdle BEFORE INSERT ON slow FOR EACH ROW EXECUTE FUNCTION dawdle()")
    for query in ("SELECT generate_series(1, 10) AS id", "SELECT 1 AS id FROM pg_sleep(30)"):
        assert isinstance(await sides.refused(query, "slow"), StatementTimeout), query
        assert await sides.sql(GLOBAL, "SELECT count(*) FROM slow") == [[0]]


async def test_more_than_a_copy_may_have_is_refused_as_a_whole(open_with: Opener) -> None:
    sides = await open_with("[limits]\ncopy_max_bytes = 1_000_000")
    await sides.sql(GLOBAL, "CREATE TABLE kept (text text)")
    wide = "SELECT repeat('x', 1000) AS text FROM generate_series(1, %d)"
    assert (await sides.copy(wide % 990, "kept")).rows == 990
    error = await sides.refused(wide % 1010, "kept")
    assert isinstance(error, ResultTooLarge)
    assert "1,000,000 bytes" in error.message
    assert isinstance(await sides.refused("SELECT repeat('x', 9000000) AS text", "kept"), ResultTooLarge)
    assert await sides.sql(GLOBAL, "SELECT count(*) FROM kept") == [[990]]


async def test_a_database_that_is_both_is_copied_into_itself(open_with: Opener) -> None:
    sides = await open_with("", once=True)
    await sides.sql(AGENT, "CREATE TABLE own AS SELECT generate_series(1, 1000) AS id")
    assert (await sides.copy("SELECT id FROM own", "own")).rows == 1000
    assert (await sides.copy("SELECT DISTINCT id FROM own", "own", "replace")).rows == 1000
    assert await sides.sql(GLOBAL, "SELECT count(*) FROM own") == [[1000]]
    await sides.sql(AGENT, "CREATE VIEW seen AS SELECT id FROM own")
    assert (await sides.copy("TABLE seen", "other", "create")).rows == 1000


async def test_read_only_access_reads_but_does_not_copy(open_with: Opener) -> None:
    sides = await open_with('[access]\nmode = "restricted"')
    error = await sides.refused("SELECT 1 AS id", "made", "create")
    assert isinstance(error, StatementRefused)
    assert "access is read-only" in error.message


async def test_what_the_budget_does_not_let_write_is_not_copied(open_with: Opener) -> None:
    sides = await open_with('[statements.ok]\nallow = ["read"]\nunknown = "refuse"')
    for mode in ("append", "replace", "create"):
        assert isinstance(await sides.refused("SELECT 1 AS id", "made", mode), StatementRefused | BudgetExceeded), mode


async def test_many_copies_and_calls_share_two_connections_without_end_to_either(open_with: Opener) -> None:
    sides = await open_with("[limits]\nmax_connections = 2\npool_size = 2\nconcurrent_calls = 0")
    for scope in (AGENT, GLOBAL):
        await sides.sql(scope, "CREATE TABLE rows (id int)")
    done, rows = 0, "SELECT generate_series(1, 50) AS id"

    async def copies(source: int) -> None:
        nonlocal done
        for _ in range(5):
            while True:
                try:
                    await sides.copy(rows, "rows", "append", (AGENT, GLOBAL)[source % 2])
                except RateLimited:  # one at a time, of so few connections
                    await anyio.sleep(0.01)
                else:
                    break
            done += 1

    async def calls(scope: int) -> None:
        for _ in range(20):
            await sides.sql((AGENT, GLOBAL)[scope % 2], "SELECT 1")

    with anyio.fail_after(60):
        async with anyio.create_task_group() as group:
            for number in range(4):
                group.start_soon(copies, number)
                group.start_soon(calls, number)
    assert done == 20
    assert await sides.sql(GLOBAL, "SELECT count(*) FROM rows") == [[500]]


async def test_a_server_of_one_connection_says_that_it_takes_two(open_with: Opener) -> None:
    sides = await open_with("[limits]\nmax_connections = 1\npool_size = 1")
    error = await sides.refused("SELECT 1 AS id", "made", "create")
    assert "two connections" in error.message
    assert "max_connections" in (error.hint or "")


# Each would do harm if its text could leave the brackets it is put into; the role here is a superuser's.
ESCAPES = [
    "SELECT 1 AS id) TO PROGRAM 'touch {file}'; COPY (SELECT 1 AS id",
    "SELECT 1 AS id) TO STDOUT; COPY (SELECT 1) TO PROGRAM 'touch {file}'; COPY (SELECT 1 AS id",
    "SELECT 1 AS id) TO STDOUT; COMMIT; DROP TABLE victim; COPY (SELECT 1 AS id",
    "SELECT 1 AS id) TO STDOUT; ROLLBACK; DELETE FROM victim; COPY (SELECT 1 AS id",
    "SELECT 1 AS id) TO PROGRAM 'touch {file}' --",
    "SELECT 1 AS id) TO '{file}' --",
    "SELECT 1 AS id) TO STDOUT; DROP TABLE victim; COPY (SELECT 1 AS id",
    "SELECT 1 AS id) TO STDOUT; COMMIT; DROP TABLE victim; --",
    "SELECT 1 AS id; COMMIT; DROP TABLE victim",
    "SELECT 1 AS id /*) TO STDOUT; DROP TABLE victim; COPY (SELECT 1 */",
    "SELECT 1 AS id --) TO STDOUT; DROP TABLE victim",
    "SELECT 1 AS id -- \r) TO STDOUT; DROP TABLE victim; --",
    "SELECT ') TO STDOUT; DROP TABLE victim; --' AS id",
    "SELECT $$) TO STDOUT; DROP TABLE victim; --$$ AS id",
    "SELECT $$) TO STDOUT; DROP TABLE victim; -- AS id",
    'SELECT 1 AS ") TO STDOUT; DROP TABLE victim; --"',
    "SELECT 1 AS id /* ",
    "SELECT 1 AS id, '",
    "SELECT E'\\') TO STDOUT; DROP TABLE victim; --' AS id",
    "SELECT '\\') TO STDOUT; DROP TABLE victim; --' AS id",
    "SELECT U&'d!0061t' UESCAPE '!' AS id",
    "SELECT 1 AS id) AS s (SELECT 2",
    "SELECT 1 AS id UNION (SELECT 2) TO STDOUT",
    "victim TO PROGRAM 'touch {file}' --",
    "TABLE victim) TO PROGRAM 'touch {file}' WITH (FORMAT text",
    "WITH gone AS (DELETE FROM victim RETURNING id) SELECT id FROM gone",
    "DELETE FROM victim RETURNING id",
    "SELECT id INTO copied FROM victim",
    ";;SELECT 1 AS id;;",
    "",
]


@pytest.fixture
def room() -> Iterator[Path]:
    """Where Postgres's account can go."""
    with tempfile.TemporaryDirectory(dir="/tmp") as folder:
        Path(folder).chmod(0o777)
        yield Path(folder)


async def test_no_text_leaves_the_brackets_that_it_is_copied_in(
    postgres: EmbeddedPostgres, empty_database: Secret, room: Path
) -> None:
    """The walls alone: no gate, and a login that may do anything."""
    login = DatabaseTarget("walls", empty_database)
    watcher = await asyncpg.connect(empty_database.reveal())
    await watcher.execute("CREATE TABLE victim AS SELECT 1 AS id")
    pools = Pools(PoolSettings(size=4))
    limits = Limits(10, 10, 1_000_000)
    file = room / "made"
    await watcher.execute(f"COPY (SELECT 1) TO PROGRAM 'touch {file}'")  # which this login may
    file.unlink()
    for number, escape in enumerate(ESCAPES):
        transfer = Transfer(
            escape.format(file=file), Scope.GLOBAL, ("public", f"t{number}"), "create", max_bytes=10**6, patience_s=10
        )
        outcomes: list[object] = []

        async def side(call: Call, transfer: Transfer = transfer, outcomes: list[object] = outcomes) -> None:
            try:
                outcomes.extend(await pools.run(login, call))
            except AgentDBError as error:
                outcomes.append(error)
                transfer.abandon()

        with anyio.fail_after(20):
            async with anyio.create_task_group() as group:
                group.start_soon(side, Call((), limits, work=transfer.read))
                group.start_soon(side, Call((), limits, read_only=False, work=transfer.write))
        transfer.close()
        failed = [each for each in outcomes if isinstance(each, AgentDBError)]
        assert len(failed) in (0, 2), escape
        assert await watcher.fetchval("SELECT count(*) FROM victim") == 1, escape
        assert not file.exists(), escape
        made = await watcher.fetchval("SELECT to_regclass($1) IS NOT NULL", f"t{number}")
        assert made is (not failed), escape
    assert await watcher.fetchval("SELECT to_regclass('copied') IS NULL")
    await watcher.close()
    await pools.close()
