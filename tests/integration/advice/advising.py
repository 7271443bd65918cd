"""Databases to ask for advice on: the platform's own, where indexes are built, and one with hypopg."""

from __future__ import annotations

import os
import subprocess
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import asyncpg
import pytest

from agentdb_mcp.bootstrap import Application, open_application
from agentdb_mcp.embedded import embedded_postgres
from agentdb_mcp.execution import Statement
from agentdb_mcp.models import Scope, Tenant
from agentdb_mcp.services import Analysis
from agentdb_mcp.services.indexing import Advice
from agentdb_mcp.settings import load_settings


@dataclass(frozen=True, slots=True)
class World:
    """One tenant's database, through the product."""

    application: Application
    tenant: Tenant
    method: str

    @property
    def analysis(self) -> Analysis:
        return Analysis(self.application.queries, self.application.policy)

    async def run(self, *texts: str) -> list[list[Any]]:
        """The last statement's rows; each is a call of its own."""
        rows: list[list[Any]] = []
        for text in texts:
            answer = await self.application.queries.execute(self.tenant, Scope.AGENT, [Statement(text)])
            rows = answer.results[0].rows
        return rows

    async def plan(self, sql: str, options: str = "") -> dict[str, Any]:
        """As the real planner makes it, by an EXPLAIN of the agent's own."""
        ((document,),) = await self.run(f"EXPLAIN (FORMAT JSON{options}) {sql}")
        plan: dict[str, Any] = document[0]["Plan"]
        return plan

    async def indexes(self) -> list[list[Any]]:
        return await self.run("SELECT indexname FROM pg_indexes WHERE schemaname = 'public' ORDER BY 1")

    async def advise(self, *texts: str, max_bytes: int = 10**9) -> Advice:
        return await self.analysis.indexes_for(self.tenant, Scope.AGENT, texts, max_bytes)


def brief(advice: Advice) -> set[str]:
    """The recommended indexes as table(column, …)."""
    return {
        f"{one.index.table}({', '.join(key.name + key.suffix for key in one.index.keys)})"
        for one in advice.recommendations
    }


@cache
def postgres_with_hypopg() -> Path | None:
    """The programs of a Postgres that has the extension: AGENTDB_PG_BIN's, or one of Debian's."""
    given = os.environ.get("AGENTDB_PG_BIN")
    for folder in [Path(given)] if given else sorted(Path("/usr/lib/postgresql").glob("*/bin"), reverse=True):
        asked = subprocess.run([folder / "pg_config", "--sharedir"], capture_output=True, text=True, check=False)
        if asked.returncode == 0 and (Path(asked.stdout.strip()) / "extension" / "hypopg.control").exists():
            return folder
    return None


@asynccontextmanager
async def world_with_hypopg(tables: tuple[str, ...], folder: Path, **environ: str) -> AsyncIterator[World]:
    """A database that its caller brought, with the extension in a schema that needs quotes."""
    async with embedded_postgres(bin_dir=folder) as postgres:
        connection = await asyncpg.connect(postgres.uri().reveal())
        try:
            await connection.execute('CREATE SCHEMA "What If"; CREATE EXTENSION hypopg SCHEMA "What If"')
            for sql in tables:
                await connection.execute(sql)
        finally:
            await connection.close()
        settings = load_settings({"AGENT_DB_URL": postgres.uri().reveal(), **environ})
        async with open_application(settings) as application:
            yield World(application, Tenant(), "hypopg")


def hypopg_or_skip() -> Path:
    folder = postgres_with_hypopg()
    if folder is None:
        pytest.skip("no Postgres with hypopg here: install postgresql-*-hypopg, or name one in AGENTDB_PG_BIN")
    return folder
