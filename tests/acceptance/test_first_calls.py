"""get_budget as the first thing that a new tenant asks: an answer, and no database made for it."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING

import asyncpg
import pytest

from agentdb_mcp.local_stack import LocalStack

if TYPE_CHECKING:
    from tests.acceptance.conftest import ServeFactory

Environ = Callable[..., dict[str, str]]
Projects = Callable[[], Awaitable[list[str]]]


@pytest.mark.parametrize(
    "arguments", [[], ["--scope", "agent"], ["--scope", "global"]], ids=["free", "agent", "global"]
)
async def test_a_new_tenants_first_get_budget_answers_and_makes_no_database(
    serve: ServeFactory, tenant: Environ, projects: Projects, arguments: list[str]
) -> None:
    name = "-".join(["asks", *arguments[1:]])
    before = await projects()
    async with serve(tenant(name, name), *arguments) as server:
        for _ in range(2):
            budget = (await server.call("get_budget")).fields
            assert budget["managed"] is True
            assert (budget["state"], budget["tier"]) == ("ok", "free")
            assert (budget["limit_cents"], budget["used_cents"], budget["remaining_cents"]) == (200, 0, 200)
            assert budget["databases"] == []
            assert {"read", "write", "schema"} <= set(budget["allowed"])
        assert await projects() == before


async def test_a_new_tenants_get_budget_leaves_nothing_in_the_control_database(
    serve: ServeFactory, tenant: Environ, stack: LocalStack
) -> None:
    async with serve(tenant("curious", "curious")) as server:
        assert not (await server.call("get_budget")).is_error
        connection = await asyncpg.connect(stack.environ()["AGENTDB_CONTROL_URL"])
        for table, column in (("user", "id"), ("workspace", "id"), ("user_db_budget", "user_id")):
            found = await connection.fetchval(f"SELECT count(*) FROM \"{table}\" WHERE {column} = 'curious'")
            assert found == 0, table
        await connection.close()


async def test_without_neon_a_new_tenants_get_budget_answers_all_the_same(serve: ServeFactory, tenant: Environ) -> None:
    async with serve(tenant("lonely", "lonely", NEON_API_KEY="", NEON_ORG_ID="")) as server:
        assert (await server.call("get_budget")).fields["limit_cents"] == 200
        assert (await server.refused("SELECT 1")).code == "provisioning_failed"


async def test_a_database_appears_in_the_budget_with_its_first_statement(
    serve: ServeFactory, tenant: Environ, projects: Projects
) -> None:
    async with serve(tenant("begins", "begun")) as server:
        assert (await server.call("get_budget")).fields["databases"] == []
        await server.sql("SELECT 1")
        budget = (await server.call("get_budget")).fields
        assert [(each["name"], each["scope"]) for each in budget["databases"]] == [("begun", "agent")]
        assert "agent-begun" in await projects()
        assert "global-begins" not in await projects()
