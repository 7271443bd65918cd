"""How long an agent waits: spawn → tools/list, the first call that makes its database, and calls after it.

`make bench` prints medians on this machine; nothing here asserts a time.
"""

from __future__ import annotations

import platform
import statistics
import sys
import time

import anyio
from mcp.client import Client
from mcp.client.stdio import StdioServerParameters

from agentdb_mcp.local_stack import local_stack

ROUNDS = 5
CALLS = 200


async def main() -> None:
    figures: dict[str, list[float]] = {"spawn to tools/list": [], "first call, database made": [], "SELECT 1": []}
    async with local_stack() as stack:
        for number in range(ROUNDS):
            environ = stack.environ() | {"AGENTDB_USER_ID": "bench", "AGENTDB_WORKSPACE_ID": f"bench-{number}"}
            parameters = StdioServerParameters(
                command=sys.executable, args=["-m", "agentdb_mcp", "serve"], env=environ | {"AGENTDB_LOG": "error"}
            )
            started = time.perf_counter()
            async with Client(parameters) as client:
                await client.list_tools()
                figures["spawn to tools/list"].append(time.perf_counter() - started)
                started = time.perf_counter()
                await client.call_tool("execute_sql", {"sql": "SELECT 1"})
                figures["first call, database made"].append(time.perf_counter() - started)
                for _ in range(CALLS):
                    started = time.perf_counter()
                    await client.call_tool("execute_sql", {"sql": "SELECT 1"})
                    figures["SELECT 1"].append(time.perf_counter() - started)
    print(f"Python {platform.python_version()}, {platform.machine()}, {ROUNDS} processes, medians")
    for name, values in figures.items():
        print(f"{name:28} {statistics.median(values) * 1000:9.2f} ms")


if __name__ == "__main__":
    anyio.run(main)
