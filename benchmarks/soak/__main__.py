"""Half an hour of everything at once, on this machine: is anything lost, left behind, leaked, or miscounted?

`make soak` runs three `serve --http` processes and a worker under a mixed load of fifty tenants, kills a server every
minute, restarts Postgres twice and lets 2 % of the calls to the local Neon API fail. SOAK_MINUTES=2 is the short form,
in which everything happens at least once. Exit code 0 where every line held.
"""

from __future__ import annotations

import argparse
import itertools
import logging
import os
import signal
import sys
import tempfile
from collections import Counter
from collections.abc import Callable, Coroutine, Sequence
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import anyio
import typer

from agentdb_mcp.logs import configure_logging
from benchmarks.soak import checks, metering, watching
from benchmarks.soak.client import Client, Ears, Figures
from benchmarks.soak.house import IDLE_S, House, house
from benchmarks.soak.platform import Platform
from benchmarks.soak.report import Report
from benchmarks.soak.tenant import Agent
from benchmarks.soak.trouble import Trouble, ask_for_faults, end_faults

# Of each process, three fifths of a container of 512 MB; and what the second half may add to it.
MEMORY_LINE_MB, GROWTH_LINE_MB = 300, 15
Watch = Callable[[], Coroutine[Any, Any, None]]
TENANTS, TENANTS_OF_SHORT, LONG_MINUTES = 50, 12, 10
CHURN_S, WATCH_S = 3.0, 5.0
KINDS = (
    *("read", "own writes", "write", "transaction", "DDL", "page", "copy", "large answer", "try_migration"),
    *("create user", "create workspace", "delete workspace", "delete user", "a guest's read"),
    *("GET /metrics", "GET /readyz", "POST /api/sync"),
)


async def soak(options: argparse.Namespace, folder: Path) -> Report:
    report, figures, ears = Report(), Figures(), Ears(folder / "answers.txt")
    seconds = options.minutes * 60
    async with house(folder, options.servers) as running, AsyncExitStack() as exits:
        exits.callback(ears.close)
        memory = watching.Memory(running)
        backend = Client(running.servers, itertools.count(), ears, running.stack.service_key.reveal())
        platform = Platform(running, ears, figures, await exits.enter_async_context(backend))
        await ask_for_faults(running)
        with typer.progressbar(length=options.tenants, label="making tenants", file=sys.stderr) as bar:
            agents = await platform.make(options.tenants, options.pace, lambda: bar.update(1))
        for agent in agents:
            await exits.enter_async_context(agent.client)
        seen = watching.Connections(running)
        trouble = await load(platform, agents, (memory.watch, seen.watch), seconds)
        report.facts["calls to the Neon API that failed"] = await end_faults(running)
        await check_connections(running, seen.most, report)
        await end_in_order(running, report)
        ears.close()
        tell(report, options, figures, trouble)
        await judge(running, agents, figures, ears, memory, seconds, report)
    return report


async def load(platform: Platform, agents: list[Agent], watches: Sequence[Watch], seconds: float) -> Trouble:
    """Everything at once for so long; the last calls are waited for."""
    over = anyio.Event()
    with typer.progressbar(length=int(seconds), label="soaking", file=sys.stderr) as bar:

        def say(what: str) -> None:
            bar.label = what
            bar.update(0)

        trouble = Trouble(platform.house, seconds, say)
        async with anyio.create_task_group() as watchers:
            for watch in watches:
                watchers.start_soon(watch)
            async with anyio.create_task_group() as group:
                group.start_soon(trouble.run)
                group.start_soon(platform.churn, over, CHURN_S)
                group.start_soon(platform.watch, over, WATCH_S)
                for agent in agents:
                    group.start_soon(agent.live, over)
                for _ in range(int(seconds)):
                    await anyio.sleep(1)
                    bar.update(1)
                await trouble.done.wait()
                over.set()
            watchers.cancel_scope.cancel()
    return trouble


async def check_connections(running: House, most: Counter[str], report: Report) -> None:
    """While servers still run: nothing keeps a tenant's compute awake."""
    report.facts["most connections"] = ", ".join(f"{count} {name}" for name, count in sorted(most.items()))
    within = 2 * IDLE_S + 15
    took, left = await watching.until_none(running, watching.TENANTS, within)
    were = most["agentdb-mcp"]
    figure = f"{left.total()} after {took:.0f} s, of {were}"
    report.check("connections to tenants' databases when idle", figure, f"0 within {within} s", were > 0 and not left)


