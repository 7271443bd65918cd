"""What nineteen tenants of one process feel while the twentieth runs every attack in `time` and `size`.

`make bench-neighbours` prints figures of this machine; nothing here asserts a time. Calls start at a fixed rate,
whether or not the one before has ended, and count from the moment they were due. Postgres, the local Neon API and the
control database share the machine with the process, and the API its event loop. "foreign CPU" is what is neither this
process nor its Postgres: where it is not small, or "quiet again" is unlike "quiet", the figures are not ours alone.
"""

from __future__ import annotations

import argparse
import base64
import itertools
import json
import math
import os
import platform
import random
import re
import resource
import statistics
import time
import zlib
from collections import Counter, defaultdict
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import anyio
import asyncpg
import psutil

from agentdb_mcp.bootstrap import Application, open_application
from agentdb_mcp.errors import AgentDBError
from agentdb_mcp.execution import Statement, catalog
from agentdb_mcp.local_stack import LocalStack, local_stack
from agentdb_mcp.logs import configure_logging
from agentdb_mcp.models import Scope, Tenant
from agentdb_mcp.settings import load_settings

NEIGHBOURS = 19
ITEMS = 1000
LOOP_TICK_S = 0.01
AIM_RATIO = 5
SHARED_CASES = Path(__file__).resolve().parents[2] / "shared" / "attacks" / "cases.jsonl"
NOISY = Tenant("noisy", "noisy")
OTHERS = [Tenant(f"quiet-{number}", f"quiet-{number}") for number in range(NEIGHBOURS)]
KINDS = ("point select", "small insert", "list tables")
LIST_TABLES = catalog.objects("public", "table")


@dataclass
class Sample:
    """One call of a neighbour's."""

    kind: str
    due: float
    seconds: float


@dataclass
class CaseRun:
    """One attack case, with its setup, as its own caller saw it."""

    case: str
    began: float
    ended: float
    outcome: str


@dataclass
class Phase:
    name: str
    samples: list[Sample] = field(default_factory=list)
    failures: Counter[str] = field(default_factory=Counter)
    cases: list[CaseRun] = field(default_factory=list)
    lateness: list[tuple[float, float, float]] = field(default_factory=list)  # when, how late, our CPU meanwhile
    over: bool = False
    seconds: float = 0.0
    peak_mb: float = 0.0
    our_cpu: float = 0.0
    postgres_cpu: float = 0.0
    foreign_cpu: float = 0.0

    def times(self, kind: str | None = None) -> list[float]:
        return [sample.seconds for sample in self.samples if kind in (None, sample.kind)]

    def longest_stall(self) -> tuple[float, float]:
        """Seconds, and how many of them this process, any thread of it, was on the CPU."""
        _, late, cpu = max(self.lateness, key=lambda each: each[1], default=(0.0, 0.0, 0.0))
        return late, cpu


# --- the neighbours -------------------------------------------------------------------------------------------


async def prepare(application: Application, tenant: Tenant) -> None:
    for sql in (
        "CREATE TABLE items (id int PRIMARY KEY, name text NOT NULL, price numeric NOT NULL)",
        f"INSERT INTO items SELECT g, 'item ' || g, g * 1.5 FROM generate_series(1, {ITEMS}) AS g",
        "CREATE TABLE events (id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, at timestamptz, note text)",
        "ANALYZE items",
    ):
        await application.queries.execute(tenant, Scope.AGENT, [Statement(sql)])


async def light_call(application: Application, tenant: Tenant, kind: str) -> None:
    if kind == "point select":
        read = Statement("SELECT id, name, price FROM items WHERE id = $1", [random.randint(1, ITEMS)])
        await application.queries.execute(tenant, Scope.AGENT, [read])
    elif kind == "small insert":
        write = Statement("INSERT INTO events (at, note) VALUES (now(), $1) RETURNING id", ["something happened"])
        await application.queries.execute(tenant, Scope.AGENT, [write])
    else:
        await application.queries.catalog(tenant, Scope.AGENT, [LIST_TABLES])


