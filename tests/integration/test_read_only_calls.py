"""Calls that run read-only: which of them run again read-write, and which must not."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from pathlib import Path

import pytest

from agentdb_mcp.bootstrap import Application, open_application
from agentdb_mcp.errors import SqlError, StatementRefused
from agentdb_mcp.execution import Statement
from agentdb_mcp.models import Scope, Secret, Tenant
from agentdb_mcp.settings import load_settings

Opener = Callable[[str], Awaitable[Application]]

# Nothing in the text of a call to it tells that it writes.
WRITER = """
    CREATE FUNCTION note() RETURNS int VOLATILE LANGUAGE plpgsql
    AS $$BEGIN INSERT INTO notes VALUES (1); RETURN 1; END$$
"""
UNKNOWN_READ_ONLY = '[statements.ok]\nunknown = "read_only"\n'
RESTRICTED = '[access]\nmode = "restricted"\n'


@pytest.fixture
async def open_with(project_uri: Secret, tmp_path: Path) -> AsyncIterator[Opener]:
    """Opens an application under a policy, on a database that its caller brought."""
    async with AsyncExitStack() as exits:

        async def open_one(rules: str) -> Application:
            file = tmp_path / "policy.toml"
            file.write_text(f'name = "test"\nversion = "1"\n{rules}')
            settings = load_settings({"AGENT_DB_URL": project_uri.reveal(), "AGENTDB_POLICY": str(file)})
            return await exits.enter_async_context(open_application(settings))

        yield open_one


@pytest.fixture
async def made(open_with: Opener) -> None:
    """A table, a function that writes to it, and a view of that function."""
    application = await open_with("")
    for sql in ("CREATE TABLE notes (n int)", WRITER, "CREATE VIEW noting AS SELECT note() AS n"):
        await query(application, sql)


async def query(application: Application, *sqls: str) -> list[list[object]]:
    statements = [Statement(sql) for sql in sqls]
    answer = await application.queries.execute(Tenant(), Scope.AGENT, statements, transaction=len(sqls) > 1)
    return answer.results[-1].rows


@pytest.mark.parametrize(
    "sql",
    [
        "SELECT note()",
        "SELECT n FROM (SELECT note() AS n) AS inner_one",
        "WITH w AS (SELECT note() AS n) SELECT n FROM w",
        "DO $$BEGIN INSERT INTO notes VALUES (1); END$$",
        "EXPLAIN ANALYZE SELECT note()",
    ],
)
async def test_what_may_run_only_because_it_is_read_only_does_not_run_again_read_write(
    open_with: Opener, made: None, sql: str
) -> None:
    application = await open_with(UNKNOWN_READ_ONLY)
    with pytest.raises(SqlError) as refused:
        await query(application, sql)
    assert refused.value.sqlstate == "25006"
    assert "read-only" in (refused.value.hint or "")
    assert await query(application, "SELECT count(*) FROM notes") == [[0]]


async def test_a_transaction_of_what_is_unknown_does_not_run_again_read_write(open_with: Opener, made: None) -> None:
    application = await open_with(UNKNOWN_READ_ONLY)
    with pytest.raises(SqlError) as refused:
        await query(application, "SELECT 1", "SELECT note()")
    assert refused.value.sqlstate == "25006"
    with pytest.raises(StatementRefused):
        await query(application, "INSERT INTO notes VALUES (1)", "SELECT note()")
    assert await query(application, "SELECT count(*) FROM notes") == [[0]]


async def test_what_is_unknown_writes_where_the_policy_lets_it(open_with: Opener, made: None) -> None:
    application = await open_with("")
    assert await query(application, "SELECT note()") == [[1]]
    assert await query(application, "SELECT count(*) FROM notes") == [[1]]


@pytest.mark.parametrize("rules", ["", UNKNOWN_READ_ONLY], ids=["as shipped", "unknown is read-only"])
async def test_a_certain_read_of_a_view_that_writes_runs_again_read_write(
    open_with: Opener, made: None, rules: str
) -> None:
    application = await open_with(rules)
    assert await query(application, "SELECT n FROM noting") == [[1]]
    assert await query(application, "SELECT count(*) FROM notes") == [[1]]


async def test_a_certain_read_of_a_view_that_writes_stays_read_only_where_access_is(
    open_with: Opener, made: None
) -> None:
    application = await open_with(RESTRICTED)
    with pytest.raises(SqlError) as refused:
        await query(application, "SELECT n FROM noting")
    assert refused.value.sqlstate == "25006"
    assert await query(application, "SELECT count(*) FROM notes") == [[0]]
