"""Processes that are killed while they make or restore a checkpoint: what they leave is found and removed."""

from __future__ import annotations

import json
import secrets
import signal
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path

import anyio
import asyncpg
import pytest

from agentdb_mcp.bootstrap import Application, open_application
from agentdb_mcp.execution import Statement
from agentdb_mcp.local_stack import LocalStack
from agentdb_mcp.models import Scope, Tenant
from agentdb_mcp.providers import project_name
from agentdb_mcp.services.reconcile import Mended
from agentdb_mcp.settings import load_settings
from agentdb_mcp.store.control import create_database
from processes import Launch

# Makes or restores a checkpoint, and kills itself before or after the step that argv names as `module:attribute`.
WORKER = """
import importlib, json, os, signal, sys
import anyio
from agentdb_mcp.bootstrap import open_application
from agentdb_mcp.errors import AgentDBError
from agentdb_mcp.models import Scope
from agentdb_mcp.settings import load_settings

call, when, step = (sys.argv[1:] + [""] * 2)[:3]
if step:
    module, _, name = step.partition(":")
    *path, name = name.split(".")
    owner = importlib.import_module("agentdb_mcp." + module)
    for part in path:
        owner = getattr(owner, part)
    work = getattr(owner, name)

    async def deadly(*arguments, **options):
        if when == "after":
            await work(*arguments, **options)
        os.kill(os.getpid(), signal.SIGKILL)

    setattr(owner, name, deadly)

async def main():
    async with open_application(load_settings()) as application:
        checkpoints, tenant = application.managed().checkpoints, application.tenant
        try:
            if call == "create":
                await checkpoints.create(tenant, Scope.AGENT, "second")
            else:
                await checkpoints.restore(tenant, Scope.AGENT, "first")
            answer = "done"
        except AgentDBError as error:
            answer = f"{error.code}: {error.message}"
        print(json.dumps(answer), flush=True)

anyio.run(main)
"""
STORE = "store:DatabaseStore."
STEPS = {
    "neon": {
        "create": ["providers.neon.snapshots:create", "providers.neon.snapshots:tidy", STORE + "record_checkpoints"],
        "restore": [
            "providers.neon.snapshots:_delete_branch",
            "providers.neon.api:NeonApi.do",
            "execution.layout:install",
            STORE + "record_project",
            STORE + "record_ready",
            STORE + "release",
        ],
    },
    "cluster": {
        "create": ["providers.postgres.copies:_begin", "providers.postgres.copies:kept", STORE + "release"],
        "restore": [
            "providers.postgres.copies:_begin",
            "providers.postgres.copies:_grant_as",
            "providers.postgres.copies:tidy",
            "execution.layout:install",
        ],
    },
}
CASES = [
    (provider, call, when, step)
    for provider, calls in STEPS.items()
    for call, steps in calls.items()
    for step in steps
    for when in ("before", "after")
]
# Of those, the ones in `make test`: the restored branch in place of the old one, the copy not yet in place.
QUICK = {
    ("neon", "restore", "before", "providers.neon.snapshots:_delete_branch"),
    ("cluster", "restore", "after", "providers.postgres.copies:_grant_as"),
}


@dataclass
class Place:
    environ: dict[str, str] = field(repr=False)
    application: Application
    tenant: Tenant
    forked: Launch
    log: Path

    async def run(self, *arguments: str) -> str | None:
        """What the call answered; None if it was killed."""
        environ = self.environ | {"AGENTDB_LOG": "error"}
        environ |= {
            "AGENTDB_USER_ID": self.tenant.user_id or "",
            "AGENTDB_WORKSPACE_ID": self.tenant.workspace_id or "",
        }
        async with self.forked(environ, self.log, *arguments, program=WORKER) as process:
            assert process.stdout is not None
            with anyio.fail_after(60):
                line = await process.stdout.readline()
                await process.wait()
        if not line:
            assert process.returncode == -signal.SIGKILL
            return None
        return str(json.loads(line))

    async def sql(self, text: str) -> object:
        answer = await self.application.queries.execute(self.tenant, Scope.AGENT, [Statement(text)])
        return answer.results[0].rows[0][0] if answer.results[0].rows else None

    async def end_leases(self) -> None:
        control = await asyncpg.connect(self.environ["AGENTDB_CONTROL_URL"])
        await control.execute("UPDATE workspace_database SET lease_expires_at = now() WHERE lease_expires_at > now()")
        await control.close()

    async def reconcile(self) -> list[str]:
        reconcile = self.application.managed().reconcile(settled_s=0)
        name, mended = project_name(Scope.AGENT, self.tenant.workspace_id or ""), list[Mended]()
        findings = [finding for finding in await reconcile.look() if finding.project_name == name]
        await reconcile.mend(findings, mended.append)
        assert [each.error for each in mended if each.error] == []
        assert [finding for finding in await reconcile.look() if finding.project_name == name] == []
        return [str(finding.kind) for finding in findings]


