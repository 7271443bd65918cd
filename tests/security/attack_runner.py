"""Attack and legitimate cases through `execute_sql` of running `serve` processes, checked from outside.

`AGENTDB_ATTACK_CASES` names the file of cases (JSON lines), `AGENTDB_ATTACK_GATE=off` takes the gate away so that the
walls stand alone. Run as a program it prints `N passed, N failed` and the ids that failed.
"""

from __future__ import annotations

import base64
import json
import os
import re
import sys
import tempfile
import time
import zlib
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import anyio
import asyncpg
import psutil
from mcp.client import Client
from mcp.client.stdio import StdioServerParameters, stdio_client
from mcp_types import TextContent

from agentdb_mcp.execution import layout
from agentdb_mcp.local_stack import CONTROL_DATABASE, LocalStack, local_stack
from agentdb_mcp.models import Secret

HERE = Path(__file__).parent
DEFAULT_CASES = HERE.parents[2] / "shared" / "attacks" / "cases.jsonl"
POLICIES = {
    "normal": None,
    "over_budget": 'name = "over budget"\nversion = "1"\n[tiers]\nfree = 0\n',
    "read_only": 'name = "read only"\nversion = "1"\n[access]\nmode = "restricted"\n',
}
TENANT_B_SECRET = "tenantB-secret"


def load_cases(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text("utf-8").splitlines() if line.strip()]


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

    async def renew(self) -> None:
        """The database as it was at first, under the same name."""
        await self.cluster.execute(f'DROP DATABASE IF EXISTS "{self.db}" WITH (FORCE)')
        owner = urlsplit(self.admin.reveal()).username
        await self.cluster.execute(f'CREATE DATABASE "{self.db}" TEMPLATE attack_template OWNER "{owner}"')
        await self.cluster.execute(f'ALTER ROLE "{self.role}" RESET ALL')
        await layout.install(self.admin, self.role, connection_limit=8)


# --- building it ----------------------------------------------------------------------------------------------


@asynccontextmanager
async def arena(*, gate: bool = True) -> AsyncIterator[Arena]:
    async with AsyncExitStack() as exits:
        stack = await exits.enter_async_context(local_stack())
        folder = Path(exits.enter_context(tempfile.TemporaryDirectory()))
        cluster = await asyncpg.connect(stack.postgres.uri().reveal())
        exits.push_async_callback(cluster.close)
        built = Arena(stack, {}, {}, cluster)
        for mode, policy in POLICIES.items():
            environ = stack.environ() | {"AGENTDB_USER_ID": "attacker", "AGENTDB_WORKSPACE_ID": "attacked"}
            if policy is not None:
                file = folder / f"{mode}.toml"
                file.write_text(policy)
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
    from agentdb_mcp.credentials.cipher import Cipher

    built.admin = Cipher([built.stack.encryption_key]).decrypt(encrypted)
    await built.cluster.execute(
        "SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity WHERE datname = $1", built.db
    )
    await built.cluster.execute(f'CREATE DATABASE attack_template TEMPLATE "{built.db}"')
    await built.cluster.execute("REVOKE ALL ON DATABASE attack_template FROM PUBLIC")


# --- one case -------------------------------------------------------------------------------------------------


async def run_case(built: Arena, case: dict[str, Any]) -> list[str]:
    """What is wrong with this case; empty if it holds."""
    await built.renew()
    for sql in case.get("setup", []):
        await built.call("normal", built.fill(sql))
    checks: dict[str, Any] = {}
    for check in case["check"]:
        checks.setdefault("su", []).append(check) if "su" in check else checks.update(check)
    before = await _photograph(built) if "unchanged" in checks else None
    roles = await _roles(built)
    _reset_peak(built)
    outputs, stalls = await _perform(built, case)
    wrong = _verdict(case, outputs)
    wrong += _limits(built, checks, outputs, stalls)
    wrong += await _outside(built, checks, before, roles)
    wrong += await _afterwards(built, outputs)
    return wrong


async def _perform(built: Arena, case: dict[str, Any]) -> tuple[list[Output], list[float]]:
    outputs: list[Output] = []
    stalls = [0.0]
    async with anyio.create_task_group() as group:
        group.start_soon(_watch_stalls, built.clients[case["mode"]], stalls)
        for step in _steps(case):
            output = await built.call(step.get("mode", case["mode"]), built.fill(step["sql"]))
            if "expect" in step and not re.search(built.fill(step["expect"]), output.text):
                output.text += f"\nEXPECTED {step['expect']}"
            outputs.append(output)
        group.cancel_scope.cancel()
    return outputs, stalls


def _steps(case: dict[str, Any]) -> list[dict[str, Any]]:
    if "steps" in case:
        return list(case["steps"])
    if "sql_z" in case:
        return [{"sql": zlib.decompress(base64.b64decode(case["sql_z"])).decode("utf-8")}]
    return [{"sql": case["sql"]}]


