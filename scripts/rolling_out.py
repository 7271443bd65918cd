"""What `upgrade_check` runs: servers and workers of two versions, clients before them, the steps of a roll-out."""

from __future__ import annotations

import asyncio
import itertools
import socket
import subprocess
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import anyio
import asyncpg
from benchmarks.soak.client import Answer, Client, Ears
from benchmarks.soak.house import Life, Program, now
from scripts.release_check import WrongError, run

from agentdb_mcp.local_stack import LocalStack

# Seconds between two calls of one client, and acknowledged writes of each client that every stage lasts for.
PAUSE_S, STAGE = 0.2, 15
SLOW_S = 2
WITHIN_S = 60.0
METERED = "SELECT count(DISTINCT split_part(source, ' ', 1)) FROM db_usage_ledger WHERE source <> 'provider'"
RUNNING = "SELECT count(*) FROM pg_stat_activity WHERE state = 'active' AND query LIKE 'INSERT%pg_sleep%'"


@dataclass(eq=False, kw_only=True)
class Installed(Program):
    """A command of one of the two versions."""

    programs: Path

    async def start(self) -> None:
        with self.log.open("ab") as log:
            self._process = await asyncio.create_subprocess_exec(
                *(self.programs / "agentdb-mcp", *self.arguments),
                env=self.environ,
                cwd=self.log.parent,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )
        self.lives.append(Life(self.name, self._process.pid, now()))
        if self.url is not None:
            await self.until_ready()

    async def end(self) -> None:
        await super().end()
        if self.lives and self.life.returncode != 0:
            raise WrongError(f"{self.name} ended with {self.life.returncode} after SIGTERM; see {self.log}")


@dataclass(frozen=True)
class Version:
    """One of the two, with the settings of both."""

    name: str
    programs: Path
    environ: dict[str, str] = field(repr=False)
    folder: Path

    def program(self, kind: str, *arguments: str, url: str | None = None) -> Installed:
        log = self.folder / f"{self.name}-{kind}.log"
        return Installed(f"{self.name} {kind}", list(arguments), self.environ, log, url, programs=self.programs)

    def server(self, number: int) -> Installed:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        url = f"http://127.0.0.1:{port}"
        return self.program(f"server-{number}", "serve", "--http", "--port", str(port), url=url)

    async def command(self, *arguments: str) -> str:
        """Run a command to its end, which must succeed; what it says."""
        command = [self.programs / "agentdb-mcp", *arguments]
        return await anyio.to_thread.run_sync(lambda: run(command, self.folder, self.environ))


@dataclass
class Agent:
    """A client that writes rows of rising numbers, and what was acknowledged."""

    user: str
    workspace: str
    token: str = field(repr=False)
    client: Client
    numbers: itertools.count[int] = field(default_factory=lambda: itertools.count(1))
    acknowledged: list[int] = field(default_factory=list)
    calls: int = 0

    async def must(self, tool: str, arguments: dict[str, Any], client: Client | None = None) -> Answer:
        answer = await (client or self.client).tool(tool, arguments)
        if not answer.ok:
            raise WrongError(f"{tool} of {self.user} failed: {answer.code}: {answer.said[:500]}")
        self.calls += tool.startswith("execute_")
        return answer

    async def write(self) -> None:
        sql, numbers = "INSERT INTO kept VALUES ($1)", [next(self.numbers)]
        if numbers[0] % 3:
            await self.must("execute_sql", {"sql": sql, "params": numbers})
        else:
            numbers.append(next(self.numbers))
            statements = [{"sql": sql, "params": [number]} for number in numbers]
            await self.must("execute_transaction", {"statements": statements})
        self.acknowledged += numbers

    async def write_slowly(self, client: Client) -> None:
        number = next(self.numbers)
        sql = f"INSERT INTO kept SELECT $1::bigint FROM pg_sleep({SLOW_S})"
        await self.must("execute_sql", {"sql": sql, "params": [number]}, client)
        self.acknowledged.append(number)

    async def read(self) -> set[int]:
        """Whichever server answers, all that was acknowledged before is there; what is there."""
        before = set(self.acknowledged)
        answer = await self.must("execute_sql", {"sql": "SELECT array_agg(n) FROM kept"})
        found = set(answer.body["rows"][0][0])
        if lost := before - found:
            raise WrongError(f"{len(lost)} acknowledged writes of {self.user} are lost: {sorted(lost)[:10]}")
        await self.must("get_budget", {})
        return found

    async def live(self, over: anyio.Event) -> None:
        for turn in itertools.count():
            if over.is_set():
                return
            await self.write()
            if turn % 5 == 0:
                await self.read()
            await anyio.sleep(PAUSE_S)


