"""Hundreds of MCP sessions at once against one `serve --http --sessions` process: every answer is checked.

`make bench-http` opens 500 sessions of twenty-five users on the local stack, lists the tools once in each and calls
`execute_sql` twenty times, all sessions at the same time. It prints calls, errors, latencies as a client sees them, and
the serving process's memory, with Postgres and the local Neon API in another.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import anyio
import httpx
import psutil

from agentdb_mcp.local_stack import local_stack

MEGABYTE = 1_000_000
# As many databases as a server keeps connections to, four each.
SESSIONS_A_USER = 20
HEADERS = {"accept": "application/json, text/event-stream", "content-type": "application/json"}
HELLO = {
    "protocolVersion": "2025-11-25",
    "capabilities": {},
    "clientInfo": {"name": "bench", "version": "1"},
}


@dataclass
class Figures:
    calls: int = 0
    seconds: list[float] = field(default_factory=list)
    errors: Counter[str] = field(default_factory=Counter)

    def note(self, started: float, problem: str | None) -> None:
        self.calls += 1
        self.seconds.append(time.perf_counter() - started)
        if problem is not None:
            self.errors[problem] += 1


@dataclass
class Session:
    """One MCP session over HTTP, as plain requests: a client of the SDK would be most of what is measured."""

    http: httpx.AsyncClient
    token: str
    number: int = 0
    identifier: str | None = None

    async def ask(self, method: str, params: object = None) -> dict[str, object]:
        self.number += 1
        message = {"jsonrpc": "2.0", "id": self.number, "method": method, "params": params or {}}
        response = await self._post(message)
        response.raise_for_status()
        self.identifier = response.headers.get("mcp-session-id", self.identifier)
        answer: dict[str, object] = response.json()["result"]
        return answer

    async def greet(self) -> None:
        await self.ask("initialize", HELLO)
        (await self._post({"jsonrpc": "2.0", "method": "notifications/initialized"})).raise_for_status()

    async def _post(self, message: object) -> httpx.Response:
        headers = HEADERS | {"authorization": f"Bearer {self.token}", "mcp-protocol-version": "2025-11-25"}
        if self.identifier is not None:
            headers["mcp-session-id"] = self.identifier
        return await self.http.post("/mcp/agent", content=json.dumps(message), headers=headers)


@asynccontextmanager
async def server(environ: dict[str, str]) -> AsyncIterator[tuple[str, psutil.Process]]:
    """A process of its own, and its base URL."""
    log = Path(tempfile.mkdtemp()) / "stderr"
    with log.open("wb") as stderr:
        arguments = [sys.executable, "-m", "agentdb_mcp", "serve", "--http", "--port", "0", "--sessions"]
        process = await anyio.open_process(
            arguments, stderr=stderr, stdout=subprocess.DEVNULL, env=dict(os.environ) | environ
        )
        try:
            with anyio.fail_after(30):
                while "serving at " not in log.read_text():
                    await anyio.sleep(0.05)
            yield log.read_text().partition("serving at ")[2].split()[0], psutil.Process(process.pid)
        finally:
            process.terminate()
            await process.wait()


async def register(url: str, key: str, users: int) -> list[str]:
    """Users with a workspace each, and a token for it."""
    tokens: list[str] = []
    async with httpx.AsyncClient(base_url=url, headers={"x-internal-api-key": key}, timeout=120) as backend:
        for number in range(users):
            user, workspace = f"user-{number}", f"workspace-{number}"
            (await backend.post("/api/users", json={"user_id": user})).raise_for_status()
            body = {"workspace_id": workspace, "user_id": user}
            (await backend.post("/api/workspaces", json=body)).raise_for_status()
            issued = await backend.post("/api/tokens", json=body | {"scopes": ["mcp"], "expires_in": 3600})
            issued.raise_for_status()
            tokens.append(issued.json()["token"])
    return tokens


async def live(session: Session, calls: int, figures: Figures, everybody: anyio.Event) -> None:
    await everybody.wait()
    for number in range(calls):
        started = time.perf_counter()
        try:
            arguments = {"sql": "SELECT $1::int + 1 AS next", "params": [number]}
            answer = await session.ask("tools/call", {"name": "execute_sql", "arguments": arguments})
            content = answer.get("structuredContent")
            right = isinstance(content, dict) and content.get("rows") == [[number + 1]]
            figures.note(started, None if right else str(content)[:120])
        except (httpx.HTTPError, KeyError) as error:
            figures.note(started, f"{type(error).__name__}: {error}"[:120])


async def main(sessions: int, calls: int) -> int:
    async with (
        local_stack() as stack,
        server(stack.environ() | {"AGENTDB_LOG": "text,warning"}) as (url, process),
    ):
        tokens = await register(url, stack.service_key.reveal(), max(1, sessions // SESSIONS_A_USER))
        figures, everybody = Figures(), anyio.Event()
        async with AsyncExitStack() as clients:
            opened: list[Session] = []
            for number in range(sessions):
                # One client for all would look through its hundreds of connections at every request.
                http = await clients.enter_async_context(httpx.AsyncClient(base_url=url, timeout=120, verify=False))
                session = Session(http, tokens[number % len(tokens)])
                opened.append(session)
                await session.greet()
                tools = (await session.ask("tools/list"))["tools"]
                assert isinstance(tools, list)
                assert tools
            before = process.memory_info().rss
            async with anyio.create_task_group() as group:
                for session in opened:
                    group.start_soon(live, session, calls, figures, everybody)
                started = time.perf_counter()
                everybody.set()
            seconds = time.perf_counter() - started
            after = process.memory_info().rss
        quantiles = statistics.quantiles(figures.seconds, n=100)
        print(f"{len({session.identifier for session in opened})} sessions of {len(tokens)} users at once")
        print(f"{figures.calls} calls in {seconds:.1f} s: {figures.calls / seconds:.0f} a second")
        print(f"latency p50 {quantiles[49] * 1000:.0f} ms, p99 {quantiles[98] * 1000:.0f} ms")
        print(f"memory {before / MEGABYTE:.0f} MB before, {after / MEGABYTE:.0f} MB after")
        print(f"errors {sum(figures.errors.values())} {dict(figures.errors) or ''}")
    return 1 if figures.errors else 0


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sessions", type=int, default=500)
    parser.add_argument("--calls", type=int, default=20)
    given = parser.parse_args()
    sys.exit(anyio.run(main, given.sessions, given.calls))
