"""What attack cases run in: one attacked database, a `serve` process for each mode, a superuser's view from outside."""

from __future__ import annotations

import json
import sys
import tempfile
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import asyncpg
import psutil
from mcp.client import Client
from mcp.client.stdio import StdioServerParameters, stdio_client
from mcp_types import TextContent

from agentdb_mcp.credentials.cipher import Cipher
from agentdb_mcp.execution import layout
from agentdb_mcp.local_stack import CONTROL_DATABASE, LocalStack, local_stack
from agentdb_mcp.models import Secret
from agentdb_mcp.settings import load_settings

HERE = Path(__file__).parent
POLICIES = {
    "normal": "",
    "over_budget": "[tiers]\nfree = 10\n"
    "[budget]\nwarning_percent = 1\nexceeded_percent = 1\npaused_percent = 1000000\n",
    "read_only": '[access]\nmode = "restricted"\n',
}
TENANT_B_SECRET = "tenantB-secret"


@dataclass
class Output:
    """What one call gave: everything a caller could read, whether it failed, and for how long."""

    text: str
    failed: bool
    seconds: float


@dataclass
class Arena:
    """One attacked database, a server for each mode, and a superuser's view from outside."""

    stack: LocalStack
    clients: dict[str, Client]
    processes: dict[str, psutil.Process]
    cluster: asyncpg.Connection
    db: str = ""
    role: str = ""
    admin: Secret = field(default_factory=lambda: Secret(""))
    other_db: str = ""
    other_role: str = ""

    def fill(self, text: str) -> str:
        values = {
            "{db}": self.db,
            "{own}": self.role,
            "{gate}": self.role,
            "{name}": "attacked",
            "{other_db}": self.other_db,
            "{other_own}": self.other_role,
            "{gate_password}": urlsplit(self.admin.reveal()).password or "",
            "{data_directory}": "pgdata",
            "{socket_dir}": "/no-socket-directory",
        }
        for placeholder, value in values.items():
            text = text.replace(placeholder, value)
        return text

    async def call(self, mode: str, sql: str, tool: str = "execute_sql") -> Output:
        started = time.monotonic()
        answer = await self.clients[mode].call_tool(tool, {"sql": sql} if tool == "execute_sql" else {})
        texts = [block.text for block in answer.content if isinstance(block, TextContent)]
        everything = "\n".join([*texts, json.dumps(answer.structured_content, ensure_ascii=False)])
        return Output(everything, answer.is_error, time.monotonic() - started)

    @asynccontextmanager
    async def inside(self) -> AsyncIterator[asyncpg.Connection]:
        """A superuser in the attacked database, whose reads nothing there can shadow."""
        connection = await asyncpg.connect(
            self.stack.postgres.uri(self.db).reveal(), server_settings={"search_path": "pg_catalog, public, pg_temp"}
        )
        try:
            yield connection
        finally:
            await connection.close()

    async def end_sessions(self) -> None:
        await self.cluster.execute(
            "SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity WHERE usename = $1", self.role
        )

    async def renew(self) -> None:
        """The database as it was at first, under the same name."""
        await self.cluster.execute(f'DROP DATABASE IF EXISTS "{self.db}" WITH (FORCE)')
        owner = urlsplit(self.admin.reveal()).username
        await self.cluster.execute(f'CREATE DATABASE "{self.db}" TEMPLATE attack_template OWNER "{owner}"')
        await self.cluster.execute(f'ALTER ROLE "{self.role}" RESET ALL')
        await layout.install(self.admin, self.role, connection_limit=8)


