"""What the soak runs: Postgres that can be restarted, the local Neon API, servers, a worker; all on 127.0.0.1."""

from __future__ import annotations

import asyncio
import ctypes
import os
import secrets
import signal
import socket
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

import anyio
import httpx

from agentdb_mcp.embedded import EmbeddedPostgres, embedded_postgres
from agentdb_mcp.errors import AgentDBError
from agentdb_mcp.local_stack import CONTROL_DATABASE, LocalStack
from agentdb_mcp.models import Secret
from agentdb_mcp.neon_emulator import Behaviour, neon_emulator
from agentdb_mcp.store.control import create_database

FLUSH_S, IDLE_S = 2.0, 15
# Three servers' connections and all else within the embedded Postgres's 300.
POLICY = f"""
name = "soak"
[metering]
flush_s = {FLUSH_S}
[limits]
idle_s = {IDLE_S}
max_connections = 60
"""
START_S, END_S = 60, 60
PR_SET_PDEATHSIG = 1
OURS = ("AGENT", "GLOBAL_DB", "NEON", "ENCRYPTION", "PG", "PYTHON")


def now() -> datetime:
    return datetime.now(UTC)


@dataclass(eq=False, slots=True)
class Life:
    """One process of a server, or of the worker; `ended` is just before it was killed or asked to end."""

    name: str
    pid: int
    started: datetime
    ended: datetime | None = None
    killed: bool = False
    returncode: int | None = None


@dataclass(eq=False)
class Program:
    """A command of the product that can be killed and started again; `url` of one that serves."""

    name: str
    arguments: list[str]
    environ: dict[str, str] = field(repr=False)
    log: Path
    url: str | None = None
    lives: list[Life] = field(default_factory=list)
    _process: asyncio.subprocess.Process | None = None

    @property
    def life(self) -> Life:
        return self.lives[-1]

    async def start(self) -> None:
        inherited = {name: value for name, value in os.environ.items() if not name.startswith(OURS)}
        with self.log.open("ab") as log:
            self._process = await asyncio.create_subprocess_exec(
                *(sys.executable, "-m", "agentdb_mcp", *self.arguments),
                env=inherited | self.environ,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                preexec_fn=_die_with_us,
            )
        self.lives.append(Life(self.name, self._process.pid, now()))
        if self.url is not None:
            await self.until_ready()

    async def until_ready(self) -> None:
        """Raises TimeoutError, or RuntimeError where the process has ended."""
        assert self._process is not None
        async with httpx.AsyncClient(timeout=5, verify=False) as http:
            with anyio.fail_after(START_S):
                while True:
                    with suppress(httpx.HTTPError):
                        if (await http.get(f"{self.url}/readyz")).status_code == 200:
                            return
                    if self._process.returncode is not None:
                        raise RuntimeError(f"{self.name} ended with {self._process.returncode}; see {self.log}")
                    await anyio.sleep(0.1)

    @property
    def has_ended(self) -> bool:
        return self._process is None or self._process.returncode is not None

    async def kill(self) -> None:
        assert self._process is not None
        self.life.ended, self.life.killed = now(), True
        self._process.kill()
        self.life.returncode = await self._process.wait()

    async def end(self) -> None:
        """As a deployment would: SIGTERM, and SIGKILL for what does not listen."""
        process = self._process
        if process is None:
            return
        if process.returncode is None:
            self.life.ended = self.life.ended or now()
            with suppress(ProcessLookupError):
                process.terminate()
            with anyio.move_on_after(END_S):
                await process.wait()
        if process.returncode is None:
            with suppress(ProcessLookupError):
                process.kill()
            await process.wait()
        self.life.returncode = process.returncode


def _die_with_us() -> None:
    """In the child: not even our own SIGKILL leaves it behind (Linux)."""
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


class Cluster:
    """The embedded Postgres on a directory that stays, as durable as shipped."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.outages: list[tuple[str, datetime, datetime]] = []
        self._exits = AsyncExitStack()

    async def start(self) -> EmbeddedPostgres:
        """The backends of a server that was killed end a moment later: until then it does not start."""
        with anyio.fail_after(START_S):
            while True:
                try:
                    self.server = await self._exits.enter_async_context(embedded_postgres(self.folder))
                except AgentDBError:
                    await anyio.sleep(0.2)
                else:
                    return self.server

    async def restart(self, sign: signal.Signals) -> None:
        began = now()
        os.kill(self.server.pid, sign)
        await self.stop()
        await self.start()
        self.outages.append((sign.name, began, now()))

    async def stop(self) -> None:
        await self._exits.aclose()

    @property
    def log(self) -> Path:
        return self.folder / "postgres.log"


@dataclass
class House:
    cluster: Cluster
    stack: LocalStack
    control_url: str
    environ: dict[str, str] = field(repr=False)
    servers: list[Program]
    worker: Program
    folder: Path

    @property
    def programs(self) -> list[Program]:
        return [*self.servers, self.worker]

    @property
    def lives(self) -> list[Life]:
        return [life for program in self.programs for life in program.lives]

    def uri(self, database: str) -> str:
        return self.stack.postgres.uri(database).reveal()

    async def end(self) -> None:
        async with anyio.create_task_group() as group:
            for program in self.programs:
                group.start_soon(program.end)

    async def command(self, *arguments: str) -> tuple[int, str]:
        """Run a command of the product's to its end; its exit code and stdout."""
        inherited = {name: value for name, value in os.environ.items() if not name.startswith(OURS)}
        with (self.folder / "commands.log").open("ab") as log:
            done = await anyio.run_process(
                [sys.executable, "-m", "agentdb_mcp", *arguments], env=inherited | self.environ, check=False, stderr=log
            )
        return done.returncode, done.stdout.decode()


@asynccontextmanager
async def house(folder: Path, servers: int) -> AsyncIterator[House]:
    """Everything up and ready; whatever happens, every process is ended."""
    policy = _write_policy(folder)
    cluster = Cluster(folder / "cluster")
    try:
        postgres = await cluster.start()
        await create_database(postgres.uri(), CONTROL_DATABASE)
        behaviour = Behaviour(kept_after_delete_seconds=1)
        async with neon_emulator(postgres.uri().reveal(), control=True, behaviour=behaviour) as emulator:
            stack = LocalStack(postgres, emulator, *(Secret(secrets.token_hex(32)) for _ in range(2)))
            environ = stack.environ() | {"AGENTDB_POLICY": str(policy), "AGENTDB_LOG": "json,debug"}
            serving = [_server(number, environ, folder) for number in range(servers)]
            worker = Program("worker", ["worker"], environ, folder / "worker.log")
            built = House(cluster, stack, emulator.control_url or "", environ, serving, worker, folder)
            code, _ = await built.command("migrate")
            if code:
                raise RuntimeError(f"migrate ended with {code}; see {folder / 'commands.log'}")
            try:
                for program in built.programs:
                    await program.start()
                yield built
            finally:
                with anyio.CancelScope(shield=True):
                    await built.end()
    finally:
        with anyio.CancelScope(shield=True):
            await cluster.stop()


def _write_policy(folder: Path) -> Path:
    folder.chmod(0o711)  # Postgres's own account, if we are root, passes through
    policy = folder / "policy.toml"
    policy.write_text(POLICY)
    return policy


def _server(number: int, environ: dict[str, str], folder: Path) -> Program:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    arguments = ["serve", "--http", "--port", str(port)]
    name = f"server {number}"
    return Program(name, arguments, environ, folder / f"server-{number}.log", f"http://127.0.0.1:{port}")
