"""A roll-out as docs/deploying.md has it, from an earlier version to this one: `make upgrade-check FROM=<git ref>`.

Both versions are built and installed into environments of their own. Beside clients that write all the while, the new
one migrates the control database, an old server is started again on it, new servers join, and the old ones are ended
one after the other. No acknowledged write may be lost and no call may fail. The first thing that is wrong ends it.
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import socket
import subprocess
import sys
import tarfile
import tempfile
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
from scripts.release_check import ROOT, WrongError, build, install, outside, program, run, step

from agentdb_mcp.local_stack import LocalStack, local_stack

POLICY = 'name = "upgrade"\n[metering]\nflush_s = 1.0\n'
TENANTS = 4
# Seconds between two calls of one client, and acknowledged writes of each client that every stage lasts for.
PAUSE_S, STAGE = 0.05, 15
SLOW_S = 2
WITHIN_S = 60.0
SOURCES = "SELECT DISTINCT split_part(source, ' ', 1) FROM db_usage_ledger WHERE source <> 'provider'"
AUDITED = """
    SELECT count(*) FILTER (WHERE tool IN ('execute_sql', 'execute_transaction') AND decision = 'allowed')
      FROM db_audit_log WHERE user_id = $1
"""


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

    async def read(self) -> None:
        """Whichever server answers, all that was acknowledged before is there."""
        before = sorted(self.acknowledged)
        arguments = {"sql": "SELECT array_agg(n ORDER BY n) FROM kept WHERE n <= $1", "params": [before[-1]]}
        found = (await self.must("execute_sql", arguments)).body["rows"][0][0]
        if lost := set(before) - set(found):
            raise WrongError(f"{len(lost)} acknowledged writes of {self.user} are lost: {sorted(lost)[:10]}")
        if extra := set(found) - set(self.acknowledged):
            raise WrongError(f"rows of {self.user} that were not acknowledged are there: {sorted(extra)[:10]}")
        await self.must("get_budget", {})

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
        running = "SELECT count(*) FROM pg_stat_activity WHERE state = 'active' AND query LIKE 'INSERT%pg_sleep%'"
        clients = [await self.client(agent.token, [old]) for agent in self.agents]
        async with self.control() as control, anyio.create_task_group() as group:
            for agent, client in zip(self.agents, clients, strict=True):
                group.start_soon(agent.write_slowly, client)

            async def all_running() -> bool:
                return int(await control.fetchval(running)) >= len(self.agents)

            await until("slow statements run at the old server", all_running)
            await old.end()

    @asynccontextmanager
    async def control(self) -> AsyncIterator[asyncpg.Connection]:
        connection = await asyncpg.connect(self.stack.environ()["AGENTDB_CONTROL_URL"])
        try:
            yield connection
        finally:
            await connection.close()

    async def sources(self) -> set[str]:
        """The processes that metered."""
        async with self.control() as control:
            return {row[0] for row in await control.fetch(SOURCES)}


async def until(what: str, condition: Callable[[], Awaitable[bool]]) -> None:
    with anyio.move_on_after(WITHIN_S):
        while not await condition():
            await anyio.sleep(0.05)
        return
    raise WrongError(f"not within {WITHIN_S:.0f} s: {what}")


async def refused(client: Client) -> bool:
    return (await client.tool("get_budget", {})).code == "not_authenticated"


async def roll_out(it: RollOut) -> None:
    """The steps of docs/deploying.md, under load."""
    with step("the old version serves: two servers and a worker, users, workspaces, tokens"):
        await it.old.command("migrate")
        first, second = [await it.start(it.old.server(number)) for number in range(2)]
        old_worker = await it.start(it.old.program("worker", "worker"))
        it.rotation += [first, second]
        for number in range(TENANTS):
            await it.register((first, second)[number % 2])
    over = anyio.Event()
    async with anyio.create_task_group() as load:
        for agent in it.agents:
            load.start_soon(agent.live, over)
        await it.go_on()
        before = await it.sources()
        with step("the new version migrates the control database"):
            print(f"      {(await it.new.command('migrate')).strip()}")
            await it.go_on()
        with step("an old server that is started again serves on it"):
            await it.replace(second)
            await second.start()
            it.rotation.append(second)
            await it.go_on()
        with step("new servers join; each version registers users, and takes and ends the other's tokens"):
            third, fourth = [await it.start(it.new.server(number)) for number in range(2)]
            it.rotation += [third, fourth]
            for server in (second, third):
                load.start_soon((await it.register(server)).live, over)
            await it.check_revoked(first, third)
            await it.check_revoked(fourth, second)
            await it.go_on()
        with step("the old servers are ended while statements run there, the worker is replaced"):
            await it.replace(first)
            await it.replace(second)
            await it.start(it.new.program("worker", "worker"))
            await old_worker.end()
            await it.go_on()
        over.set()
    await check(it, before)


async def check(it: RollOut, before: set[str]) -> None:
    """What is left of it, as the new version sees it."""
    written = sum(len(agent.acknowledged) for agent in it.agents)
    with step(f"all {written} acknowledged writes of {len(it.agents)} tenants are there, and no others"):
        for agent in it.agents:
            await agent.read()
    with step("each call is in the audit log once, and `audit verify` finds the chains whole"):
        await check_audited(it)
        print(f"      {(await it.new.command('audit', 'verify')).strip()}")
    with step("`doctor` finds nothing wrong"):
        await it.new.command("doctor")
    with step("what clients used is metered of old servers and of new ones"):
        if not before:
            raise WrongError("the ledger had nothing of the old servers")
        if not await it.sources() - before:
            raise WrongError("the ledger has nothing of the new servers")
        backend = await it.backend()
        await it.rest(backend, "POST", "/api/sync")
        for agent in it.agents:
            usage = await it.rest(backend, "GET", f"/api/users/{agent.user}/usage")
            if len(usage["breakdown"]) != 2 or usage["budget"]["state"] != "ok":
                raise WrongError(f"the usage of {agent.user} is {usage}")
    with step("all of it ends with 0"):
        for running in it.running:
            await running.end()
    if told := [log.name for log in it.new.folder.glob("*.log") if "Traceback" in log.read_text()]:
        raise WrongError(f"there are tracebacks in {', '.join(told)} of {it.new.folder}")


async def check_audited(it: RollOut) -> None:
    async with it.control() as control:
        for agent in it.agents:

            async def audited(agent: Agent = agent) -> bool:
                return int(await control.fetchval(AUDITED, agent.user)) == agent.calls

            await until(f"{agent.calls} calls of {agent.user} are in the audit log", audited)


def tree_of(ref: str, folder: Path) -> Path:
    """The repository as it was."""
    tree, archive = folder / "tree", folder / "tree.tar"
    run(["git", "archive", "--output", archive, ref])
    with tarfile.open(archive) as files:
        files.extractall(tree, filter="data")
    return tree


def installed(name: str, uv: str, tree: Path, folder: Path) -> Path:
    with step(f"the {name} version is built and installed"):
        wheel, _ = build(uv, folder / "built", tree)
        return install(uv, wheel, folder, tree)


async def upgrade(programs: dict[str, Path], folder: Path) -> None:
    policy, told = folder / "policy.toml", folder / "logs"
    policy.write_text(POLICY)
    told.mkdir()
    async with local_stack() as stack, AsyncExitStack() as exits:
        environ = outside(told) | stack.environ() | {"AGENTDB_POLICY": str(policy), "AGENTDB_LOG": "json,info"}
        old, new = (Version(name, programs[name], environ, told) for name in ("old", "new"))
        ears = Ears(folder / "answers.txt")
        exits.callback(ears.close)
        await roll_out(RollOut(stack, old, new, exits, ears))


def why(error: BaseException) -> list[str]:
    if isinstance(error, BaseExceptionGroup):
        return [line for each in error.exceptions for line in why(each)]
    return [str(error) or type(error).__name__]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--uv", type=program, default="uv")
    parser.add_argument("--from", dest="ref", required=True, help="a git ref: the version that is replaced")
    parser.add_argument("--keep", type=Path, help="a new folder for logs and both environments, kept afterwards")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="agentdb-upgrade-") as name:
        folder = Path(name) if given.keep is None else given.keep.absolute()
        folders = {each: folder / each for each in ("old", "new")}
        try:
            for each in folders.values():
                each.mkdir(parents=True)
            trees = {"old": tree_of(given.ref, folders["old"]), "new": ROOT}
            programs = {name: installed(name, given.uv, trees[name], folders[name]) for name in folders}
            anyio.run(upgrade, programs, folder)
        except* (WrongError, OSError, RuntimeError, subprocess.TimeoutExpired) as errors:
            sys.exit("\n".join([f"NOT to be upgraded from {given.ref}:", *why(errors)]))
    print(f"To be upgraded from {given.ref}, as far as this looks.")


if __name__ == "__main__":
    main()
