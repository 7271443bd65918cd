"""The least that a server on the official SDK does: one tool, its rows as plain text, no walls, no checks."""

from __future__ import annotations

import json
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import asyncpg
from mcp.server import MCPServer

pool: asyncpg.Pool


@asynccontextmanager
async def opened(_: object) -> AsyncIterator[None]:
    global pool
    async with asyncpg.create_pool(sys.argv[1], min_size=1, max_size=10) as pool:
        yield


server = MCPServer("plain-sdk", lifespan=opened)


@server.tool(structured_output=False)
async def execute_sql(sql: str) -> str:
    rows = await pool.fetch(sql)
    return json.dumps([list(row) for row in rows], default=str)


if __name__ == "__main__":
    server.run()
