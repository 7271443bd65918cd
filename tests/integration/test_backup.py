"""Yesterday's control database, restored: what changed since is found, and nothing that holds data is lost."""

from __future__ import annotations

import secrets
import subprocess
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from agentdb_mcp.bootstrap import Application, open_application
from agentdb_mcp.embedded.binaries import find_binaries
from agentdb_mcp.errors import AgentDBError, NotAllowed, NotAuthenticated
from agentdb_mcp.execution import Statement
from agentdb_mcp.jobs.table import reconcile
from agentdb_mcp.local_stack import LocalStack
from agentdb_mcp.models import Project, Scope, Secret, Tenant, TokenScope
from agentdb_mcp.services.reconcile import Finding, Mended
from agentdb_mcp.settings import load_settings
from agentdb_mcp.store.control import create_database

USER = "ada"
TENANTS = {name: Tenant(USER, name) for name in ("kept", "deleted", "replaced", "made", "unused")}


@dataclass
class Platform:
    """One control database and its restored copies, in front of the same projects."""

    stack: LocalStack
    name: str = field(default_factory=lambda: f"control_{secrets.token_hex(6)}")

    def opened(self) -> AbstractAsyncContextManager[Application]:
        environ = self.stack.environ() | {"AGENTDB_CONTROL_URL": self.stack.postgres.uri(self.name).reveal()}
        return open_application(load_settings(environ))

    def dump(self, file: Path) -> None:
        _program("pg_dump", "--format=custom", f"--file={file}", self.stack.postgres.uri(self.name))

    async def restore(self, file: Path) -> None:
        """The backup in a new database, which is the control database from now on."""
        self.name = f"restored_{secrets.token_hex(6)}"
        await create_database(self.stack.postgres.uri(), self.name)
        uri = self.stack.postgres.uri(self.name)
        _program("pg_restore", "--exit-on-error", "--no-owner", "--dbname", uri, str(file))


def _program(name: str, *arguments: str | Secret) -> None:
    given = [each.reveal() if isinstance(each, Secret) else each for each in arguments]
    subprocess.run([find_binaries(None) / name, *given], check=True)


@pytest.fixture
async def platform(stack: LocalStack) -> AsyncIterator[Platform]:
    platform = Platform(stack)
    await create_database(stack.postgres.uri(), platform.name)
    yield platform
    async with platform.opened() as application:
        provider = application.managed().provider
        assert provider is not None
        for project in await projects(application):
            await provider.delete(project.id)


async def write(application: Application, tenant: Tenant, text: str) -> None:
    for sql in ("CREATE TABLE IF NOT EXISTS note (text text)", f"INSERT INTO note VALUES ('{text}')"):
        await application.queries.execute(tenant, Scope.AGENT, [Statement(sql)])


async def notes(application: Application, tenant: Tenant) -> list[object]:
    answer = await application.queries.execute(tenant, Scope.AGENT, [Statement("SELECT text FROM note")])
    return [row[0] for row in answer.results[0].rows]


async def projects(application: Application) -> list[Project]:
    provider = application.managed().provider
    assert provider is not None
    return [project for scope in Scope for project in await provider.projects(f"{scope}-")]


async def mend(application: Application) -> tuple[dict[str, str], dict[str, AgentDBError]]:
    """What was found by the project's name, and what was not mended."""
    work = application.managed().reconcile(settled_s=0)
    findings: list[Finding] = await work.look()
    mended: list[Mended] = []
    await work.mend(findings, mended.append)
    found = {finding.project_name: str(finding.kind) for finding in findings}
    return found, {each.finding.project_name: each.error for each in mended if each.error}


async def change_after_the_backup(application: Application) -> str:
    """Projects come, go and change places; gives the token of a workspace that was made."""
    lifecycle = application.managed().lifecycle
    await write(application, TENANTS["kept"], "after")
    await lifecycle.delete_workspace("deleted")
    await lifecycle.delete_workspace("replaced")
    await lifecycle.create_workspace("replaced", USER, "Replaced")
    application.queries.calls.databases.forget(TENANTS["replaced"], Scope.AGENT)
    await write(application, TENANTS["replaced"], "anew")
    await write(application, TENANTS["made"], "new")
    await lifecycle.create_workspace("unused", USER, "Unused")
    issued = await application.managed().tokens.issue(USER, "made", [TokenScope.MCP], None)
    return issued.token.reveal()


async def test_what_changed_since_the_backup_is_found_and_nothing_with_data_is_deleted(
    platform: Platform, tmp_path: Path
) -> None:
    async with platform.opened() as application:
        for name in ("kept", "deleted", "replaced"):
            await write(application, TENANTS[name], "before")
        older = (await application.managed().tokens.issue(USER, "kept", [TokenScope.MCP], None)).token.reveal()
        revoked = await application.managed().tokens.issue(USER, "kept", [TokenScope.MCP], None)
        paid = (await application.managed().usage.report(USER)).used_microcents
        platform.dump(tmp_path / "control.dump")
        newer = await change_after_the_backup(application)
        await application.managed().tokens.revoke(revoked.id)

    await platform.restore(tmp_path / "control.dump")
    async with platform.opened() as application:
        found, failed = await mend(application)
        assert found == {
            "agent-deleted": "lost",
            "agent-replaced": "replaced",
            "agent-made": "orphan",
            "agent-unused": "orphan",
        }
        assert list(failed) == ["agent-made"]
        assert isinstance(failed["agent-made"], NotAllowed)
        assert await notes(application, TENANTS["kept"]) == ["before", "after"]
        assert await notes(application, TENANTS["deleted"]) == ["before"]
        assert await notes(application, TENANTS["replaced"]) == ["anew"]
        with pytest.raises(NotAllowed):
            await reconcile(application, settled_s=0)

        await write(application, TENANTS["made"], "its owner calls")
        await write(application, TENANTS["unused"], "first")
        assert await notes(application, TENANTS["made"]) == ["new", "its owner calls"]
        assert await mend(application) == ({}, {})
        after = await projects(application)
        assert sorted(project.name for project in after) == sorted(f"agent-{name}" for name in TENANTS)

        tokens = application.managed().tokens
        assert (await tokens.authenticate(older)).tenant == TENANTS["kept"]
        assert (await tokens.authenticate(revoked.token.reveal())).tenant == TENANTS["kept"]  # docs/operating.md
        with pytest.raises(NotAuthenticated):
            await tokens.authenticate(newer)

        await application.managed().sync().run()
        report = await application.managed().usage.report(USER)
        assert report.used_microcents >= paid
        assert sum(each.cost_microcents for each in report.by_database) == report.used_microcents
        assert [each async for each in application.managed().audit.verify() if each.broken] == []