async def end_in_order(running: House, report: Report) -> None:
    last = [program.life for program in running.programs]
    early = [program.name for program in running.programs if program.has_ended]
    await running.end()
    codes = Counter(life.returncode for life in last)
    figure = f"{dict(codes)}{'; ended before: ' + ', '.join(early) if early else ''}"
    report.check("exit codes after SIGTERM, servers and worker", figure, "0", set(codes) == {0})
    took, left = await watching.until_none(running, None, 10)
    report.check("connections of ours when all have ended", f"{left.total()} after {took:.0f} s", "0", not left)


def tell(report: Report, options: argparse.Namespace, figures: Figures, trouble: Trouble) -> None:
    outcomes = Counter[str]()
    for (_, outcome), count in figures.outcomes.items():
        outcomes[outcome] += count
    outages = [
        f"{sign}, away {(end - begin).total_seconds():.1f} s" for sign, begin, end in trouble.house.cluster.outages
    ]
    report.facts |= {
        "minutes; tenants; servers": f"{options.minutes:g}; {options.tenants}; {options.servers}",
        "calls": f"{figures.calls:,}",
        "outcomes": ", ".join(f"{count:,} {outcome}" for outcome, count in outcomes.most_common()),
        "servers killed": trouble.kills,
        "Postgres restarted": "; ".join(outages),
    }
    happened = trouble.kills >= len(trouble.house.servers) - 1 and len(outages) == 2
    failed = report.facts["calls to the Neon API that failed"]
    figure = f"{trouble.kills} kills, {len(outages)} restarts of Postgres, {failed} failed calls to Neon"
    report.check("what was to go wrong went wrong", figure, "each", happened and failed > 0)


async def judge(
    running: House,
    agents: list[Agent],
    figures: Figures,
    ears: Ears,
    memory: watching.Memory,
    seconds: float,
    report: Report,
) -> None:
    checks.check_answers(running, figures, KINDS, report)
    await checks.check_writes(running, agents, report)
    await checks.check_orphans(running, report)
    await metering.check_metering(running, agents, report)
    await checks.check_audit(running, agents, report)
    await checks.check_secrets(running, ears, report)
    peak = memory.peak_mb()
    report.check("peak memory of a process", f"{peak:.0f} MB", f"{MEMORY_LINE_MB} MB", peak <= MEMORY_LINE_MB)
    for name, (middle, end, slope) in memory.growth(seconds).items():
        grown = end - middle
        figure = f"{grown:+.1f} MB ({middle:.0f} to {end:.0f} MB, {slope:+.2f} MB a minute)"
        line = f"{GROWTH_LINE_MB} MB"
        report.check(f"memory of {name}, its trend in the second half", figure, line, grown <= GROWTH_LINE_MB)


async def main(options: argparse.Namespace) -> int:
    ended = False

    async def obey(scope: anyio.CancelScope) -> None:
        nonlocal ended
        with anyio.open_signal_receiver(signal.SIGTERM, signal.SIGINT) as signals:
            async for _ in signals:
                ended = True
                scope.cancel()
                return

    report = None
    with tempfile.TemporaryDirectory(prefix="agentdb-soak-", ignore_cleanup_errors=True) as made:
        folder = Path(made) if options.keep is None else options.keep
        folder.mkdir(parents=True, exist_ok=True)
        async with anyio.create_task_group() as group:
            group.start_soon(obey, group.cancel_scope)
            report = await soak(options, folder)
            group.cancel_scope.cancel()
    if report is None or ended:
        print("ended before its time", file=sys.stderr)
        return 130
    print(report.markdown())
    for path in options.report:
        report.write(path)
    return 0 if report.ok else 1


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=float(os.environ.get("SOAK_MINUTES", "30")))
    parser.add_argument(
        "--tenants", type=int, help=f"{TENANTS}; {TENANTS_OF_SHORT} for less than {LONG_MINUTES} minutes"
    )
    parser.add_argument("--servers", type=int, default=3, help="at least two; the first is never killed")
    parser.add_argument("--pace", type=float, default=1.25, help="mean seconds between two calls of one tenant")
    parser.add_argument("--report", type=Path, action="append", default=[], help="file: JSON for .json, else Markdown")
    parser.add_argument("--keep", type=Path, help="a new folder for logs, answers and the cluster, kept afterwards")
    given = parser.parse_args()
    configure_logging("text", "error")
    # Its pools tell of each outage that is asked for here, with a traceback.
    logging.getLogger("asyncpg").setLevel(logging.CRITICAL)
    if given.servers < 2:
        parser.error("--servers must be at least 2: one is killed while others serve")
    given.tenants = given.tenants or (TENANTS if given.minutes >= LONG_MINUTES else TENANTS_OF_SHORT)
    sys.exit(anyio.run(main, given))