async def neighbour(application: Application, tenant: Tenant, phase: Phase, first: float, every: float) -> None:
    async def one(kind: str, due: float) -> None:
        try:
            await light_call(application, tenant, kind)
        except AgentDBError as error:
            phase.failures[error.code] += 1
        except Exception as error:  # noqa: BLE001  (it counts as a failure, whatever it is)
            phase.failures[type(error).__name__] += 1
        phase.samples.append(Sample(kind, due, time.monotonic() - due))

    # Times and kinds vary, the same way in every phase: in step with the process's own clocks they would mislead.
    chance = random.Random(str(tenant))
    async with anyio.create_task_group() as calls:
        for number in itertools.count():
            due = first + (number + chance.random()) * every
            await anyio.sleep(max(0.0, due - time.monotonic()))
            if phase.over:
                return
            calls.start_soon(one, chance.choice(KINDS), due)


async def watch_loop(phase: Phase) -> None:
    while not phase.over:
        due, cpu = time.monotonic() + LOOP_TICK_S, time.process_time()
        await anyio.sleep(LOOP_TICK_S)
        phase.lateness.append((due, max(0.0, time.monotonic() - due), time.process_time() - cpu))


@asynccontextmanager
async def measured(stack: LocalStack, application: Application, name: str, rate: float) -> AsyncIterator[Phase]:
    """The neighbours at work for the time of the block, and what they and the process felt."""
    phase = Phase(name)
    reset_peak()
    server = psutil.Process(stack.postgres.pid)
    began, ours, postgres, machine = time.monotonic(), time.process_time(), tree_cpu(server), machine_cpu()
    async with anyio.create_task_group() as group:
        group.start_soon(watch_loop, phase)
        for tenant in OTHERS:
            group.start_soon(neighbour, application, tenant, phase, began, 1 / rate)
        try:
            yield phase
        finally:
            phase.over = True
    phase.seconds = time.monotonic() - began
    phase.our_cpu = (time.process_time() - ours) / phase.seconds
    phase.postgres_cpu = (tree_cpu(server) - postgres) / phase.seconds
    phase.foreign_cpu = (machine_cpu() - machine) / phase.seconds - phase.our_cpu - phase.postgres_cpu
    phase.peak_mb = peak_mb()


# --- the noisy one --------------------------------------------------------------------------------------------


def load_cases() -> list[dict[str, Any]]:
    path = Path(os.environ.get("AGENTDB_ATTACK_CASES") or SHARED_CASES)
    every = [json.loads(line) for line in path.read_text("utf-8").splitlines() if line.strip()]
    return [case for case in every if case["group"] in ("time", "size")]


def texts(case: dict[str, Any]) -> Iterator[str]:
    yield from case.get("setup", [])
    for step in case.get("steps", [case]):
        if "sql_z" in step:
            yield zlib.decompress(base64.b64decode(step["sql_z"])).decode("utf-8")
        else:
            yield step["sql"]


async def prepare_noisy(application: Application) -> dict[str, str]:
    """What the cases start from, and the values of their placeholders."""
    for sql in (
        "CREATE TABLE t (id int PRIMARY KEY, v text)",
        "INSERT INTO t VALUES (1, 'a'), (2, 'b'), (3, 'c')",
        "CREATE SEQUENCE sq",
    ):
        await application.queries.execute(NOISY, Scope.AGENT, [Statement(sql)])
    values = {"{name}": "noisy", "{gate_password}": "unknown", "{data_directory}": "pgdata", "{socket_dir}": "/none"}
    for tenant, names in ((NOISY, ("{db}", "{own}", "{gate}")), (OTHERS[0], ("{other_db}", "{other_own}"))):
        who = Statement("SELECT current_database(), current_user, current_user")
        answer = await application.queries.execute(tenant, Scope.AGENT, [who])
        values |= dict(zip(names, map(str, answer.results[0].rows[0]), strict=False))
    return values


