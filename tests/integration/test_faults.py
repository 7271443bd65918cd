"""Real processes that die, stall and race on one workspace: afterwards one project for each live row, and no other."""

from __future__ import annotations

import asyncio
import json
import secrets
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import anyio
import asyncpg
import pytest

from agentdb_mcp.bootstrap import Application
from agentdb_mcp.execution import Statement
from agentdb_mcp.models import DatabaseStatus, Project, Scope, Tenant
from agentdb_mcp.providers import project_name
from agentdb_mcp.services.reconcile import Finding, Mended
from processes import Launch, Process

PATIENCE_S = 60

# Does one lifecycle call. At the step that argv names it prints "here", and dies, or stops itself, or waits for a line.
WORKER = """
import json, os, signal, sys
import anyio
from agentdb_mcp.bootstrap import open_application
from agentdb_mcp.errors import AgentDBError
from agentdb_mcp.execution import Statement, layout
from agentdb_mcp.models import Scope
from agentdb_mcp.providers.neon import NeonProvider
from agentdb_mcp.services import provisioning
from agentdb_mcp.settings import load_settings
from agentdb_mcp.store import DatabaseStore

call, fault, when, step = (sys.argv[1:] + [""] * 3)[:4]
store_steps = {"claim", "record_project", "record_ready", "record_deleted", "tombstone", "declare"}
owner = layout if step == "install" else DatabaseStore if step in store_steps else NeonProvider

def here():
    print("here", flush=True)
    if fault in {"kill", "stop"}:
        os.kill(os.getpid(), signal.SIGKILL if fault == "kill" else signal.SIGSTOP)
    else:
        input()

if step:
    work = getattr(owner, step)

    async def faulty(*arguments, **options):
        if when == "before":
            here()
        result = await work(*arguments, **options)
        if when == "after":
            here()
        return result

    setattr(owner, step, faulty)

async def main():
    async with open_application(load_settings()) as application:
        lifecycle, tenant = application.managed().lifecycle, application.tenant
        try:
            if call == "create":
                answer = str((await lifecycle.create_workspace(tenant.workspace_id, tenant.user_id, "w")).status)
            elif call == "delete":
                await lifecycle.delete_workspace(tenant.workspace_id)
                answer = "deleted"
            else:
                results = await application.queries.execute(tenant, Scope.AGENT, [Statement("SELECT 'ready'")])
                answer = results.results[0].rows[0][0]
        except AgentDBError as error:
            answer = f'{error.code}: {error.message}'
        print(json.dumps(answer), flush=True)

anyio.run(main)
"""


@dataclass
class Place:
    """The stack, our own application on it, and one workspace that a case is about."""

    environ: dict[str, str] = field(repr=False)
    application: Application
    control: asyncpg.Connection
    tenant: Tenant
    forked: Launch
    log: Path

    @property
    def name(self) -> str:
        return project_name(Scope.AGENT, self.tenant.workspace_id or "")

    @asynccontextmanager
    async def worker(self, *arguments: str) -> AsyncIterator[tuple[Process, asyncio.StreamReader]]:
        environ = self.environ | {"AGENTDB_LOG": "error"}
        environ |= {
            "AGENTDB_USER_ID": self.tenant.user_id or "",
            "AGENTDB_WORKSPACE_ID": self.tenant.workspace_id or "",
        }
        async with self.forked(environ, self.log, *arguments, program=WORKER) as process:
            assert process.stdout is not None
            with anyio.fail_after(PATIENCE_S):
                yield process, process.stdout

    async def run(self, *arguments: str) -> str:
        """One call in a process of its own, to its end; what it answered, or "killed"."""
        async with self.worker(*arguments) as (process, output):
            if arguments[1:2] == ("kill",):
                assert await line(output) == "here"
                await process.wait()
                assert process.returncode == -signal.SIGKILL
                return "killed"
            return str(json.loads(await line(output)))

    async def end_leases(self) -> None:
        """As if the time of dead processes had run out."""
        await self.control.execute(
            "UPDATE workspace_database SET lease_expires_at = now() WHERE lease_expires_at > now()"
        )

    async def status(self) -> str | None:
        status: str | None = await self.control.fetchval(
            "SELECT status FROM workspace_database WHERE project_name = $1", self.name
        )
        return status

    async def look(self) -> list[Finding]:
        return await self.application.managed().reconcile(settled_s=0).look()

    async def reconcile(self) -> list[Finding]:
        """Until nothing is left to mend; everything that was found on the way."""
        found: list[Finding] = []
        reconcile = self.application.managed().reconcile(settled_s=0)
        for _ in range(3):
            if not (findings := await reconcile.look()):
                return found
            found += findings
            mended: list[Mended] = []
            await reconcile.mend(findings, mended.append)
            assert [each.error for each in mended if each.error] == []
        pytest.fail(f"still differing: {findings}")

    async def projects(self) -> list[Project]:
        provider = self.application.managed().provider
        assert provider is not None
        return await provider.projects("")

    async def check(self) -> None:
        """One project for each live row, none for dead ones, and nothing of it leased."""
        rows = await self.control.fetch(
            "SELECT project_name, neon_project_id, status, lease_expires_at FROM workspace_database"
            " UNION ALL SELECT project_name, neon_project_id, status, lease_expires_at FROM user_global_database"
        )
        assert {row["status"] for row in rows} <= {"ready", "deleted"}
        assert all(row["lease_expires_at"] is None for row in rows)
        live = sorted((row["project_name"], row["neon_project_id"]) for row in rows if row["status"] == "ready")
        assert sorted((project.name, project.id) for project in await self.projects()) == live