async def _watch_stalls(client: Client, stalls: list[float]) -> None:
    """How long another caller of the same process waits for an answer that needs no database."""
    while True:
        started = time.monotonic()
        await client.call_tool("execute_sql", {"nothing": 1})
        stalls.append(time.monotonic() - started)
        await anyio.sleep(0.05)


def _verdict(case: dict[str, Any], outputs: list[Output]) -> list[str]:
    last = outputs[-1]
    wrong = [output.text[-200:] for output in outputs if "\nEXPECTED " in output.text]
    if case["must"] == "blocked" and not last.failed:
        wrong.append(f"not blocked: {last.text[:200]}")
    if case["must"] == "allowed" and last.failed:
        wrong.append(f"refused: {last.text[:200]}")
    return wrong


def _limits(built: Arena, checks: dict[str, Any], outputs: list[Output], stalls: list[float]) -> list[str]:
    text, wrong = "\n".join(output.text for output in outputs), []
    seconds = sum(output.seconds for output in outputs)
    peak = max(_peak_mb(process) for process in built.processes.values())
    for limit, value in (
        ("max_seconds", seconds),
        ("max_rss_mb", peak),
        ("max_output_bytes", len(text.encode("utf-8", "replace"))),
        ("loop_stall_max", max(stalls)),
    ):
        if limit in checks and value > checks[limit]:
            wrong.append(f"{limit}: {value:.1f} > {checks[limit]}")
    for pattern in _listed(checks.get("out_not", [])):
        if re.search(built.fill(pattern), text):
            wrong.append(f"output shows {pattern}")
    for pattern in _listed(checks.get("out_has", [])):
        if not re.search(built.fill(pattern), text):
            wrong.append(f"output lacks {pattern}: {text[:200]}")
    return wrong


def _listed(value: Any) -> list[str]:
    return value if isinstance(value, list) else [value]


async def _outside(built: Arena, checks: dict[str, Any], before: object, roles: object) -> list[str]:
    wrong = []
    async with built.inside() as inside:
        for check in checks.get("su", []):
            try:
                found = await inside.fetchval(built.fill(check["su"]))
            except asyncpg.UndefinedTableError:
                found = "no such table"
            if found is not None and str(found) != check["is"]:
                wrong.append(f"{check['su'][:80]} is {found!r}, not {check['is']!r}")
        if "no_active_backend" in checks:
            active = "SELECT count(*) FROM pg_stat_activity WHERE usename = $1 AND state = 'active'"
            if await inside.fetchval(active, built.role):
                wrong.append("a backend is still active")
        if "introspect_ok" in checks:
            wrong += await _introspect(built, inside)
    if "unchanged" in checks and before != (after := await _photograph(built)):
        wrong.append(f"changed: {before} → {after}")
    if ("roles_unchanged" in checks or True) and roles != await _roles(built):
        wrong.append("roles changed")
    for password in [checks[key] for key in ("login_fails",) if key in checks]:
        wrong += await _login(built, password)
    if "pw_unchanged" in checks:
        wrong += await _login(built, "x")
    if "reconnect_ok" in checks:
        await built.cluster.execute(
            "SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity WHERE usename = $1", built.role
        )
    return wrong


async def _introspect(built: Arena, inside: asyncpg.Connection) -> list[str]:
    truth = await inside.fetch(
        "SELECT relname FROM pg_class WHERE relnamespace = 'public'::regnamespace AND relkind IN ('r', 'p') ORDER BY 1"
    )
    answer = await built.clients["normal"].call_tool("list_objects", {"schema_name": "public", "object_type": "table"})
    listed = [item["name"] for item in answer.structured_content["objects"]] if not answer.is_error else None
    return (
        []
        if listed is not None and sorted(listed) == sorted(row[0] for row in truth)
        else [f"list_objects: {str(answer)[:200]}"]
    )


async def _login(built: Arena, password: str) -> list[str]:
    try:
        connection = await asyncpg.connect(
            built.stack.postgres.uri(built.db).reveal(), user=built.role, password=password
        )
    except (asyncpg.PostgresError, OSError):
        return []
    await connection.close()
    return [f"the agent's role logs in with {password!r}"]


async def _afterwards(built: Arena, outputs: list[Output]) -> list[str]:
    """A fresh call works and has our settings, the neighbour is intact, nothing secret was shown."""
    wrong = []
    fresh = await built.call("normal", "SELECT current_setting('search_path'), current_setting('statement_timeout')")
    if fresh.failed or '"public, pg_temp"' not in fresh.text:
        wrong.append(f"a fresh call: {fresh.text[:200]}")
    neighbour = await asyncpg.connect(built.stack.postgres.uri(built.other_db).reveal())
    try:
        if await neighbour.fetchval("SELECT value FROM public.secret") != TENANT_B_SECRET:
            wrong.append("the neighbour was changed")
    finally:
        await neighbour.close()
    if await built.cluster.fetchval("SELECT count(*) FROM pg_prepared_xacts"):
        wrong.append("a prepared transaction was left")
    secrets = [
        TENANT_B_SECRET,
        built.stack.postgres.password.reveal(),
        urlsplit(built.admin.reveal()).password or "?",
        built.stack.encryption_key.reveal(),
        built.stack.emulator.api_key,
    ]
    text = "\n".join(output.text for output in outputs)
    wrong += [f"a secret was shown ({number})" for number, secret in enumerate(secrets) if secret in text]
    return wrong