async def run_case(application: Application, phase: Phase, case: dict[str, Any], values: dict[str, str]) -> None:
    """What an earlier round's setup left is still there; that its repetition then fails changes nothing."""
    began, outcome = time.monotonic(), "answered"
    for text in texts(case):
        for placeholder, value in values.items():
            text = text.replace(placeholder, value)
        try:
            await application.queries.execute(NOISY, Scope.AGENT, [Statement(text)])
            outcome = "answered"
        except AgentDBError as error:
            outcome = error.code
        except Exception as error:  # noqa: BLE001  (ours to print)
            outcome = f"{type(error).__name__}!"
    phase.cases.append(CaseRun(case["id"], began, time.monotonic(), outcome))


async def attack(
    application: Application, phase: Phase, cases: list[dict[str, Any]], values: dict[str, str], *, width: int
) -> None:
    """Every case `width` times, `width` at once."""
    order = itertools.chain.from_iterable([cases] * width)

    async def work() -> None:
        for case in order:
            await run_case(application, phase, case, values)

    async with anyio.create_task_group() as group:
        for _ in range(width):
            group.start_soon(work)


async def burn(stack: LocalStack, backends: int, seconds: float) -> None:
    """Backends that compute and that our process knows nothing of: what the machine alone does to the neighbours."""

    async def one() -> None:
        connection = await asyncpg.connect(stack.postgres.uri().reveal())
        try:
            await connection.execute(f"SET statement_timeout = {int(seconds * 1000)}")
            with suppress(asyncpg.QueryCanceledError):
                await connection.execute(
                    "SELECT count(*) FROM generate_series(1, 1000000) a, generate_series(1, 1000000)"
                )
        finally:
            await connection.close()

    async with anyio.create_task_group() as group:
        for _ in range(backends):
            group.start_soon(one)


# --- the machine ----------------------------------------------------------------------------------------------


def machine_cpu() -> float:
    """Seconds that all processors were busy since the start of the machine."""
    times = psutil.cpu_times()
    return sum(times) - times.idle - getattr(times, "iowait", 0.0) - getattr(times, "guest", 0.0)


def tree_cpu(server: psutil.Process) -> float:
    """Seconds of the postmaster and its backends, those that have ended included."""
    seconds = sum(server.cpu_times()[:4])
    for backend in server.children():
        with suppress(psutil.NoSuchProcess):
            seconds += sum(backend.cpu_times()[:2])
    return seconds


def reset_peak() -> None:
    with suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")


