"""The product as its callers meet it: processes with pipes, an environment and an exit code."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import anyio
import httpx
import psutil
import pytest
from jsonschema import Draft202012Validator

from agentdb_mcp.local_stack import LocalStack, local_stack
from processes import Launch, Process, fresh

ERROR_CODES = {
    "statement_refused",
    "budget_exceeded",
    "database_unavailable",
    "provisioning_failed",
    "sql_error",
    "timeout",
    "result_too_large",
    "rate_limited",
    "invalid_argument",
    "not_allowed",
    "internal",
}
ERROR_FIELDS = {"code", "message", "hint", "sqlstate", "position", "context", "retryable"}
ANSWER_TIMEOUT_S = 60
END_TIMEOUT_S = 10  # the promise is one second; a statement that is waited for takes fifteen
PROTOCOL = "2025-06-18"


@dataclass(frozen=True)
class Answer:
    """A tool's answer, taken apart."""

    is_error: bool
    fields: dict[str, Any]
    text: str
    raw: dict[str, Any]

    @property
    def error(self) -> dict[str, Any]:
        assert self.is_error, self.text
        error: dict[str, Any] = self.fields["error"]
        return error

    @property
    def code(self) -> str:
        return str(self.error["code"])

    @property
    def rows(self) -> list[list[Any]]:
        assert not self.is_error, self.text
        rows: list[list[Any]] = self.fields["rows"]
        return rows


@dataclass
class Serve:
    """A server over stdio and its client: JSON-RPC lines on real pipes."""

    process: Process
    log: Path
    wire: list[str] = field(default_factory=list)
    tools: dict[str, dict[str, Any]] = field(default_factory=dict)
    _next_id: int = 0
    _early: dict[int | str | None, dict[str, Any]] = field(default_factory=dict)

    @property
    def pid(self) -> int:
        return self.process.pid

    def stderr(self) -> str:
        return self.log.read_text(errors="replace")

    async def write(self, line: str) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(line.encode() + b"\n")
        await self.process.stdin.drain()

    async def send(self, method: str, params: Any = None) -> int:
        """Send a request and return its id, for `receive`."""
        self._next_id += 1
        message = {"jsonrpc": "2.0", "id": self._next_id, "method": method}
        await self.write(json.dumps(message if params is None else message | {"params": params}))
        return self._next_id

    async def receive(self, request_id: int | str | None, within: float = ANSWER_TIMEOUT_S) -> dict[str, Any]:
        """The response to a request; whatever else stands on stdout must be MCP too."""
        assert self.process.stdout is not None
        with anyio.fail_after(within):
            while request_id not in self._early:
                line = (await self.process.stdout.readline()).decode()
                assert line, f"the server ended: {self.stderr()[-2000:]}"
                self.wire.append(line)
                message = json.loads(line)
                assert message["jsonrpc"] == "2.0"
                if "method" not in message:
                    self._early[message["id"]] = message
        return self._early.pop(request_id)

    async def request(self, method: str, params: Any = None) -> dict[str, Any]:
        return await self.receive(await self.send(method, params))

    async def initialize(self, version: str = PROTOCOL) -> dict[str, Any]:
        """Say hello as clients of that version do, and remember the tools."""
        hello = await self.request(
            "initialize",
            {"protocolVersion": version, "capabilities": {}, "clientInfo": {"name": "acceptance", "version": "1"}},
        )
        await self.write(json.dumps({"jsonrpc": "2.0", "method": "notifications/initialized"}))
        listed = await self.request("tools/list")
        self.tools = {tool["name"]: tool for tool in listed["result"]["tools"]}
        result: dict[str, Any] = hello["result"]
        return result

    async def send_call(self, tool: str, **arguments: Any) -> int:
        return await self.send("tools/call", {"name": tool, "arguments": arguments})

    async def receive_answer(self, tool: str, request_id: int) -> Answer:
        """The answer, which is what the tool's output schema and the contract of errors promise."""
        message = await self.receive(request_id)
        assert "result" in message, message
        return self._checked(tool, message["result"])

    async def call(self, tool: str, /, **arguments: Any) -> Answer:
        return await self.receive_answer(tool, await self.send_call(tool, **arguments))

    async def sql(self, sql: str, *params: Any, **arguments: Any) -> Answer:
        """Run one statement that must succeed."""
        given = {"sql": sql} | ({"params": list(params)} if params else {}) | arguments
        answer = await self.call("execute_sql", **given)
        assert not answer.is_error, f"{sql[:200]}: {answer.text}"
        return answer

    async def refused(self, sql: str, /, **arguments: Any) -> Answer:
        """Run one statement that must fail."""
        answer = await self.call("execute_sql", sql=sql, **arguments)
        assert answer.is_error, f"{sql[:200]}: {answer.text[:500]}"
        return answer

    def _checked(self, tool: str, result: dict[str, Any]) -> Answer:
        text = "\n".join(block["text"] for block in result["content"])
        answer = Answer(bool(result.get("isError")), result["structuredContent"], text, result)
        Draft202012Validator(self.tools[tool]["outputSchema"]).validate(answer.fields)
        assert ("error" in answer.fields) == answer.is_error
        if answer.is_error:
            check_error(answer)
        return answer

    async def end(self, sign: signal.Signals | None = None) -> int:
        """End it by a signal, or by closing its input; the exit code. Raises TimeoutError where that takes long."""
        assert self.process.stdin is not None
        if sign is None:
            self.process.stdin.close()
        else:
            self.process.send_signal(sign)
        with anyio.fail_after(END_TIMEOUT_S):
            return await self.process.wait()


