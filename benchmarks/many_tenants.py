"""Thousands of tenants' databases in rotation through one server: does it keep its connections, memory and answers?

`make bench-tenants` makes 2,000 users with a database each on an embedded cluster (about 16 GB of disk, in TMPDIR), as
the provider for plain clusters does. A process of its own then serves calls that go over all of them in turn, then
mostly to a few (Zipf), then over all again in another order; its memory is measured apart from Postgres and from the
making. `Caller` is how a call reaches the server: in the process now.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import resource
import sys
import time
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import asdict, dataclass
from itertools import accumulate
from pathlib import Path
from typing import Protocol

import anyio
import asyncpg
import psutil
import typer
from anyio.abc import ByteReceiveStream
from anyio.streams.text import TextReceiveStream

from agentdb_mcp.bootstrap import Application, open_application
from agentdb_mcp.embedded import EmbeddedPostgres, embedded_postgres
from agentdb_mcp.errors import AgentDBError
from agentdb_mcp.execution import Statement
from agentdb_mcp.logs import configure_logging
from agentdb_mcp.models import Scope, Tenant
from agentdb_mcp.settings import load_settings
from agentdb_mcp.store.control import create_database

# Three fifths of the smallest container that such a server is given (512 MB).
MEMORY_LINE_MB = 300
MADE_AT_ONCE = 4
CALLS_AT_ONCE = 32
SAMPLE_S = 0.1
CONTROL = "agentdb_control"
MB = 1_000_000
SQL = "SELECT count(*) FROM pg_catalog.pg_class"


@dataclass(frozen=True, slots=True)
class Phase:
    """Milliseconds; memory in MB at the phase's end."""

    name: str
    calls: int
    tenants: int
    seconds: float
    p50: float
    p99: float
    longest: float
    memory: float
    errors: dict[str, int]


class Caller(Protocol):
    """A way to the server."""

    async def call(self, tenant: Tenant) -> None:
        """One call of the tenant's. Raises AgentDBError."""


@dataclass(frozen=True, slots=True)
class InProcess:
    application: Application

    async def call(self, tenant: Tenant) -> None:
        await self.application.queries.execute(tenant, Scope.AGENT, [Statement(SQL)])


def tenant_of(number: int) -> Tenant:
    return Tenant(f"user-{number}", f"w-{number}")


def environ_of(postgres: EmbeddedPostgres) -> dict[str, str]:
    return {
        "AGENTDB_CONTROL_URL": postgres.uri(CONTROL).reveal(),
        "AGENTDB_PROVIDER_URL": postgres.uri().reveal(),
        "AGENTDB_ENCRYPTION_KEYS": "5a" * 32,
    }


async def make_tenants(environ: dict[str, str], tenants: int) -> None:
    limiter = anyio.CapacityLimiter(MADE_AT_ONCE)
    async with open_application(load_settings(environ)) as application:
        lifecycle = application.managed().lifecycle
        with typer.progressbar(length=tenants, label="making databases", file=sys.stderr) as bar:

            async def one(number: int) -> None:
                tenant = tenant_of(number)
                async with limiter:
                    await lifecycle.identity.ensure_user(tenant.user_id or "")
                    await lifecycle.create_workspace(tenant.workspace_id or "", tenant.user_id or "", "Bench")
                bar.update(1)

            async with anyio.create_task_group() as group:
                for number in range(tenants):
                    group.start_soon(one, number)


# --- the driving process ----------------------------------------------------------------------------------------------


async def drive(caller: Caller, pid: int, tenants: int, calls: int) -> AsyncIterator[Phase]:
    """The phases, one after the other; `pid` is the process that serves."""
    dice = random.Random(6)
    everybody = list(range(tenants))
    yield await phase("all, for the first time", caller, pid, everybody)
    weights = list(accumulate(1 / rank for rank in range(1, tenants + 1)))
    yield await phase("Zipf", caller, pid, dice.choices(everybody, cum_weights=weights, k=calls))
    dice.shuffle(everybody)
    yield await phase("all again, shuffled", caller, pid, everybody)


