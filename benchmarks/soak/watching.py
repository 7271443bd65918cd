"""What is looked at while it goes on: memory of our processes, and connections as Postgres sees them."""

from __future__ import annotations

import statistics
from collections import Counter, defaultdict
from contextlib import suppress
from dataclasses import dataclass, field

import anyio
import asyncpg
import psutil

from benchmarks.soak.house import House, Life

SAMPLE_S = 1.0
MB = 1_000_000
OURS = "agentdb-mcp%"
# Connections to tenants' databases; control connections stay open while a server runs.
TENANTS = ("agentdb-mcp", "agentdb-mcp admin")


@dataclass
class Connections:
    """The most of ours at a time, by what they are for."""

    house: House
    most: Counter[str] = field(default_factory=Counter)

    async def watch(self) -> None:
        while True:
            with suppress(OSError, asyncpg.PostgresError, asyncpg.InterfaceError):  # while Postgres is away
                self.most |= await connections(self.house)
            await anyio.sleep(SAMPLE_S)


@dataclass
class Memory:
    """Resident bytes of each process, by the seconds of the run."""

    house: House
    samples: dict[Life, list[tuple[float, int]]] = field(default_factory=lambda: defaultdict(list))

    async def watch(self) -> None:
        begun = anyio.current_time()
        while True:
            for program in self.house.programs:
                with suppress(psutil.Error):
                    rss = psutil.Process(program.life.pid).memory_info().rss
                    self.samples[program.life].append((anyio.current_time() - begun, rss))
            await anyio.sleep(SAMPLE_S)

    def peak_mb(self) -> float:
        return max(rss for samples in self.samples.values() for _, rss in samples) / MB

    def growth(self, seconds: float) -> dict[str, tuple[float, float, float]]:
        """Of processes that lived on: MB at the middle and at the end, and the second half's slope in MB a minute."""
        found = {}
        for life, samples in self.samples.items():
            half = [(at, rss / MB) for at, rss in samples if seconds / 2 <= at <= seconds]
            if not life.killed and samples[0][0] < seconds / 4 and len(half) > 2:
                slope, start = statistics.linear_regression(*zip(*half, strict=True))
                found[life.name] = start + slope * half[0][0], start + slope * half[-1][0], slope * 60
        return found


async def connections(house: House) -> Counter[str]:
    """Ours, by what they are for."""
    connection = await asyncpg.connect(house.uri("postgres"))
    try:
        rows = await connection.fetch(
            "SELECT application_name, count(*) FROM pg_stat_activity WHERE application_name LIKE $1 GROUP BY 1", OURS
        )
    finally:
        await connection.close()
    return Counter({row[0]: row[1] for row in rows})


async def until_none(house: House, names: tuple[str, ...] | None, within_s: float) -> tuple[float, Counter[str]]:
    """Wait for connections of these names, or any of ours, to be gone; the seconds it took, and those that stay."""
    begun = anyio.current_time()
    left = Counter[str]()
    with anyio.move_on_after(within_s):
        while left := _only(await connections(house), names):
            await anyio.sleep(0.2)
    return anyio.current_time() - begun, left


def _only(found: Counter[str], names: tuple[str, ...] | None) -> Counter[str]:
    return Counter({name: count for name, count in found.items() if names is None or name in names})