def peak_mb() -> float:
    with suppress(OSError):
        if found := re.search(r"VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text()):
            return int(found.group(1)) / 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def processor() -> str:
    with suppress(OSError):
        if found := re.search(r"model name\s*:\s*(.+)", Path("/proc/cpuinfo").read_text()):
            return found.group(1)
    return platform.processor()


def load_average() -> str:
    return " ".join(f"{load:.1f}" for load in os.getloadavg())


# --- the table ------------------------------------------------------------------------------------------------


def percentile(values: list[float], percent: float) -> float:
    ordered = sorted(values)
    return ordered[max(0, math.ceil(len(ordered) * percent / 100) - 1)] if ordered else math.nan


def print_phases(phases: list[Phase]) -> None:
    quiet = phases[0]
    print(
        f"\n{'others (ms)':34}{'calls':>7}{'p50':>8}{'p99':>9}{'max':>9}{'p99 ×':>8}{'failed':>8}"
        f"{'loop stall':>12}{'of it our CPU':>15}{'peak RSS':>10}{'our CPU':>9}{'Postgres':>10}{'foreign':>9}{'for':>7}"
    )
    for phase in phases:
        stall, cpu = phase.longest_stall()
        print(
            f"{phase.name:34}{_times(phase, quiet)}{phase.failures.total():8}{stall * 1000:9.0f} ms"
            f"{min(cpu, stall) * 1000:12.0f} ms{phase.peak_mb:7.0f} MB"
            f"{phase.our_cpu:9.0%}{phase.postgres_cpu:10.0%}{phase.foreign_cpu:9.0%}"
            f"{phase.seconds:5.0f} s"
        )
        for kind in KINDS:
            print(f"  {kind:32}{_times(phase, quiet, kind)}")
    print(f"aim: p99 × ≤ {AIM_RATIO}, failed 0. CPU: 100% is one core.")
    for phase in phases:
        for code, count in phase.failures.most_common():
            print(f"failed, {phase.name}: {count} × {code}")


def _times(phase: Phase, quiet: Phase, kind: str | None = None) -> str:
    times, before = phase.times(kind), quiet.times(kind)
    p50, p99, most = percentile(times, 50), percentile(times, 99), max(times, default=math.nan)
    ratio = "" if phase is quiet else f"{p99 / percentile(before, 99):.1f}"
    return f"{len(times):7}{p50 * 1000:8.1f}{p99 * 1000:9.1f}{most * 1000:9.1f}{ratio:>8}"


def print_cases(phase: Phase) -> None:
    """One at a time, a neighbour's slow call has one case that it met."""
    print(f"\n{phase.name + ': case':34}{'took':>9}{'p50':>9}{'p99':>9}{'max':>9}{'loop stall':>12}  outcome")
    runs: dict[str, list[CaseRun]] = defaultdict(list)
    for run in phase.cases:
        runs[run.case].append(run)
    for case, its in runs.items():
        took = statistics.median(run.ended - run.began for run in its)
        met = [
            sample.seconds
            for sample in phase.samples
            if any(run.began < sample.due + sample.seconds and sample.due < run.ended for run in its)
        ]
        late = [
            late for due, late, _ in phase.lateness if any(run.began < due + late and due < run.ended for run in its)
        ]
        outcomes = ", ".join(sorted({run.outcome for run in its}))
        figures = (percentile(met, 50), percentile(met, 99), max(met, default=math.nan))
        print(
            f"  {case:32}{took:7.2f} s{''.join(f'{figure * 1000:9.1f}' for figure in figures)}"
            f"{max(late, default=math.nan) * 1000:9.0f} ms  {outcomes}"
        )


# --- all of it ------------------------------------------------------------------------------------------------


async def main(options: argparse.Namespace) -> None:
    cases = load_cases()
    before = load_average()
    phases: list[Phase] = []
    async with local_stack() as stack, open_application(load_settings(stack.environ())) as application:
        for tenant in OTHERS:
            await prepare(application, tenant)
        values = await prepare_noisy(application)
        async with measured(stack, application, "warm-up", options.rate):
            await anyio.sleep(5)
        async with measured(stack, application, "quiet", options.rate) as phase:
            await anyio.sleep(options.seconds)
        phases.append(phase)
        for width in (1, 4):
            async with measured(stack, application, f"noisy, {width} at once", options.rate) as phase:
                await attack(application, phase, cases, values, width=width)
            phases.append(phase)
        for backends in (1, 4) if options.control else ():
            name = f"{backends} busy backends, not ours"
            async with measured(stack, application, name, options.rate) as phase:
                await burn(stack, backends, options.seconds)
            phases.append(phase)
        async with measured(stack, application, "quiet again", options.rate) as phase:
            await anyio.sleep(options.seconds)
        phases.append(phase)
        postgres = stack.postgres.version
    print(f"{NEIGHBOURS} tenants, each {options.rate:g} calls/s; the noisy one runs {len(cases)} cases")
    print(f"{processor()}, {os.cpu_count()} cores, load {before} before and {load_average()} after")
    print(
        f"Python {platform.python_version()}, asyncpg {asyncpg.__version__}, Postgres {postgres}, {platform.system()}"
    )
    print_phases(phases)
    print_cases(phases[1])


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=60, help="length of a quiet phase")
    parser.add_argument("--rate", type=float, default=2, help="calls per second of each neighbour")
    parser.add_argument("--control", action="store_true", help="also beside busy backends that are not ours")
    configure_logging("text", "error")
    anyio.run(main, parser.parse_args())