@dataclass
class RollOut:
    """What runs, and who calls: `rotation` is what a balancer has."""

    stack: LocalStack
    old: Version
    new: Version
    exits: AsyncExitStack
    ears: Ears
    rotation: list[Program] = field(default_factory=list)
    turns: itertools.count[int] = field(default_factory=itertools.count)
    agents: list[Agent] = field(default_factory=list)
    running: list[Installed] = field(default_factory=list)

    async def client(self, bearer: str, servers: list[Program] | None = None) -> Client:
        given = self.rotation if servers is None else servers
        return await self.exits.enter_async_context(Client(given, self.turns, self.ears, bearer))

    async def start(self, made: Installed) -> Installed:
        self.exits.push_async_callback(Program.end, made)
        await made.start()
        self.running.append(made)
        return made

    async def backend(self, server: Program | None = None) -> Client:
        return await self.client(self.stack.service_key.reveal(), None if server is None else [server])

    async def rest(self, backend: Client, method: str, path: str, body: dict[str, Any] | None = None) -> dict[str, Any]:
        answer = await backend.rest(method, path, body, secret=True)
        if not answer.ok:
            raise WrongError(f"{method} {path} failed: {answer.code}: {answer.said[:500]}")
        found: dict[str, Any] = answer.body
        return found

    async def register(self, server: Program) -> Agent:
        """A user and a workspace with a table, all made at that server."""
        number = len(self.agents)
        user, workspace, backend = f"user-{number}", f"workspace-{number}", await self.backend(server)
        await self.rest(backend, "POST", "/api/users", {"user_id": user})
        await self.rest(backend, "POST", "/api/workspaces", {"workspace_id": workspace, "user_id": user})
        body = {"user_id": user, "workspace_id": workspace, "scopes": ["mcp"]}
        token = await self.rest(backend, "POST", "/api/tokens", body)
        agent = Agent(user, workspace, token["token"], await self.client(token["token"]))
        await agent.must("execute_sql", {"sql": "CREATE TABLE kept (n bigint PRIMARY KEY)"})
        self.agents.append(agent)
        return agent

    async def check_revoked(self, made_at: Program, revoked_at: Program) -> None:
        """A token of one version works at the other, and ends at both when the other ends it."""
        user, workspace = self.agents[0].user, self.agents[0].workspace
        body = {"user_id": user, "workspace_id": workspace, "scopes": ["mcp"]}
        token = await self.rest(await self.backend(made_at), "POST", "/api/tokens", body)
        clients = [await self.client(token["token"], [server]) for server in (made_at, revoked_at)]
        for client in clients:
            await self.agents[0].must("get_budget", {}, client)
        await self.rest(await self.backend(revoked_at), "DELETE", f"/api/tokens/{token['id']}")
        for client in clients:
            await until("the revoked token is refused", partial(refused, client))

    async def go_on(self) -> None:
        """Until every client wrote so much more."""
        wanted = {agent.user: len(agent.acknowledged) + STAGE for agent in self.agents}

        async def wrote() -> bool:
            return all(len(agent.acknowledged) >= wanted[agent.user] for agent in self.agents)

        await until("clients go on", wrote)

    async def replace(self, old: Installed) -> None:
        """Out of the rotation, then SIGTERM while calls run there."""
        self.rotation.remove(old)
        clients = [await self.client(agent.token, [old]) for agent in self.agents]
        async with self.control() as control, anyio.create_task_group() as group:
            for agent, client in zip(self.agents, clients, strict=True):
                group.start_soon(agent.write_slowly, client)

            async def all_running() -> bool:
                return int(await control.fetchval(RUNNING)) >= len(self.agents)

            await until("slow statements run at the old server", all_running)
            await old.end()

    @asynccontextmanager
    async def control(self) -> AsyncIterator[asyncpg.Connection]:
        connection = await asyncpg.connect(self.stack.environ()["AGENTDB_CONTROL_URL"])
        try:
            yield connection
        finally:
            await connection.close()

    async def until_metered_by(self, processes: int) -> None:
        async with self.control() as control:

            async def metered() -> bool:
                return int(await control.fetchval(METERED)) == processes

            await until(f"the ledger names {processes} servers", metered)


async def until(what: str, condition: Callable[[], Awaitable[bool]]) -> None:
    with anyio.move_on_after(WITHIN_S):
        while not await condition():
            await anyio.sleep(0.05)
        return
    raise WrongError(f"not within {WITHIN_S:.0f} s: {what}")


async def refused(client: Client) -> bool:
    return (await client.tool("get_budget", {})).code == "not_authenticated"