@pytest.fixture
async def environs(stack: LocalStack) -> dict[str, dict[str, str]]:
    name = f"control_{secrets.token_hex(6)}"
    await create_database(stack.postgres.uri(), name)
    neon = stack.environ() | {"AGENTDB_CONTROL_URL": stack.postgres.uri(name).reveal()}
    cluster = {key: value for key, value in neon.items() if not key.startswith("NEON_")}
    return {"neon": neon, "cluster": cluster | {"AGENTDB_PROVIDER_URL": stack.postgres.uri().reveal()}}


@pytest.fixture
async def opened(environs: dict[str, dict[str, str]], request: pytest.FixtureRequest) -> AsyncIterator[Application]:
    provider = request.node.callspec.params["provider"]
    async with open_application(load_settings(environs[provider])) as application:
        yield application


async def databases(superuser: asyncpg.Connection) -> set[str]:
    return {row["datname"] for row in await superuser.fetch("SELECT datname FROM pg_database")}


@pytest.mark.parametrize(
    ("provider", "call", "when", "step"),
    [pytest.param(*case, marks=() if case in QUICK else pytest.mark.long) for case in CASES],
)
async def test_what_a_killed_process_left_is_removed_and_the_database_is_whole(
    provider: str,
    call: str,
    when: str,
    step: str,
    opened: Application,
    environs: dict[str, dict[str, str]],
    stack: LocalStack,
    forked: Launch,
    tmp_path: Path,
) -> None:
    tenant = Tenant(f"u{secrets.token_hex(4)}", f"w{secrets.token_hex(4)}")
    place = Place(environs[provider], opened, tenant, forked, tmp_path / "log")
    checkpoints = opened.managed().checkpoints
    await place.sql("CREATE TABLE note AS SELECT 'before'::text AS text")
    await checkpoints.create(tenant, Scope.AGENT, "first")
    await place.sql("UPDATE note SET text = 'after'")
    superuser = await asyncpg.connect(stack.postgres.uri().reveal())
    try:
        whole = len(await databases(superuser))
        assert await place.run(call, when, step) is None
        # The database answers at once, either as it was or as it is to be.
        assert await place.sql("SELECT text FROM note") in {"before", "after"}
        await place.end_leases()
        # A restore has given its turn back with the way in that it wrote down.
        done = (step == STORE + "release" and (when == "after" or call == "restore")) or (
            step == STORE + "record_ready" and when == "after"
        )
        assert await place.reconcile() == ([] if done else ["interrupted"])
        kept = (await checkpoints.overview(tenant, Scope.AGENT)).kept
        assert {each.checkpoint.name for each in kept} <= {"first", "second"}
        assert len(await databases(superuser)) == whole + len(kept) - 1
    finally:
        await superuser.close()
    assert await place.run("restore") == "done"
    assert await place.sql("SELECT text FROM note") == "before"
    await checkpoints.create(tenant, Scope.AGENT, "third")


@pytest.mark.parametrize("provider", ["neon"])
async def test_the_next_call_goes_on_once_the_dead_ones_turn_is_over(
    provider: str, opened: Application, environs: dict[str, dict[str, str]], forked: Launch, tmp_path: Path
) -> None:
    tenant = Tenant(f"u{secrets.token_hex(4)}", f"w{secrets.token_hex(4)}")
    place = Place(environs[provider], opened, tenant, forked, tmp_path / "log")
    await place.sql("CREATE TABLE note AS SELECT 'before'::text AS text")
    await opened.managed().checkpoints.create(tenant, Scope.AGENT, "first")
    await place.sql("UPDATE note SET text = 'after'")
    assert await place.run("restore", "after", "providers.neon.api:NeonApi.do") is None
    await place.end_leases()
    assert await place.run("restore") == "done"
    assert await place.sql("SELECT text FROM note") == "before"
    assert await place.reconcile() == []
