"""What Postgres answers to a statement is told without what the driver adds for its own users."""

from __future__ import annotations

import asyncpg
import pytest

from agentdb_mcp.errors import SqlError
from agentdb_mcp.execution.errors import statement_error


@pytest.mark.parametrize("sqlstate", ["26000", "42P05"])
def test_an_error_of_prepared_statements_has_no_advice_about_the_driver(sqlstate: str) -> None:
    answer = {"S": "ERROR", "C": sqlstate, "M": 'prepared statement "mine" is odd'}
    error = statement_error(asyncpg.PostgresError.new(answer))
    assert isinstance(error, SqlError)
    assert error.message == 'prepared statement "mine" is odd'
    assert "asyncpg" not in (error.hint or "")
    assert error.hint