def check_error(answer: Answer) -> None:
    """`{code, message, hint, sqlstate?, position?, retryable}`, and all of it in the text that clients show."""
    error = answer.error
    assert set(error) <= ERROR_FIELDS
    assert set(error) >= {"code", "message", "hint", "retryable"}
    assert error["code"] in ERROR_CODES
    assert isinstance(error["retryable"], bool)
    text = answer.raw["content"][0]["text"]
    assert error["message"].strip().rstrip(".") in text
    assert error["hint"] is None or error["hint"].strip().rstrip(".") in text
    if "sqlstate" in error:
        assert error["sqlstate"] in text
    if "position" in error:
        assert str(error["position"]) in text
    assert error.get("context", "") in text
    assert "Traceback" not in text


@dataclass(frozen=True)
class Finished:
    """What a command left behind."""

    code: int
    out: str
    err: str

    @property
    def one_line(self) -> str:
        """The one clear line on stderr."""
        lines = self.err.splitlines()
        assert len(lines) == 1, self.err
        assert "Traceback" not in self.err
        return lines[0]


ServeFactory = Callable[..., AbstractAsyncContextManager[Serve]]
CommandFactory = Callable[..., Awaitable[Finished]]
StartFactory = Callable[..., AbstractAsyncContextManager[Process]]


@pytest.fixture(scope="session")
def log_file(tmp_path_factory: pytest.TempPathFactory) -> Callable[[], Path]:
    """Files for what processes write to stderr."""
    folder = tmp_path_factory.mktemp("stderr")
    return lambda: folder / f"{len(list(folder.iterdir()))}.log"


@pytest.fixture(scope="session")
def serve(forked: Launch, log_file: Callable[[], Path]) -> ServeFactory:
    """`async with serve(environ, *arguments) as server`: `agentdb-mcp serve`, greeted unless told otherwise."""
    return serving(forked, log_file)


@pytest.fixture(scope="session")
def fresh_serve(log_file: Callable[[], Path]) -> ServeFactory:
    """The same in an interpreter of its own."""
    return serving(fresh, log_file)


def serving(launch: Launch, log_file: Callable[[], Path]) -> ServeFactory:
    @contextlib.asynccontextmanager
    async def run(environ: dict[str, str], *arguments: str, greet: bool = True) -> AsyncIterator[Serve]:
        log = log_file()
        async with launch(environ, log, "serve", *arguments) as process:
            server = Serve(process, log)
            if greet:
                await server.initialize()
            yield server

    return run


