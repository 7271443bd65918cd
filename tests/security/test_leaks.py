"""Nothing secret leaves a process: not in answers, errors, debug logs or command lines, and not when it fails."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import re
import secrets
import subprocess
import sys
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import anyio
import asyncpg
import httpx
import psutil
import pytest

from agentdb_mcp.local_stack import LocalStack, local_stack

ANSWER_TIMEOUT_S = 90
WRONG_KEY = "napi_wrong_but_secret_all_the_same"
WRONG_PASSWORD = "wrong-but-secret-all-the-same"
ACCESS = re.compile(r"postgres(?:ql)?://[^\s/…]*:[^\s/…]+@|SCRAM-SHA-256\$|PASSWORD '[^']", re.IGNORECASE)


@dataclass
class Session:
    """Everything that one `serve` process said, and what `ps` said about it."""

    stdout: str = ""
    stderr: str = ""
    command_lines: set[str] = field(default_factory=set)
    answers: list[dict[str, Any]] = field(default_factory=list)

    @property
    def codes(self) -> list[str | None]:
        return [answer["structuredContent"].get("error", {}).get("code") for answer in self.answers]

    @property
    def said(self) -> str:
        return self.stdout + self.stderr

    def everything(self) -> str:
        return "\n".join([self.said, *self.command_lines])


class Talk:
    """A client that keeps all it hears."""

    def __init__(self, process: asyncio.subprocess.Process, session: Session) -> None:
        self._process = process
        self._session = session
        self._requests = 0

    async def request(self, method: str, params: dict[str, Any]) -> dict[str, Any]:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._requests += 1
        message = {"jsonrpc": "2.0", "id": self._requests, "method": method, "params": params}
        self._process.stdin.write(json.dumps(message).encode() + b"\n")
        with anyio.fail_after(ANSWER_TIMEOUT_S):
            while True:
                line = (await self._process.stdout.readline()).decode()
                assert line, "the server ended"
                self._session.stdout += line
                answer: dict[str, Any] = json.loads(line)
                if answer.get("id") == self._requests:
                    return answer

    async def call(self, tool: str, **arguments: Any) -> dict[str, Any]:
        answer = await self.request("tools/call", {"name": tool, "arguments": arguments})
        self._session.command_lines |= command_lines()
        result: dict[str, Any] = answer["result"]
        self._session.answers.append(result)
        return result

    async def sql(self, sql: str, **arguments: Any) -> dict[str, Any]:
        return await self.call("execute_sql", sql=sql, **arguments)


def command_lines() -> set[str]:
    """What everybody on the machine can read."""
    found = set()
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            found.add("\0".join(process.cmdline()))
    return found


@contextlib.asynccontextmanager
async def talk(environ: dict[str, str], session: Session, folder: Path) -> AsyncIterator[Talk]:
    """`agentdb-mcp serve` with debug logs."""
    ours = ("AGENT", "GLOBAL_DB", "NEON", "ENCRYPTION", "PG", "PYTHON")
    inherited = {name: value for name, value in os.environ.items() if not name.startswith(ours)}
    log = folder / f"{secrets.token_hex(8)}.log"
    with log.open("wb") as errors:
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            "agentdb_mcp",
            "serve",
            env=inherited | {"AGENTDB_LOG": "debug"} | environ,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=errors,
            limit=2**26,
        )
    assert process.stdin is not None
    assert process.stdout is not None
    try:
        talker = Talk(process, session)
        client = {"name": "leaks", "version": "1"}
        await talker.request("initialize", {"protocolVersion": "2025-06-18", "capabilities": {}, "clientInfo": client})
        yield talker
    finally:
        with anyio.CancelScope(shield=True):
            process.stdin.close()
            with anyio.move_on_after(5):
                session.stdout += (await process.stdout.read()).decode()
            if process.returncode is None:
                with contextlib.suppress(ProcessLookupError):
                    process.kill()
            await process.wait()
            session.stderr += log.read_text(errors="replace")


@dataclass
class Place:
    """A running stack and what nobody may see of it."""

    stack: LocalStack
    folder: Path
    environ: dict[str, str]

    async def secrets(self) -> dict[str, str]:
        """By what they are, so that a failure tells without showing."""
        stack = self.stack
        found = {
            "the superuser's password": stack.postgres.password.reveal(),
            "the encryption key": stack.encryption_key.reveal(),
            "the Neon key": stack.emulator.api_key,
            "the control database's URL": self.environ["AGENTDB_CONTROL_URL"],
            "Postgres's host and port": f"127.0.0.1:{stack.postgres.port}",
            "a wrong key": WRONG_KEY,
            "a wrong password": WRONG_PASSWORD,
            "the hash of a password": "SCRAM-SHA-256$",
        }
        connection = await asyncpg.connect(stack.postgres.uri().reveal())
        for role, stored in await connection.fetch("SELECT rolname, rolpassword FROM pg_authid WHERE rolcanlogin"):
            found[f"what is stored for {role}"] = stored or found["the superuser's password"]
        await connection.close()
        return found | await self._project_passwords()

    async def _project_passwords(self) -> dict[str, str]:
        found: dict[str, str] = {}
        async with httpx.AsyncClient(
            base_url=self.stack.emulator.base_url,
            headers={"Authorization": f"Bearer {self.stack.emulator.api_key}"},
            timeout=60,
        ) as client:
            for project in (await client.get("/projects")).json()["projects"]:
                base = f"/projects/{project['id']}"
                branch = (await client.get(f"{base}/branches")).json()["branches"][0]["id"]
                roles = (await client.get(f"{base}/branches/{branch}/roles")).json()["roles"]
                databases = (await client.get(f"{base}/branches/{branch}/databases")).json()["databases"]
                wanted = {"database_name": databases[0]["name"], "role_name": roles[0]["name"]}
                uri = (await client.get(f"{base}/connection_uri", params=wanted)).json()["uri"]
                found[f"the admin's URI of {project['name']}"] = uri
                found[f"the admin's password of {project['name']}"] = unquote(urlsplit(uri).password or uri)
        return found


@pytest.fixture(scope="module")
async def place(anyio_backend: str, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Place]:
    async with local_stack() as stack:
        environ = stack.environ() | {"AGENTDB_USER_ID": "leaky", "AGENTDB_WORKSPACE_ID": "leaking"}
        place = Place(stack, tmp_path_factory.mktemp("logs"), environ)
        async with talk(environ, Session(), place.folder) as agent:
            await agent.sql("SELECT 1")
        yield place


async def assert_clean(place: Place, session: Session, **also: str) -> None:
    everything = session.everything()
    for what, secret in ((await place.secrets()) | also).items():
        assert len(secret) >= 8, what
        assert secret not in everything, f"{what} was shown: …{around(everything, secret)}…"
    assert not ACCESS.search(session.said)
    assert "Traceback" not in session.said
    assert session.said


def around(text: str, secret: str) -> str:
    at = text.index(secret)
    return text[max(0, at - 150) : at]


LOOKS = [
    "SELECT current_user, session_user, current_database(), version()",
    "SELECT * FROM pg_stat_activity",
    "SELECT * FROM pg_settings",
    "SHOW ALL",
    "SELECT * FROM pg_roles",
    "SELECT * FROM pg_user",
    "SELECT * FROM pg_database",
    "SELECT * FROM pg_shadow",
    "SELECT * FROM pg_authid",
    "SELECT * FROM pg_user_mappings",
    "SELECT * FROM pg_foreign_server",
    "SELECT * FROM pg_subscription",
    "SELECT * FROM pg_stat_ssl",
    "SELECT * FROM pg_stat_statements",
    "SELECT * FROM pg_hba_file_rules",
    "SELECT * FROM pg_prepared_statements",
    "SELECT * FROM pg_db_role_setting",
    "SELECT current_setting('primary_conninfo')",
    "SELECT pg_read_file('postmaster.pid')",
    "SELECT * FROM nowhere",
    "SELECT * FROM dblink('', 'SELECT 1') AS t (i int)",
    "ALTER ROLE CURRENT_USER PASSWORD 'x'",
    "DO $$ BEGIN RAISE EXCEPTION '%', (SELECT string_agg(t::text, E'\\n') FROM pg_stat_activity AS t); END $$",
    "SELECT pg_terminate_backend(pg_backend_pid())",
    "SELECT 1",
]


async def test_an_ordinary_session_that_looks_everywhere_shows_no_secret(place: Place) -> None:
    session = Session()
    async with talk(place.environ, session, place.folder) as agent:
        await agent.request("tools/list", {})
        for database in ("agent", "global"):
            for sql in LOOKS:
                await agent.sql(sql, database=database)
            await agent.call("execute_transaction", statements=[{"sql": "SELECT 1"}, {"sql": "SELECT 1/0"}])
            await agent.call("list_schemas", database=database)
            await agent.call("list_objects", database=database)
            await agent.call("get_object_details", object_name="nowhere", database=database)
        await agent.call("get_budget")
        await agent.sql("SELECT 1", password=WRONG_PASSWORD)
    assert session.answers[0]["isError"] is False
    assert session.stderr
    await assert_clean(place, session)


async def test_json_logs_show_no_secret_and_no_value_of_a_statement(place: Place) -> None:
    session = Session()
    async with talk(place.environ | {"AGENTDB_LOG": "json,debug"}, session, place.folder) as agent:
        await agent.sql("SELECT $1::text", params=["a-private-parameter"])
        await agent.sql("SELECT 'a-private-literal' / 0")
        await agent.sql("SELECT 'a-private-literal'::int")
    assert session.stderr
    for line in session.stderr.splitlines():
        json.loads(line)
    assert "a-private" not in session.stderr
    await assert_clean(place, session)


FAILURES = [
    pytest.param({"NEON_API_KEY": WRONG_KEY, "AGENTDB_WORKSPACE_ID": "new-1"}, "provisioning_failed", id="Neon key"),
    pytest.param(
        {"NEON_API_HOST": "http://127.0.0.1:1/api/v2", "AGENTDB_WORKSPACE_ID": "new-2"},
        "provisioning_failed",
        id="Neon unreachable",
    ),
    pytest.param(
        {"AGENTDB_CONTROL_URL": f"postgresql://u:{WRONG_PASSWORD}@127.0.0.1:1/x"},
        "database_unavailable",
        id="control database unreachable",
    ),
    pytest.param({"AGENTDB_ENCRYPTION_KEYS": "ab" * 32}, "database_unavailable", id="another encryption key"),
    pytest.param({"AGENTDB_ENCRYPTION_KEYS": ""}, "database_unavailable", id="no encryption key"),
    pytest.param(
        {
            "AGENT_DB_URL": f"postgresql://u:{WRONG_PASSWORD}@127.0.0.1:1/x",
        },
        "database_unavailable",
        id="a URL unreachable",
    ),
]


@pytest.mark.parametrize(("wrong", "code"), FAILURES)
async def test_a_failure_is_told_without_a_secret_or_a_traceback(
    place: Place, wrong: dict[str, str], code: str
) -> None:
    session = Session()
    async with talk(place.environ | wrong, session, place.folder) as agent:
        await agent.sql("SELECT 1")
    assert set(session.codes) == {code}
    also = {name: value for name, value in wrong.items() if len(value) >= 8 and name != "AGENTDB_WORKSPACE_ID"}
    also.pop("NEON_API_HOST", None)
    await assert_clean(place, session, **also)


async def test_a_wrong_password_for_the_control_database_is_not_shown(place: Place) -> None:
    url = f"postgresql://postgres:{WRONG_PASSWORD}@127.0.0.1:{place.stack.postgres.port}/agentdb_control"
    session = Session()
    async with talk(place.environ | {"AGENTDB_CONTROL_URL": url}, session, place.folder) as agent:
        await agent.sql("SELECT 1")
        await agent.call("get_budget")
    assert session.codes == ["database_unavailable"] * 2
    await assert_clean(place, session, url=url)


@pytest.mark.parametrize(
    "password",
    ["zebrafinch[kookaburra", "zebrafinch#kookaburra", "zebrafinch/kookaburra"],
)
async def test_a_url_that_cannot_be_read_is_not_shown_in_part_either(place: Place, password: str) -> None:
    """Refused at the start or at the first call; either way nothing of the password is seen."""
    session = Session()
    environ = {"AGENT_DB_URL": f"postgresql://quetzal:{password}@127.0.0.1:1/x"}
    with contextlib.suppress(AssertionError):
        async with talk(environ, session, place.folder) as agent:
            await agent.sql("SELECT 1")
    assert session.said
    for part in ("zebrafinch", "kookaburra", "quetzal"):
        assert part not in session.said
    assert "Traceback" not in session.said
    assert "internal" not in session.codes


async def test_a_database_deleted_meanwhile_is_an_error_without_a_secret(place: Place) -> None:
    session = Session()
    environ = place.environ | {"AGENTDB_WORKSPACE_ID": "deleted-meanwhile"}
    async with talk(environ, session, place.folder) as agent:
        first = await agent.sql("SELECT current_database()")
        before = await place.secrets()
        name = first["structuredContent"]["rows"][0][0]
        outside = await asyncpg.connect(place.stack.postgres.uri().reveal())
        await outside.execute(f'DROP DATABASE "{name}" WITH (FORCE)')
        await outside.close()
        for _ in range(2):
            await agent.sql("SELECT 1")
        await agent.call("list_schemas")
    assert session.codes == [None] + ["database_unavailable"] * 3
    await assert_clean(place, session, **before)


async def test_a_project_deleted_at_neon_is_an_error_without_a_secret(place: Place) -> None:
    session = Session()
    environ = place.environ | {"AGENTDB_WORKSPACE_ID": "project-gone"}
    async with talk(environ, session, place.folder) as agent:
        await agent.sql("SELECT 1")
        before = await place.secrets()
        headers = {"Authorization": f"Bearer {place.stack.emulator.api_key}"}
        async with httpx.AsyncClient(base_url=place.stack.emulator.base_url, headers=headers, timeout=60) as client:
            listed = (await client.get("/projects", params={"search": "agent-project-gone"})).json()["projects"]
            (await client.delete(f"/projects/{listed[0]['id']}")).raise_for_status()
        for _ in range(2):
            await agent.sql("SELECT 1")
        await agent.call("list_schemas")
    assert None not in session.codes[1:]
    assert "internal" not in session.codes
    await assert_clean(place, session, **before)


async def test_no_command_shows_a_secret(place: Place) -> None:
    """What people run prints, and what it says when it is refused, holds no secret."""
    runs = [
        (("migrate",), {}),
        (("doctor", "--json"), {"NEON_API_KEY": WRONG_KEY}),
        (("users", "create", "seen", "--json"), {"NEON_API_KEY": WRONG_KEY}),
        (("users", "create", "seen", "--json"), {}),
    ]
    session = Session()
    for arguments, wrong in runs:
        done = await anyio.run_process(
            [sys.executable, "-m", "agentdb_mcp", *arguments],
            env=dict(os.environ) | place.environ | {"AGENTDB_LOG": "debug"} | wrong,
            check=False,
        )
        session.stdout += done.stdout.decode()
        session.stderr += done.stderr.decode()
    await assert_clean(place, session)
