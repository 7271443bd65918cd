"""`serve` as it is shipped, over stdio, beside raw asyncpg, the bare SDK and what peers are on this machine.

`make bench` writes benchmarks/results.md. The harness checks every answer, runs each server in a fresh process each
round, in random order, and raw asyncpg right before each of its cells. `make bench-peers` installs peers into .bench.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import secrets
import shutil
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import anyio
import asyncpg
import psutil
from mcp.client import Client
from mcp.client.stdio import StdioServerParameters

from agentdb_mcp import __version__
from agentdb_mcp.embedded import EmbeddedPostgres, embedded_postgres
from agentdb_mcp.policy import load_policy
from agentdb_mcp.store.control import create_database

ROOT = Path(__file__).resolve().parents[1]
HARNESS = Path(os.environ.get("AGENTDB_BENCH_HARNESS", ROOT.parent / "shared" / "bench" / "bench.py"))
RESULTS = ROOT / "benchmarks" / "results.md"
PEERS = ROOT / ".bench"
OURS, FLOOR, BASE = "agentdb-mcp", "mcp SDK, plain text", "asyncpg-prepared"
TABLE = (
    "CREATE TABLE pgbench_accounts (aid int PRIMARY KEY, bid int, abalance int, filler character(84))",
    "INSERT INTO pgbench_accounts SELECT aid, 1, 0, '' FROM generate_series(1, 100000) AS aid",
    "ANALYZE pgbench_accounts",
)
QUERIES = {"select1": "SELECT 1", "point": "a row by its key", "rows1000": "1,000 rows"}


async def make_database(postgres: EmbeddedPostgres) -> tuple[dict[str, str], str]:
    """The environment of a tenant whose database holds pgbench's accounts, and the superuser's URI of it."""
    await create_database(postgres.uri(), "bench_control")
    environ = {
        "AGENTDB_CONTROL_URL": postgres.uri("bench_control").reveal(),
        "AGENTDB_ENCRYPTION_KEYS": secrets.token_hex(32),
        "AGENTDB_PROVIDER_URL": postgres.uri().reveal(),
        "AGENTDB_USER_ID": "bench",
        "AGENTDB_WORKSPACE_ID": "bench",
    }
    server = StdioServerParameters(command=sys.executable, args=["-m", "agentdb_mcp", "serve"], env=environ)
    async with Client(server) as client:
        for sql in TABLE:
            made = await client.call_tool("execute_sql", {"sql": sql})
            if made.is_error:
                raise SystemExit(f"{sql}: {made.content}")
        name = await client.call_tool("execute_sql", {"sql": "SELECT current_database()"})
        assert name.structured_content is not None
        return environ, postgres.uri(name.structured_content["rows"][0][0]).reveal()


def rows(environ: dict[str, str], dsn: str) -> Iterator[dict[str, Any]]:
    """What the harness is to run."""
    yield {"name": OURS, "cmd": [str(Path(sys.executable).parent / "agentdb-mcp"), "serve"], "env": environ} | _SQL
    yield {
        "name": FLOOR,
        "cmd": [sys.executable, "-m", "benchmarks.servers.plain_sdk", "{dsn}"],
        "cwd": str(ROOT),
    } | _SQL
    if peer := _found("postgres-mcp"):
        yield {"name": "postgres-mcp", "cmd": [peer, "--access-mode=unrestricted"], "env": {"DATABASE_URI": dsn}} | _SQL
    if peer := _found("mcp-server-postgres"):
        yield {"name": "server-postgres (TypeScript)", "cmd": [peer, "{dsn}"]} | _SQL | {"tool": "query"}
    if peer := _found("dbhub"):
        yield {"name": "dbhub (TypeScript)", "cmd": [peer, "--transport", "stdio", "--dsn", "{dsn}"]} | _SQL


_SQL: dict[str, Any] = {"tool": "execute_sql", "args": {"sql": "{sql}"}}


def _found(program: str) -> str | None:
    places = [str(PEERS / "bin"), str(PEERS / "node_modules" / ".bin"), os.environ.get("PATH", "")]
    return shutil.which(program, path=os.pathsep.join(places))


def measure(servers: list[dict[str, Any]], dsn: str, given: argparse.Namespace) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as folder:
        listed, out = Path(folder) / "servers.json", Path(folder) / "results.json"
        listed.write_text(json.dumps(servers))
        options = ["--dsn", dsn, "--servers", str(listed), "--out", str(out)]
        options += ["--rounds", str(given.rounds), "--secs", str(given.secs), "--conc", "1,32"]
        command = [sys.executable, "-m", "benchmarks.harness", str(HARNESS), *options]
        ended = subprocess.run(command, cwd=folder, env=os.environ | {"PYTHONPATH": str(ROOT)}, check=False)
        if ended.returncode:
            raise SystemExit(f"the harness ended with {ended.returncode}")
        figures: dict[str, Any] = json.loads(out.read_text())
    return figures


def report(figures: dict[str, Any], version: str) -> Iterator[str]:
    """Markdown: medians over rounds, ratios within a round."""
    policy = load_policy(None)
    yield "# Results\n"
    yield f"Written by `make bench`, {datetime.now(UTC):%Y-%m-%d}: medians of {len(figures[BASE])} interleaved rounds."
    yield f"{psutil.cpu_count()} cores ({platform.machine()}), Python {platform.python_version()}, {version}."
    yield (
        f"agentdb-mcp {__version__} ran as shipped, policy `{policy.name}`: gate, walls, limits (answers of up to"
        f" {policy.limits.max_rows:,} rows and {policy.limits.max_bytes:,} bytes), meter and audit log on, a control"
        " database beside it, databases on a plain Postgres cluster. Every answer of every server was checked.\n"
    )
    for query, words in QUERIES.items():
        for callers in (1, 32):
            yield from _table(figures, f"{query}/{callers}", f"{words}, {callers} caller{'s' * (callers > 1)}")
    yield "\n## Start and memory\n"
    yield "| | tools/list answered | first `SELECT 1` | at rest | after the load |\n|---|---|---|---|---|"
    for name, rounds in figures.items():
        if started := [each for each in rounds if "mem1" in each]:
            seconds = [statistics.median(each["start"][key] for each in started) for key in ("tools_s", "first_call_s")]
            sizes = [statistics.median(each[key]["rss"] for each in started) / 1e6 for key in ("mem0", "mem1")]
            yield f"| {name} | {seconds[0]:.2f} s | {seconds[1]:.2f} s | {sizes[0]:.0f} MB | {sizes[1]:.0f} MB |"


def _table(figures: dict[str, Any], cell: str, words: str) -> Iterator[str]:
    yield f"\n## {words}\n\n| | p50 | p99 | calls/s | of raw asyncpg's | wrong answers |\n|---|---|---|---|---|---|"
    for name, rounds in figures.items():
        cells = [each["cells"][cell] for each in rounds if cell in each["cells"]]
        if not cells:
            errors = {each.get("error", "no figures") for each in rounds}
            yield f"| {name} | failed: {'; '.join(sorted(errors))[:200]} | | | | |"
            continue
        p50, p99, rate = (statistics.median(each[key] for each in cells) for key in ("p50", "p99", "rps"))
        shares = [each["rps"] / each["base"]["rps"] for each in cells if "base" in each]
        share = f"1/{1 / statistics.median(shares):.1f}" if shares else ""
        yield f"| {name} | {p50:.2f} ms | {p99:.2f} ms | {rate:,.0f} | {share} | {sum(each['bad'] for each in cells)} |"


def arguments() -> argparse.Namespace:
    if not HARNESS.exists():
        raise SystemExit(f"there is no harness at {HARNESS}: AGENTDB_BENCH_HARNESS names one")
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0] if __doc__ else None)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--secs", type=float, default=2)
    return parser.parse_args()


async def main(given: argparse.Namespace) -> None:
    async with embedded_postgres() as postgres:
        environ, dsn = await make_database(postgres)
        servers = list(rows(environ, dsn))
        print("servers:", ", ".join(each["name"] for each in servers))
        figures = measure(servers, dsn, given)
        connection = await asyncpg.connect(dsn)
        version = f"Postgres {await connection.fetchval('SHOW server_version')}"
        await connection.close()
    RESULTS.write_text("\n".join(report(figures, version)) + "\n", "utf-8")
    print(f"{RESULTS.relative_to(ROOT)} is written")


if __name__ == "__main__":
    anyio.run(main, arguments())