async def phase(name: str, caller: Caller, pid: int, numbers: Sequence[int]) -> Phase:
    took: list[float] = []
    errors: Counter[str] = Counter()
    waiting = iter(numbers)

    async def work() -> None:
        for number in waiting:
            started = time.perf_counter()
            try:
                await caller.call(tenant_of(number))
            except AgentDBError as error:
                errors[f"{error.code}: {error.message}"] += 1
            took.append((time.perf_counter() - started) * 1000)

    started = time.perf_counter()
    async with anyio.create_task_group() as group:
        for _ in range(CALLS_AT_ONCE):
            group.start_soon(work)
    seconds = time.perf_counter() - started
    took.sort()
    p50, p99 = (took[int(len(took) * share)] for share in (0.5, 0.99))
    memory = psutil.Process(pid).memory_info().rss / MB
    return Phase(name, len(took), len(set(numbers)), seconds, p50, p99, took[-1], memory, dict(errors))


async def serve_and_drive(options: argparse.Namespace) -> None:
    """In a process of its own: one JSON object a line on stdout, the last with the peak."""
    async with open_application(load_settings()) as application:
        async for each in drive(InProcess(application), os.getpid(), options.tenants, options.calls):
            print(json.dumps(asdict(each)), flush=True)
    print(json.dumps({"peak": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / MB}), flush=True)


# --- the process that looks on ----------------------------------------------------------------------------------------


@asynccontextmanager
async def watched(postgres: EmbeddedPostgres) -> AsyncIterator[dict[str, int]]:
    """The most connections by kind, as Postgres sees them."""
    most = {"agentdb-mcp": 0, "agentdb-mcp admin": 0, "agentdb-mcp control": 0}
    connection = await asyncpg.connect(postgres.uri().reveal())

    async def look() -> None:
        while True:
            for name, count in await connection.fetch(
                "SELECT application_name, count(*) FROM pg_stat_activity GROUP BY application_name"
            ):
                if name in most:
                    most[name] = max(most[name], count)
            await anyio.sleep(SAMPLE_S)

    async with anyio.create_task_group() as group:
        group.start_soon(look)
        yield most
        group.cancel_scope.cancel()
    connection.terminate()


async def main(options: argparse.Namespace) -> None:
    async with embedded_postgres(options.data_dir) as postgres:
        await create_database(postgres.uri(), CONTROL)
        environ = environ_of(postgres)
        started = time.monotonic()
        await make_tenants(environ, options.tenants)
        print(f"{options.tenants} databases made or found in {time.monotonic() - started:.0f} s", flush=True)
        if options.make_only:
            return
        command = [sys.executable, "-m", "benchmarks.many_tenants", "--drive"]
        command += ["--tenants", str(options.tenants), "--calls", str(options.calls)]
        print("| calls to | calls | tenants | errors | a second | p50 | p99 | longest | memory then |")
        print("|---|---|---|---|---|---|---|---|---|", flush=True)
        errors, peak = 0, 0.0
        async with (
            watched(postgres) as most,
            await anyio.open_process(command, env=dict(os.environ) | environ, stderr=None) as driver,
        ):
            assert driver.stdout is not None
            async for line in lines_of(driver.stdout):
                told = json.loads(line)
                if "peak" in told:
                    peak = told["peak"]
                else:
                    errors += show(Phase(**told))
    print(f"peak memory of the serving process: {peak:.0f} MB (line: {MEMORY_LINE_MB} MB)")
    print("most connections: " + ", ".join(f"{count} {name}" for name, count in most.items()))
    sys.exit(0 if driver.returncode == 0 and 0 < peak <= MEMORY_LINE_MB and not errors else 1)


async def lines_of(stream: ByteReceiveStream) -> AsyncIterator[str]:
    rest = ""
    async for text in TextReceiveStream(stream):
        *whole, rest = (rest + text).split("\n")
        for line in whole:
            yield line


def show(each: Phase) -> int:
    """Print it; how many errors there were."""
    errors = sum(each.errors.values())
    print(
        f"| {each.name} | {each.calls:,} | {each.tenants:,} | {errors} | {each.calls / each.seconds:.0f} |"
        f" {each.p50:.0f} ms | {each.p99:.0f} ms | {each.longest:.0f} ms | {each.memory:.0f} MB |",
        flush=True,
    )
    for error, count in each.errors.items():
        print(f"{count} × {error}", flush=True)
    return errors


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tenants", type=int, default=2000)
    parser.add_argument("--calls", type=int, default=4000, help="of the Zipf phase")
    parser.add_argument("--data-dir", type=Path, help="where the databases are kept for the next run")
    parser.add_argument("--make-only", action="store_true", help="make the databases in --data-dir and end")
    parser.add_argument("--drive", action="store_true", help=argparse.SUPPRESS)
    configure_logging("text", "error")
    options = parser.parse_args()
    anyio.run(serve_and_drive if options.drive else main, options)