async def _photograph(built: Arena) -> tuple[object, ...]:
    """Fingerprint of tables, catalog, large objects and sequences."""
    async with built.inside() as inside:
        tables = await inside.fetch(
            "SELECT n.nspname, c.relname, c.relkind FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace"
            " WHERE n.nspname !~ '^pg_' AND n.nspname <> 'information_schema' ORDER BY 1, 2"
        )
        contents = []
        for schema, name, kind in tables:
            if kind in (b"r", b"S"):
                what = "x::text" if kind == b"r" else "x.last_value::text || x.is_called::text"
                contents.append(
                    await inside.fetchval(
                        f"SELECT md5(coalesce(string_agg({what}, E'\\n' ORDER BY {what}), ''))"
                        f' FROM ONLY "{schema}"."{name}" x'
                    )
                )
        catalog = [
            await inside.fetchval(
                f"SELECT md5(coalesce(string_agg(x::text, E'\\n' ORDER BY x::text), '')) FROM {table} x"
            )
            for table in (
                "(SELECT oid, proname, proowner, prosrc, proacl::text FROM pg_proc WHERE oid > 16383)",
                "(SELECT oid, nspname, nspowner, nspacl::text FROM pg_namespace WHERE nspname !~ '^pg_(toast_)?temp')",
                "(SELECT oid, relname, relacl::text, relrowsecurity, relfilenode FROM pg_class WHERE oid > 16383 AND relnamespace NOT IN (SELECT oid FROM pg_namespace WHERE nspname ~ '^pg_(toast_)?temp'))",
                "(SELECT attrelid, attname, atttypid FROM pg_attribute WHERE attrelid > 16383 AND attnum > 0)",
                "(SELECT oid, lomowner FROM pg_largeobject_metadata)",
                "(SELECT starelid, staattnum FROM pg_statistic WHERE starelid > 16383)",
            )
        ]
    return tuple(tables), tuple(contents), tuple(catalog)


async def _roles(built: Arena) -> list[tuple[Any, ...]]:
    rows = await built.cluster.fetch(
        "SELECT rolname, rolsuper, rolcreaterole, rolcreatedb, rolcanlogin, rolreplication, rolbypassrls FROM pg_roles ORDER BY 1"
    )
    memberships = await built.cluster.fetch("SELECT roleid, member FROM pg_auth_members ORDER BY 1, 2")
    return [tuple(row) for row in (*rows, *memberships)]


def _reset_peak(built: Arena) -> None:
    for process in built.processes.values():
        Path(f"/proc/{process.pid}/clear_refs").write_text("5")


def _peak_mb(process: psutil.Process) -> float:
    status = Path(f"/proc/{process.pid}/status").read_text()
    found = re.search(r"VmHWM:\s+(\d+) kB", status)
    return int(found.group(1)) / 1024 if found else 0.0


# --- as a program ---------------------------------------------------------------------------------------------


async def run_all(path: Path, *, gate: bool, only: set[str]) -> tuple[int, dict[str, list[str]]]:
    """How many cases held, and what is wrong with the others."""
    failed: dict[str, list[str]] = {}
    cases = [case for case in load_cases(path) if not only or case["id"] in only or case["group"] in only]
    async with arena(gate=gate) as built:
        for case in cases:
            if any("known_gap" in check for check in case["check"]):
                continue
            try:
                wrong = await run_case(built, case)
            except Exception as error:  # noqa: BLE001  (a case that breaks the runner has failed)
                wrong = [f"{type(error).__name__}: {error}"]
            if not gate:
                wrong = (
                    [] if case["must"] == "allowed" else [what for what in wrong if not what.startswith("not blocked")]
                )
            if wrong:
                failed[case["id"]] = wrong
                print(f"{case['id']}: {'; '.join(wrong)}", file=sys.stderr, flush=True)
    return len(cases) - len(failed), failed


def main() -> None:
    path = Path(os.environ.get("AGENTDB_ATTACK_CASES") or DEFAULT_CASES)
    gate = os.environ.get("AGENTDB_ATTACK_GATE", "on") != "off"
    passed, failed = anyio.run(lambda: run_all(path, gate=gate, only=set(sys.argv[1:])))
    if failed:
        print(f"failed with the gate {'on' if gate else 'off'}: {' '.join(failed)}")
    print(f"{passed} passed, {len(failed)} failed")
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    main()