@pytest.fixture(scope="session")
def start(log_file: Callable[[], Path]) -> StartFactory:
    """`async with start(environ, *arguments) as process`: any command, left running, in an interpreter of its own."""

    def run(environ: dict[str, str], *arguments: str) -> AbstractAsyncContextManager[Process]:
        return fresh(environ, log_file(), *arguments)

    return run


@pytest.fixture(scope="session")
def command(forked: Launch, log_file: Callable[[], Path]) -> CommandFactory:
    """`await command(environ, *arguments)`: run a command to its end."""
    return commanding(forked, log_file)


@pytest.fixture(scope="session")
def fresh_command(log_file: Callable[[], Path]) -> CommandFactory:
    """The same in an interpreter of its own."""
    return commanding(fresh, log_file)


def commanding(launch: Launch, log_file: Callable[[], Path]) -> CommandFactory:
    async def run(environ: dict[str, str], *arguments: str, within: float = 120) -> Finished:
        log = log_file()
        with anyio.fail_after(within):
            async with launch(environ, log, *arguments) as process:
                assert process.stdin is not None
                assert process.stdout is not None
                process.stdin.close()
                out = await process.stdout.read()
                code = await process.wait()
        return Finished(code, out.decode(), log.read_text())

    return run


@pytest.fixture(scope="module")
async def stack(anyio_backend: str) -> AsyncIterator[LocalStack]:
    """Postgres, the local Neon API and an empty control database."""
    async with local_stack() as stack:
        yield stack


@pytest.fixture(scope="module")
def tenant(stack: LocalStack) -> Callable[..., dict[str, str]]:
    """The environment of one workspace of one user."""

    def environ(user: str, workspace: str, **more: str) -> dict[str, str]:
        return stack.environ() | {"AGENTDB_USER_ID": user, "AGENTDB_WORKSPACE_ID": workspace} | more

    return environ


@pytest.fixture(scope="module")
async def agent(serve: ServeFactory, tenant: Callable[..., dict[str, str]]) -> AsyncIterator[Serve]:
    """One running agent with databases of its own, for tests that leave no trace."""
    async with serve(tenant("shared-user", "shared-workspace")) as server:
        yield server


@pytest.fixture(scope="module")
def projects(stack: LocalStack) -> Callable[[], Awaitable[list[str]]]:
    """The names of all projects, as Neon's API lists them."""

    async def names() -> list[str]:
        async with httpx.AsyncClient(
            headers={"Authorization": f"Bearer {stack.emulator.api_key}"}, timeout=60
        ) as client:
            answer = await client.get(f"{stack.emulator.base_url}/projects", params={"limit": 400})
        answer.raise_for_status()
        return sorted(project["name"] for project in answer.json()["projects"])

    return names


@pytest.fixture
def new_data_dir() -> Iterable[Path]:
    """A folder that does not exist yet, where an unprivileged account may go."""
    with tempfile.TemporaryDirectory(prefix="acceptance-") as folder:
        Path(folder).chmod(0o755)
        yield Path(folder) / "data"


@pytest.fixture(scope="session")
def left_of() -> Callable[[int], list[str]]:
    """The command lines of what still runs of the session that a process began."""

    def left(session: int) -> list[str]:
        found = []
        for process in psutil.process_iter():
            with contextlib.suppress(psutil.Error, ProcessLookupError):
                if os.getsid(process.pid) == session and process.status() != psutil.STATUS_ZOMBIE:
                    found.append(" ".join(process.cmdline()))
        return found

    return left


@pytest.fixture(scope="session")
def until() -> Callable[..., Awaitable[None]]:
    """Wait for a condition (plain or async) to become true."""

    async def wait(condition: Callable[[], Any], within: float = 30.0) -> None:
        with anyio.fail_after(within):
            while True:
                found = condition()
                if await found if hasattr(found, "__await__") else found:
                    return
                await anyio.sleep(0.02)

    return wait
