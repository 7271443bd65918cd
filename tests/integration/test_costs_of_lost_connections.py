"""A statement that ends its own connection is paid for like any other."""

from __future__ import annotations

import pytest

from agentdb_mcp.bootstrap import open_application
from agentdb_mcp.errors import DatabaseUnavailable
from agentdb_mcp.execution import Statement
from agentdb_mcp.local_stack import local_stack
from agentdb_mcp.models import Scope, Tenant
from agentdb_mcp.settings import load_settings

DIE = """CREATE FUNCTION die() RETURNS trigger LANGUAGE plpgsql AS
    $$BEGIN PERFORM pg_terminate_backend(pg_backend_pid()); RETURN NULL; END$$"""
AT_COMMIT = """CREATE CONSTRAINT TRIGGER die AFTER INSERT ON fragile DEFERRABLE INITIALLY DEFERRED
    FOR EACH ROW EXECUTE FUNCTION die()"""


@pytest.mark.parametrize(
    "sql",
    [
        """DO $$BEGIN PERFORM count(*) FROM generate_series(1, 3000000);
            PERFORM pg_terminate_backend(pg_backend_pid()); END$$""",
        "INSERT INTO fragile SELECT count(*) FROM generate_series(1, 3000000)",
    ],
    ids=["while it runs", "at commit"],
)
async def test_a_statement_that_ends_its_own_backend_costs_as_well(sql: str) -> None:
    async with local_stack() as stack, open_application(load_settings(stack.environ())) as application:
        for made in ("CREATE TABLE fragile (n int)", DIE, AT_COMMIT):
            await application.queries.execute(Tenant("ada", "desk"), Scope.AGENT, [Statement(made)])
        usage = application.managed().usage
        before = (await usage.report("ada")).used_microcents
        with pytest.raises(DatabaseUnavailable):
            await application.queries.execute(Tenant("ada", "desk"), Scope.AGENT, [Statement(sql)])
        assert (await usage.report("ada")).used_microcents > before
