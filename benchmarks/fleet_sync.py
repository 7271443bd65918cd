"""A sync of thirty thousand projects: its requests, how long they take at Neon's rate, and what our own work takes.

`make bench-sync` fills a real control database and answers for Neon in this process, in Neon's shape. The limiter that
keeps Neon's rate waits by a clock of its own, which takes no time. Nothing here asserts a figure.
"""

from __future__ import annotations

import argparse
import json
import platform
import re
import resource
import time
from contextlib import suppress
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import anyio
import asyncpg
import httpx

from agentdb_mcp.bootstrap import Managed, open_application
from agentdb_mcp.embedded import embedded_postgres
from agentdb_mcp.logs import configure_logging
from agentdb_mcp.providers.neon import NeonProvider
from agentdb_mcp.providers.neon.api import NeonApi
from agentdb_mcp.providers.neon.limiter import RateLimiter
from agentdb_mcp.providers.neon.organization import Organization
from agentdb_mcp.settings import load_settings
from agentdb_mcp.store.control import create_database

# A global database and two agents' each.
DATABASES_A_USER = 3
HOUR = timedelta(hours=1)
SETTLING = timedelta(seconds=5400)
FILL = """
    INSERT INTO "user" (id) SELECT 'user-' || n FROM generate_series(1, {users}) AS n;
    INSERT INTO user_db_budget (user_id, tier, placed_tier, period_anchor, current_period_start)
    SELECT id, 'free', 'free', '{made}', '{made}' FROM "user";
    INSERT INTO workspace (id, name, owner_id)
    SELECT 'workspace-' || n, 'Notes', 'user-' || 1 + n % {users} FROM generate_series(1, 2 * {users}) AS n;
    INSERT INTO user_global_database (user_id, project_name, status, neon_project_id, created_at)
    SELECT id, 'global-' || id, 'ready', 'own-' || id, '{made}' FROM "user";
    INSERT INTO workspace_database (workspace_id, user_id, project_name, status, neon_project_id, created_at)
    SELECT id, owner_id, 'agent-' || id, 'ready', 'agents-' || id, '{made}' FROM workspace;
    INSERT INTO db_usage_ledger (database_id, hour, source, user_id, active, sent_bytes, size_bytes, size_at)
    SELECT id, hour, 'a-server', user_id, tstzmultirange(tstzrange(hour, hour + interval '6 minutes')), 100000,
           10000000, hour
      FROM workspace_database, generate_series('{made}', timestamptz '{made}' + interval '24 hours', '1 hour') AS hour
     WHERE neon_project_id LIKE '%7';
    ANALYZE;
"""
METRICS = {
    "compute_unit_seconds": 75,
    "root_branch_bytes_month": 31_457_280,
    "child_branch_bytes_month": 0,
    "public_network_transfer_bytes": 52_431,
    "extra_branches_month": 0,
    "instant_restore_bytes_month": 1_048_576,
}


@dataclass
class Simulated:
    """A clock that waiting moves."""

    now: float = 0.0

    def __call__(self) -> float:
        return self.now

    async def sleep(self, seconds: float) -> None:
        self.now += seconds


@dataclass
class Neon:
    """Answers as the consumption API does, and counts."""

    requests: int = 0
    seconds: float = 0.0
    bytes: int = 0
    asked: set[str] = field(default_factory=set)

    def __call__(self, request: httpx.Request) -> httpx.Response:
        began = time.perf_counter()
        query = request.url.params
        ids = query["project_ids"].split(",") if "cursor" not in query else []
        start, end = (datetime.fromisoformat(query[name]) for name in ("from", "to"))
        hours = [start + number * HOUR for number in range((end - start) // HOUR)]
        spans = [
            {
                "timeframe_start": f"{hour:%Y-%m-%dT%H:%M:%SZ}",
                "timeframe_end": f"{hour + HOUR:%Y-%m-%dT%H:%M:%SZ}",
                "metrics": [{"metric_name": name, "value": value} for name, value in METRICS.items()],
            }
            for hour in hours
        ]
        period = {"period_id": "00000000-0000-0000-0000-000000000000", "period_plan": "agent", "consumption": spans}
        projects = [{"project_id": each, "periods": [period]} for each in ids]
        answer = {"projects": projects} | ({"pagination": {"cursor": ids[-1]}} if ids else {})
        content = json.dumps(answer).encode()
        self.requests += 1
        self.asked |= set(ids)
        self.bytes += len(content)
        self.seconds += time.perf_counter() - began
        return httpx.Response(200, content=content, headers={"Content-Type": "application/json"})


def peak_mb() -> float:
    with suppress(OSError):
        if found := re.search(r"VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text()):
            return int(found.group(1)) / 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


async def measure(name: str, managed: Managed, clock: list[datetime]) -> None:
    neon, waiting = Neon(), Simulated()
    limits = [(11.0, 29), (0.75, 5)]
    general, consumption = (
        RateLimiter(per_second=rate, burst=burst, clock=waiting, sleep=waiting.sleep) for rate, burst in limits
    )
    async with httpx.AsyncClient(transport=httpx.MockTransport(neon), base_url="https://neon.example/api/v2") as client:
        api = NeonApi(client, general=general, consumption=consumption)
        provider = NeonProvider([Organization(api, "default", "org-bench", 0.25)], lambda: clock[0])
        began = time.perf_counter()
        synced = await replace(managed, provider=provider).sync().run()
        seconds = time.perf_counter() - began - neon.seconds
    assert len(neon.asked) == synced.projects
    print(
        f"| {name} | {synced.projects:,} | {synced.hours:,} | {neon.requests} | {waiting.now:.0f} s | {seconds:.1f} s"
        f" | {peak_mb():.0f} MB |"
    )


async def main(options: argparse.Namespace) -> None:
    now = datetime.now(UTC)
    until = (now - SETTLING).replace(minute=0, second=0, microsecond=0)
    clock = [now]
    async with embedded_postgres() as postgres:
        await create_database(postgres.uri(), "fleet")
        settings = load_settings({"AGENTDB_CONTROL_URL": postgres.uri("fleet").reveal()})
        async with open_application(settings, clock=lambda: clock[0]) as application:
            managed = application.managed()
            await managed.lifecycle.identity.has_user("nobody")  # migrates
            connection = await asyncpg.connect(postgres.uri("fleet").reveal())
            made = (until - 24 * HOUR).isoformat()
            await connection.execute(FILL.format(users=options.projects // DATABASES_A_USER, made=made))
            await connection.close()
            print(f"Python {platform.python_version()}, {platform.system()}; RSS before: {peak_mb():.0f} MB")
            print("| sync | projects | hours | requests | at Neon's rate | our own work | peak RSS |")
            print("|---|---|---|---|---|---|---|")
            await measure("a day missed", managed, clock)
            clock[0] += HOUR
            await measure("an hour", managed, clock)
            await measure("nothing new", managed, clock)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--projects", type=int, default=30_000)
    configure_logging("text", "error")
    anyio.run(main, parser.parse_args())
