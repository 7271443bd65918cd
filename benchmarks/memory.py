"""Does `serve` grow? A million calls over stdio, 32 at once, and the process's memory after each tenth.

`make bench-memory` takes most of an hour, with `CALLS=100000` less. Most texts are new to the server, so that
what it remembers is used up again and again. Ends with 1 where the second half adds more than five megabytes.
"""

from __future__ import annotations

import os
import time

import anyio
import psutil

from agentdb_mcp.embedded import embedded_postgres
from benchmarks.profile import HELLO, Client
from benchmarks.stdio import make_database

CALLERS, STEPS, GROWTH_LINE_MB = 32, 10, 5
MIX = (
    "SELECT 1",
    "SELECT * FROM pgbench_accounts WHERE aid = {n}",
    "SELECT aid, abalance FROM pgbench_accounts WHERE aid > {n} ORDER BY aid LIMIT 50",
    "SELECT bid, count(*), avg(abalance) FROM pgbench_accounts WHERE aid < {n} % 500 GROUP BY bid /* {n} */",
)


def run(environ: dict[str, str], calls: int) -> float:
    """Megabytes that the second half added."""
    client = Client(environ)
    client.send("initialize", HELLO)
    client.receive()
    process = psutil.Process(client.process.pid)

    def ask(number: int) -> None:
        sql = MIX[number % len(MIX)].format(n=number % 90_000)
        client.send("tools/call", {"name": "execute_sql", "arguments": {"sql": sql}})

    for number in range(CALLERS):
        ask(number)
    seen = []
    for step in range(STEPS):
        started = time.perf_counter()
        for number in range(calls // STEPS):
            client.receive()
            ask(number)
        seen.append(process.memory_info().rss / 1e6)
        rate = calls // STEPS / (time.perf_counter() - started)
        print(f"after {(step + 1) * (calls // STEPS):,} calls: {seen[-1]:.0f} MB ({rate:.0f} a second)", flush=True)
    for _ in range(CALLERS):
        client.receive()
    client.close()
    return seen[-1] - seen[STEPS // 2 - 1]


async def main() -> None:
    calls = int(os.environ.get("CALLS") or 1_000_000)
    async with embedded_postgres() as postgres:
        environ, _ = await make_database(postgres)
        grown = await anyio.to_thread.run_sync(run, environ, calls)
    print(f"the second half added {grown:.1f} MB; the line is {GROWTH_LINE_MB}")
    raise SystemExit(grown > GROWTH_LINE_MB)


if __name__ == "__main__":
    anyio.run(main)
