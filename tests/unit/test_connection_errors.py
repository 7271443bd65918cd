"""What Neon's proxy answers to a login is about the database, not a fault of ours."""

from __future__ import annotations

import asyncpg
import pytest

from agentdb_mcp.errors import DatabaseUnavailable
from agentdb_mcp.execution.errors import CONNECTION_ERRORS, connection_error

QUOTA = "Your account or project has exceeded the compute time quota. Upgrade your plan to increase limits."


@pytest.mark.parametrize(
    ("answer", "said", "retryable"),
    [
        (QUOTA, "The database is paused.", False),
        ("The requested endpoint could not be found.", "The database does not exist any more.", False),
    ],
    ids=["over its quota", "gone"],
)
def test_a_refusal_of_the_proxy_makes_the_database_unavailable(answer: str, said: str, retryable: bool) -> None:
    error = connection_error(asyncpg.InternalServerError(answer))
    assert isinstance(error, DatabaseUnavailable)
    assert (error.message, error.retryable) == (said, retryable)


@pytest.mark.parametrize("kind", CONNECTION_ERRORS)
def test_a_connection_that_cannot_be_made_or_is_gone_is_worth_another_try(kind: type[Exception]) -> None:
    error = connection_error(kind("because"))
    assert isinstance(error, DatabaseUnavailable)
    assert error.retryable
    assert error.hint