async def line(output: asyncio.StreamReader) -> str:
    return (await output.readuntil(b"\n")).decode().removesuffix("\n")


@pytest.fixture
async def place(
    environ: dict[str, str], application: Application, forked: Launch, tmp_path: Path
) -> AsyncIterator[Place]:
    tenant = Tenant(f"u{secrets.token_hex(4)}", f"w{secrets.token_hex(4)}")
    await application.managed().lifecycle.identity.ensure_user(tenant.user_id or "")
    control = await asyncpg.connect(environ["AGENTDB_CONTROL_URL"])
    place = Place(environ, application, control, tenant, forked, tmp_path / "log")
    yield place
    await place.check()
    await control.close()


CREATE = ["declare", "claim", "find", "create", "record_project", "access", "install", "record_ready"]
DELETE = ["tombstone", "claim", "find", "delete", "record_deleted"]
moments = pytest.mark.parametrize("when", ["before", "after"])


def steps(first: str, *others: str) -> pytest.MarkDecorator:
    """Parametrize by step; only the first is a part of `make test`."""
    return pytest.mark.parametrize("step", [first, *(pytest.param(each, marks=pytest.mark.long) for each in others)])


@pytest.mark.long
@moments
@pytest.mark.parametrize("step", CREATE)
async def test_what_a_killed_creation_left_is_completed_by_reconcile(place: Place, when: str, step: str) -> None:
    assert await place.run("create", "kill", when, step) == "killed"
    await place.end_leases()
    await place.reconcile()
    known = await place.status()
    assert known == ("ready" if (when, step) != ("before", "declare") else None)
    await place.check()
    assert await place.run("create") == "ready"


@pytest.mark.long
@moments
@pytest.mark.parametrize("step", DELETE)
async def test_what_a_killed_deletion_left_is_completed_by_reconcile(place: Place, when: str, step: str) -> None:
    assert await place.run("create") == "ready"
    assert await place.run("delete", "kill", when, step) == "killed"
    await place.end_leases()
    await place.reconcile()
    assert await place.status() == ("ready" if (when, step) == ("before", "tombstone") else "deleted")


@pytest.mark.long
@moments
@pytest.mark.parametrize("step", DELETE)
async def test_deleting_again_completes_what_a_killed_deletion_left(place: Place, when: str, step: str) -> None:
    assert await place.run("create") == "ready"
    assert await place.run("delete", "kill", when, step) == "killed"
    await place.end_leases()
    assert await place.run("delete") == "deleted"
    assert await place.status() == "deleted"


@pytest.mark.long
async def test_twelve_processes_that_use_one_workspace_at_once_make_one_project(place: Place) -> None:
    answers: list[str] = []

    async def one() -> None:
        answers.append(await place.run("use"))

    async with anyio.create_task_group() as group:
        for _ in range(12):
            group.start_soon(one)
    assert answers == ["ready"] * 12


