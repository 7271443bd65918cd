"""How fast rows go from one of a tenant's databases to the other, and how much memory the server takes for it.

`make bench-copy` prints rows a second and the peak memory of a real `serve` process; nothing here asserts a time.
"""

from __future__ import annotations

import platform
import sys
import time
from pathlib import Path
from typing import Any

import anyio
import psutil
from mcp.client import Client
from mcp.client.stdio import StdioServerParameters

from agentdb_mcp.local_stack import local_stack

MEGABYTE = 1_000_000
# A million rows of an index, a text, a time and a number; fewer that are long; many that are short; one that is huge.
SHAPES = {
    "a million rows of 4 columns": "SELECT * FROM million",
    "the same, made by the query": "SELECT i AS id, md5(i::text) AS text, now() AS at, i * 1.5 AS n"
    " FROM (SELECT generate_series(1, 1000000) AS i) AS s",
    "a hundred thousand of 4 kB": "SELECT i AS id, repeat(md5(i::text), 128) AS text"
    " FROM (SELECT generate_series(1, 100000) AS i) AS s",
    "five million of one integer": "SELECT generate_series(1, 5000000) AS id",
    "twenty of 7.9 MB": "SELECT repeat('x', 7900000) AS text FROM generate_series(1, 20)",
}
FILL = """CREATE TABLE million AS SELECT i AS id, md5(i::text) AS text, now() AS at, i * 1.5 AS n
    FROM generate_series(1, 1000000) AS i"""


def peak(process: psutil.Process) -> int:
    """The most bytes that the process ever had in memory."""
    lines = Path(f"/proc/{process.pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM"))


async def ask(client: Client, tool: str, **arguments: Any) -> dict[str, Any]:
    answer = await client.call_tool(tool, arguments)
    assert not answer.is_error, answer.content
    assert answer.structured_content is not None
    return dict(answer.structured_content)


async def main() -> None:
    print(f"Python {platform.python_version()}, {platform.machine()}")
    print(f"{'':30}{'rows':>10}{'MB':>8}{'s':>8}{'rows/s':>11}{'MB/s':>8}   peak memory of the server, before it")
    async with local_stack() as stack:
        for shape, query in SHAPES.items():
            environ = stack.environ() | {"AGENTDB_USER_ID": "bench", "AGENTDB_WORKSPACE_ID": "bench"}
            parameters = StdioServerParameters(
                command=sys.executable, args=["-m", "agentdb_mcp", "serve"], env=environ | {"AGENTDB_LOG": "error"}
            )
            async with Client(parameters) as client:
                await ask(client, "execute_sql", sql="DROP TABLE IF EXISTS copied", database="global")
                if query.endswith("million"):
                    await ask(client, "execute_sql", sql=FILL)
                await ask(client, "execute_sql", sql="SELECT 1")  # which loads the parser
                server = next(each for each in psutil.Process().children() if "serve" in each.cmdline())
                before = peak(server)
                started = time.perf_counter()
                copied = await ask(
                    client, "copy_rows", from_database="agent", query=query, to_table="copied", mode="create"
                )
                took = time.perf_counter() - started
                rows, size = copied["rows"], copied["bytes"] / MEGABYTE
                print(
                    f"{shape:30}{rows:10,}{size:8.0f}{took:8.1f}{rows / took:11,.0f}{size / took:8.0f}"
                    f"   {peak(server) / MEGABYTE:.0f} MB, {before / MEGABYTE:.0f} MB"
                )


if __name__ == "__main__":
    anyio.run(main)
