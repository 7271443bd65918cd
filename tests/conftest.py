"""One real Postgres a test process; databases of their own for tests that change things.

Helper modules of this folder are imported by their plain names.
"""

from __future__ import annotations

import functools
import os
import secrets
import shutil
import subprocess
import sys
import tempfile
import threading
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import asyncpg
import hypothesis
import pytest

from agentdb_mcp.embedded import EmbeddedPostgres, embedded_postgres, server
from agentdb_mcp.models import Secret

sys.path.insert(0, str(Path(__file__).parent))

from processes import ForkServer, Launch

# How long an example takes says something about the machine only.
hypothesis.settings.register_profile(
    "any machine", deadline=None, suppress_health_check=[hypothesis.HealthCheck.too_slow]
)
hypothesis.settings.load_profile("any machine")

MEMORY = Path("/dev/shm")


def pytest_configure() -> None:
    """Throw-away clusters in memory where there is room: creating a database there is twenty times as fast."""
    if not os.environ.get("TMPDIR") and _has_room(MEMORY):
        os.environ["TMPDIR"] = tempfile.tempdir = str(MEMORY)


@pytest.fixture(scope="session")
def forked() -> Iterator[Launch]:
    """Runs the command line, or a program, in a process that need not import the product first."""
    server = ForkServer()
    yield server.forked
    server.close()


@pytest.fixture(scope="session", autouse=True)
def initialized_once() -> Iterator[None]:
    """Throw-away clusters of this process begin as copies of the first: initdb takes longer than most tests of one."""
    copying, initialize = threading.Lock(), server._initialize
    made: dict[Path, tuple[Path, Secret]] = {}

    @functools.wraps(initialize)
    def copy(launch: server._Launch) -> Secret:
        if launch.durable:
            return initialize(launch)
        with copying:
            if launch.binaries not in made:
                template = templates / str(len(made))
                password = initialize(launch)
                subprocess.run(["cp", "-a", launch.pgdata, template], check=True)
                made[launch.binaries] = template, password
            else:
                template, password = made[launch.binaries]
                subprocess.run(["cp", "-a", template, launch.pgdata], check=True)
            return password

    with tempfile.TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patch:
        templates = Path(folder)
        patch.setattr(server, "_initialize", copy)
        yield


def _has_room(folder: Path) -> bool:
    if not folder.is_dir() or not os.access(folder, os.W_OK) or os.statvfs(folder).f_flag & os.ST_NOEXEC:
        return False
    return shutil.disk_usage(folder).free > 8 * 1024**3


@pytest.fixture(scope="session")
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture(scope="session")
async def postgres(anyio_backend: str) -> AsyncIterator[EmbeddedPostgres]:
    async with embedded_postgres() as server:
        yield server


@pytest.fixture
async def superuser(postgres: EmbeddedPostgres) -> AsyncIterator[asyncpg.Connection]:
    connection = await asyncpg.connect(postgres.uri().reveal())
    yield connection
    await connection.close()


@pytest.fixture
async def empty_database(postgres: EmbeddedPostgres, superuser: asyncpg.Connection) -> AsyncIterator[Secret]:
    """The superuser's URI of a database that nothing has touched."""
    name = f"test_{secrets.token_hex(6)}"
    await superuser.execute(f"CREATE DATABASE {name}")
    yield postgres.uri(name)
    await superuser.execute(f"DROP DATABASE {name} WITH (FORCE)")


@pytest.fixture
async def project_uri(postgres: EmbeddedPostgres, superuser: asyncpg.Connection) -> AsyncIterator[Secret]:
    """The URI of an admin who owns a database, with what Neon gives such a role and no more."""
    name = f"project_{secrets.token_hex(6)}"
    password = secrets.token_urlsafe(18)
    await superuser.execute(f"CREATE ROLE {name} LOGIN CREATEROLE CREATEDB BYPASSRLS PASSWORD '{password}'")
    await superuser.execute(f"GRANT pg_signal_backend, pg_monitor TO {name}")
    await superuser.execute(f"CREATE DATABASE {name} OWNER {name}")
    yield Secret(f"postgresql://{name}:{password}@127.0.0.1:{postgres.port}/{name}")
    await superuser.execute(f"DROP DATABASE {name} WITH (FORCE)")