@steps("create", "find", "access", "record_ready")
async def test_a_holder_stopped_past_its_lease_gets_a_clear_error_and_repoints_nothing(place: Place, step: str) -> None:
    async with place.worker("use", "stop", "before", step) as (process, output):
        assert await line(output) == "here"
        await place.end_leases()
        assert await place.run("use") == "ready"
        before = await place.control.fetchrow("SELECT * FROM workspace_database WHERE project_name = $1", place.name)
        process.send_signal(signal.SIGCONT)
        assert (await line(output)).startswith('"provisioning_failed')
        assert before == await place.control.fetchrow(
            "SELECT * FROM workspace_database WHERE project_name = $1", place.name
        )
    found = await place.reconcile()
    assert [str(finding.kind) for finding in found] == (["duplicate"] if step == "create" else [])


@steps("create", "record_project", "access", "record_ready")
async def test_deleting_what_is_being_made_leaves_nothing(place: Place, step: str) -> None:
    async with place.worker("use", "wait", "before", step) as (process, output):
        assert await line(output) == "here"
        assert await place.run("delete") == "deleted"
        assert process.stdin is not None
        process.stdin.write(b"\n")
        assert (await line(output)).startswith(('"provisioning_failed', '"database_unavailable'))
    found = await place.reconcile()
    assert [str(finding.kind) for finding in found] == (["orphan"] if step == "create" else [])
    assert await place.status() == "deleted"


@steps("delete", "find", "record_deleted")
async def test_making_what_is_being_deleted_waits_for_the_end_and_begins_anew(place: Place, step: str) -> None:
    assert await place.run("create") == "ready"
    async with place.worker("delete", "wait", "before", step) as (process, output), anyio.create_task_group() as group:
        assert await line(output) == "here"
        answers: list[str] = []

        async def make() -> None:
            answers.append(await place.run("create"))

        group.start_soon(make)
        assert (await place.run("use")).startswith("database_unavailable")
        assert process.stdin is not None
        process.stdin.write(b"\n")
        assert json.loads(await line(output)) == "deleted"
    assert answers == ["ready"]


async def test_projects_that_no_row_wants_are_removed_and_those_of_others_stay(place: Place) -> None:
    provider = place.application.managed().provider
    assert provider is not None
    other = await provider.create("somebody-elses")
    await provider.create(place.name)
    found = await place.reconcile()
    assert [str(finding.kind) for finding in found] == ["orphan"]
    kept = await provider.find("somebody-elses")
    await provider.delete(other.id)
    assert [project.id for project in kept] == [other.id]


async def test_the_database_of_an_archived_workspace_is_removed_after_a_month(place: Place) -> None:
    assert await place.run("use") == "ready"
    await place.control.execute(
        "UPDATE workspace SET archived_at = now() - interval '31 days' WHERE id = $1", place.tenant.workspace_id
    )
    assert [str(finding.kind) for finding in await place.look()] == ["ownerless"]
    await place.reconcile()
    assert await place.status() == "deleted"


async def test_what_is_brought_by_a_user_is_never_deleted_at_the_provider(place: Place) -> None:
    assert await place.run("use") == "ready"
    (project,) = [each for each in await place.projects() if each.name == place.name]
    await place.control.execute(
        "UPDATE workspace_database SET ownership_type = 'user' WHERE project_name = $1", place.name
    )
    assert await place.run("delete") == "deleted"
    assert project in await place.projects()
    await place.control.execute(
        "UPDATE workspace_database SET ownership_type = 'platform' WHERE project_name = $1", place.name
    )
    await place.reconcile()


async def test_the_answers_of_an_agent_come_back_after_its_maker_died(place: Place) -> None:
    assert await place.run("use", "kill", "after", "create") == "killed"
    await place.end_leases()
    answer = await place.application.queries.execute(place.tenant, Scope.AGENT, [Statement("SELECT 1")])
    assert answer.results[0].rows == [[1]]
    row = await place.application.managed().lifecycle.databases.find(Scope.AGENT, place.name)
    assert row is not None
    assert row.status is DatabaseStatus.READY
