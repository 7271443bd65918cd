"""Rows copied from one of a tenant's databases to the other: all of them or none, whatever fails on the way."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any

import anyio
import asyncpg
import pytest

from agentdb_mcp.bootstrap import Application
from agentdb_mcp.errors import AgentDBError, InvalidArgument, SqlError
from agentdb_mcp.execution import Statement
from agentdb_mcp.models import Scope, Tenant
from agentdb_mcp.services import Copied, Copying

AGENT, GLOBAL = Scope.AGENT, Scope.GLOBAL


@dataclass(frozen=True)
class Both:
    """One tenant's two databases."""

    application: Application
    tenant: Tenant

    async def sql(self, scope: Scope, sql: str, *params: object) -> list[list[Any]]:
        return (await self.application.queries.execute(self.tenant, scope, [Statement(sql, params)])).results[0].rows

    async def copy(self, query: str, table: str, mode: Any = "create", source: Scope = AGENT) -> Copied:
        async def report(rows: int, _: str) -> None:
            pass

        copying = Copying(self.application.queries.calls)
        with anyio.fail_after(60):
            return await copying.copy(self.tenant, source, query, ("public", table), mode, report)

    async def refused(self, query: str, table: str, mode: Any = "append", source: Scope = AGENT) -> AgentDBError:
        with pytest.raises(AgentDBError) as caught:
            await self.copy(query, table, mode, source)
        return caught.value


@pytest.fixture(scope="module")
async def both(application: Application) -> Both:
    return Both(application, Tenant("copier", "copying"))


async def test_values_of_every_common_type_arrive_as_they_were(both: Both) -> None:
    query = """SELECT 1::int2 AS a, 2::int4 AS b, 3::int8 AS c, 'Infinity'::float8 AS d, 1.50::numeric(10,2) AS e,
        E'tab\\t line\\n back\\\\ \\\\. é' AS f, NULL::text AS g, ''::text AS h, '\\x00ff'::bytea AS i,
        '24:00'::time AS j, 'infinity'::timestamptz AS k, '1 mon -2 days'::interval AS l, '{"a": [1]}'::jsonb AS m,
        ARRAY['x,"y', NULL] AS n, 'b1b2c3d4-0000-0000-0000-000000000000'::uuid AS o, 'ab '::char(5) AS p,
        B'101'::bit(3) AS q, '[1,5)'::int4range AS r, true AS s, '10.0.0.1/8'::inet AS t, '4713-01-01 BC'::date AS u,
        ARRAY[[1,2],[3,4]] AS v, 'x'::"char" AS w, '(1,2)'::point AS x"""
    copied = await both.copy(query, "every_type")
    assert copied.rows == 1
    assert copied.notes == ()
    whole = "SELECT to_jsonb(t)::text, p::text = 'ab', pg_typeof(e)::text FROM (%s) AS t"
    assert await both.sql(GLOBAL, whole % "SELECT * FROM every_type") == await both.sql(AGENT, whole % query)