@asynccontextmanager
async def arena(*, gate: bool = True, timeout_s: int | None = None) -> AsyncIterator[Arena]:
    """Everything that cases need; `timeout_s` replaces the shipped policy's time limit, for faster suites."""
    async with AsyncExitStack() as exits:
        stack = await exits.enter_async_context(local_stack(bin_dir=load_settings().pg_bin))
        folder = Path(exits.enter_context(tempfile.TemporaryDirectory()))
        cluster = await asyncpg.connect(stack.postgres.uri().reveal())
        exits.push_async_callback(cluster.close)
        await cluster.execute("ALTER SYSTEM SET autovacuum = off")  # what changes is the agent's doing
        await cluster.execute("SELECT pg_reload_conf()")
        built = Arena(stack, {}, {}, cluster)
        for mode, policy in POLICIES.items():
            environ = stack.environ() | {"AGENTDB_USER_ID": "attacker", "AGENTDB_WORKSPACE_ID": "attacked"}
            limits = f"[limits]\ntimeout_s = {timeout_s}\n" if timeout_s else ""
            file = folder / f"{mode}.toml"
            file.write_text(f'name = "{mode}"\n{policy}{limits}')
            environ["AGENTDB_POLICY"] = str(file)
            client, process = await exits.enter_async_context(_server(environ, gate=gate, log=folder / f"{mode}.log"))
            built.clients[mode], built.processes[mode] = client, process
            await _must(client, "SELECT 1")
        await _other_tenant(built, exits, folder, gate=gate)
        await _template(built)
        yield built


@asynccontextmanager
async def _server(environ: dict[str, str], *, gate: bool, log: Path) -> AsyncIterator[tuple[Client, psutil.Process]]:
    arguments = ["-m", "agentdb_mcp", "serve"] if gate else [str(HERE / "serve_without_gate.py")]
    before = {child.pid for child in psutil.Process().children()}
    parameters = StdioServerParameters(command=sys.executable, args=arguments, env=environ | {"AGENTDB_LOG": "warning"})
    with log.open("w") as errors:
        async with Client(stdio_client(parameters, errlog=errors), read_timeout_seconds=120) as client:
            (process,) = [child for child in psutil.Process().children() if child.pid not in before]
            yield client, process


async def _must(client: Client, sql: str) -> Any:
    answer = await client.call_tool("execute_sql", {"sql": sql})
    if answer.is_error:
        raise RuntimeError(f"{sql}: {answer.content}")
    return answer.structured_content


async def _other_tenant(built: Arena, exits: AsyncExitStack, folder: Path, *, gate: bool) -> None:
    environ = built.stack.environ() | {"AGENTDB_USER_ID": "neighbour", "AGENTDB_WORKSPACE_ID": "neighbour"}
    async with _server(environ, gate=gate, log=folder / "neighbour.log") as (client, _):
        await _must(client, "CREATE TABLE secret AS SELECT 'tenantB-secret'::text AS value")
        answer = await _must(client, "SELECT current_database(), current_user")
        built.other_db, built.other_role = answer["rows"][0]


async def _template(built: Arena) -> None:
    """What every case starts from, made by the agent itself."""
    client = built.clients["normal"]
    for sql in (
        "CREATE TABLE t (id int PRIMARY KEY, v text)",
        "INSERT INTO t VALUES (1, 'a'), (2, 'b'), (3, 'c')",
        "CREATE SEQUENCE sq",
    ):
        await _must(client, sql)
    built.db, built.role = (await _must(client, "SELECT current_database(), current_user"))["rows"][0]
    control = await asyncpg.connect(built.stack.postgres.uri(CONTROL_DATABASE).reveal())
    try:
        encrypted = await control.fetchval(
            "SELECT neon_connection_uri FROM workspace_database WHERE database_name = $1", built.db
        )
    finally:
        await control.close()
    built.admin = Cipher([built.stack.encryption_key]).decrypt(encrypted)
    await built.cluster.execute(
        "SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity WHERE datname = $1", built.db
    )
    await built.cluster.execute(f'CREATE DATABASE attack_template TEMPLATE "{built.db}"')
    await built.cluster.execute("REVOKE ALL ON DATABASE attack_template FROM PUBLIC")
