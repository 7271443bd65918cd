"""Thousands of workspaces through the local Neon API on a bad day: do exactly as many projects stand at the end?

`make bench-provisioning` creates 2,000 with 5 % of all calls answered 423, 429 or 503 and 1 % of the answers lost. The
API itself counts calls and refuses more than Neon's rate, so that a limiter that is too fast shows. At Neon's rate it
takes about half an hour; `--per-second` lifts both sides' limits for a quicker look.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections import Counter

import anyio
import httpx
import typer

from agentdb_mcp.bootstrap import Application, open_application
from agentdb_mcp.errors import AgentDBError
from agentdb_mcp.local_stack import LocalStack, local_stack
from agentdb_mcp.logs import configure_logging
from agentdb_mcp.models import Scope
from agentdb_mcp.providers.neon import api
from agentdb_mcp.providers.neon.limiter import RateLimiter
from agentdb_mcp.services.reconcile import Mended
from agentdb_mcp.settings import load_settings

AT_ONCE = 24
WORKSPACES_A_USER = 20
ATTEMPTS = 8
PER_MINUTE = 700


async def ask_for_faults(stack: LocalStack, per_minute: int | None) -> None:
    async with httpx.AsyncClient(base_url=stack.emulator.control_url or "") as control:
        for seed, status in enumerate((423, 429, 503)):
            fault = {"status": status, "probability": 0.05 / 3, "seed": seed}
            (await control.post("/faults", json=fault)).raise_for_status()
        (
            await control.post("/faults", json={"drop": True, "effect": True, "probability": 0.01, "seed": 9})
        ).raise_for_status()
        (await control.put("/rate-limit", json={"requests_per_minute": per_minute})).raise_for_status()


async def create(application: Application, number: int, errors: Counter[str]) -> None:
    """As a platform would: again when it is told to."""
    lifecycle = application.managed().lifecycle
    user = f"user-{number // WORKSPACES_A_USER}"
    for _ in range(ATTEMPTS):
        try:
            await lifecycle.create_workspace(f"w-{number}", user, "Bench")
        except AgentDBError as error:
            errors[f"{error.code}: {error.message.partition('(')[0].strip()}"] += 1
            if not error.retryable:
                raise
        else:
            return
    raise RuntimeError(f"workspace {number} was not made in {ATTEMPTS} attempts")


async def main(options: argparse.Namespace) -> None:
    if options.per_second:
        api.general_limiter = lambda: RateLimiter(per_second=options.per_second, burst=options.per_second)
    errors: Counter[str] = Counter()
    async with local_stack(control=True) as stack, open_application(load_settings(stack.environ())) as application:
        managed = application.managed()
        for number in range(0, options.workspaces, WORKSPACES_A_USER):
            await managed.lifecycle.identity.ensure_user(f"user-{number // WORKSPACES_A_USER}")
        await ask_for_faults(stack, None if options.per_second else PER_MINUTE)
        started = time.monotonic()
        limiter = anyio.CapacityLimiter(AT_ONCE)
        with typer.progressbar(length=options.workspaces, label="creating", file=sys.stderr) as bar:

            async def one(number: int) -> None:
                async with limiter:
                    await create(application, number, errors)
                bar.update(1)

            async with anyio.create_task_group() as group:
                for number in range(options.workspaces):
                    group.start_soon(one, number)
        seconds = time.monotonic() - started
        async with httpx.AsyncClient(base_url=stack.emulator.control_url or "") as control:
            hits = {
                fault["status"] or "lost": fault["hits"] for fault in (await control.get("/faults")).json()["faults"]
            }
            await control.delete("/faults")
        assert managed.provider is not None
        before = len(await managed.provider.projects(f"{Scope.AGENT}-"))
        mended: list[Mended] = []
        reconcile = managed.reconcile(settled_s=0)
        await reconcile.mend(await reconcile.look(), mended.append)
        names = Counter(project.name for project in await managed.provider.projects(f"{Scope.AGENT}-"))
    print(f"{options.workspaces} workspaces in {seconds:.0f} s, {AT_ONCE} at once; faults given: {hits}")
    print(f"{before} projects, {len(mended)} differences for reconcile, {names.total()} projects after it")
    for error, count in errors.most_common():
        print(f"told to a caller, who then succeeded: {count} × {error}")
    wanted = {f"{Scope.AGENT}-w-{number}" for number in range(options.workspaces)}
    exact = set(names) == wanted and set(names.values()) == {1}
    print("exactly one project for each workspace" if exact else "NOT one project for each workspace")
    sys.exit(0 if exact else 1)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--workspaces", type=int, default=2000)
    parser.add_argument("--per-second", type=int, default=0, help="instead of Neon's rate")
    configure_logging("text", "error")
    anyio.run(main, parser.parse_args())
