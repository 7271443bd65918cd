"""The embedded Postgres: closed to everybody else, gone with its parent, and the same again on its directory."""

from __future__ import annotations

import contextlib
import inspect
import os
import pwd
import re
import secrets
import shutil
import signal
import stat
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import anyio
import asyncpg
import psutil
import pytest
from anyio.streams.buffered import BufferedByteReceiveStream

from agentdb_mcp.embedded import EmbeddedPostgres, embedded_postgres, server
from agentdb_mcp.errors import ConfigurationError

IS_ROOT = os.geteuid() == 0
as_root = pytest.mark.skipif(not IS_ROOT, reason="only root has another account run Postgres")
as_plain_user = pytest.mark.skipif(IS_ROOT, reason="root may write everywhere")
on_linux = pytest.mark.skipif(sys.platform != "linux", reason="the parent's death is noticed on Linux only")


@pytest.fixture(autouse=True)
def initialized_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server, "_initialize", inspect.unwrap(server._initialize))


# Runs Postgres on the directory of argv, says where, and stays until it is killed.
HOLD = """
import sys
from pathlib import Path
import anyio
from agentdb_mcp.embedded import embedded_postgres

async def main():
    async with embedded_postgres(Path(sys.argv[1])) as server:
        print(server.pid, server.uri().reveal(), flush=True)
        await anyio.sleep_forever()

anyio.run(main)
"""

# Runs Postgres once and says as whom; the directory is the account's own.
ONCE = """
import os, sys
from pathlib import Path
import anyio
import psutil
from agentdb_mcp.embedded import embedded_postgres

async def main():
    async with embedded_postgres(Path(sys.argv[1])) as server:
        print(os.geteuid(), psutil.Process(server.pid).uids().real)

anyio.run(main)
"""


@pytest.fixture
def home() -> Iterator[Path]:
    """A folder that any account can look into; a test's own private folder is closed to all but its user."""
    folder = Path(tempfile.mkdtemp(prefix="agentdb-test-"))
    folder.chmod(0o755)
    yield folder
    shutil.rmtree(folder)


async def ask(server: EmbeddedPostgres, sql: str) -> object:
    connection = await asyncpg.connect(server.uri().reveal())
    try:
        return await connection.fetchval(sql)
    finally:
        await connection.close()


async def gone(pids: list[int]) -> bool:
    """Whether the processes end; a zombie has ended."""
    with anyio.move_on_after(60):
        while True:
            running = [pid for pid in pids if psutil.pid_exists(pid) and not is_zombie(pid)]
            if not running:
                return True
            await anyio.sleep(0.02)
    return False


def is_zombie(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


def family(pid: int) -> list[int]:
    process = psutil.Process(pid)
    return [pid, *(child.pid for child in process.children(recursive=True))]


async def test_it_listens_on_the_loopback_address_alone_and_on_no_unix_socket(postgres: EmbeddedPostgres) -> None:
    process = psutil.Process(postgres.pid)
    listening = {connection.laddr for connection in process.net_connections("inet") if connection.status == "LISTEN"}
    assert listening == {("127.0.0.1", postgres.port)}
    assert [socket.laddr for socket in process.net_connections("unix") if "PGSQL" in str(socket.laddr)] == []
    assert not (Path(tempfile.gettempdir()) / f".s.PGSQL.{postgres.port}").exists()


@pytest.mark.parametrize("password", [None, "", "wrong"])
async def test_nobody_gets_in_without_the_password(
    postgres: EmbeddedPostgres, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, password: str | None
) -> None:
    monkeypatch.delenv("PGPASSWORD", raising=False)
    no_passwords = tmp_path / "pgpass"
    no_passwords.touch(mode=0o600)
    with pytest.raises((asyncpg.InvalidPasswordError, asyncpg.InvalidAuthorizationSpecificationError)):
        await asyncpg.connect(
            host="127.0.0.1",
            port=postgres.port,
            user="postgres",
            database="postgres",
            password=password,
            passfile=no_passwords,
        )


async def test_every_login_is_by_scram(superuser: asyncpg.Connection) -> None:
    rows = await superuser.fetch("SELECT type, auth_method FROM pg_hba_file_rules")
    assert {row["auth_method"] for row in rows} == {"scram-sha-256"}
    assert await superuser.fetchval("SHOW password_encryption") == "scram-sha-256"
    verifiers = await superuser.fetch("SELECT rolpassword FROM pg_authid WHERE rolpassword IS NOT NULL")
    assert all(row["rolpassword"].startswith("SCRAM-SHA-256$") for row in verifiers)


async def test_statement_statistics_are_preloaded_and_two_phase_commit_is_off(superuser: asyncpg.Connection) -> None:
    assert "pg_stat_statements" in await superuser.fetchval("SHOW shared_preload_libraries")
    assert await superuser.fetchval("SHOW max_prepared_transactions") == "0"
    assert await superuser.fetchval("SHOW server_encoding") == "UTF8"


async def test_the_password_is_in_no_command_line_and_no_repr(postgres: EmbeddedPostgres) -> None:
    password = postgres.password.reveal()
    assert len(password) >= 20
    assert password not in repr(postgres)
    for pid in family(postgres.pid):
        with contextlib.suppress(psutil.NoSuchProcess):  # a backend that ended meanwhile
            process = psutil.Process(pid)
            assert password not in " ".join([*process.cmdline(), *process.environ().values()])


async def test_two_run_side_by_side_and_know_nothing_of_each_other() -> None:
    async with embedded_postgres() as one, embedded_postgres() as other:
        assert one.port != other.port
        assert one.password != other.password
        await ask(one, "CREATE TABLE mine ()")
        assert await ask(other, "SELECT to_regclass('mine')") is None
        crossed = one.uri().reveal().replace(str(one.port), str(other.port))
        with pytest.raises(asyncpg.InvalidPasswordError):
            await asyncpg.connect(crossed)


async def test_a_throw_away_server_leaves_neither_process_nor_directory() -> None:
    async with embedded_postgres() as server:
        pids = family(server.pid)
        directory = Path(str(await ask(server, "SHOW data_directory"))).parent
        assert directory.exists()
    assert await gone(pids)
    assert not directory.exists()


async def test_it_stops_with_the_block_when_something_fails_in_it() -> None:
    pids: list[int] = []

    async def fail() -> None:
        async with embedded_postgres() as server:
            pids.extend(family(server.pid))
            raise RuntimeError("in the block")

    with pytest.raises(RuntimeError, match="in the block"):
        await fail()
    assert await gone(pids)


async def test_it_stops_with_the_block_when_that_is_cancelled_even_with_clients_connected() -> None:
    pids: list[int] = []
    connections: list[asyncpg.Connection] = []
    with anyio.CancelScope() as scope:
        async with embedded_postgres() as server:
            connections.append(await asyncpg.connect(server.uri().reveal()))
            pids += family(server.pid)
            scope.cancel()
            await anyio.sleep_forever()
    assert not psutil.pid_exists(pids[0])
    assert await gone(pids)
    connections[0].terminate()


@pytest.mark.parametrize("delay", [0.05, 0.6])
async def test_cancelling_while_it_starts_leaves_nothing_running(home: Path, delay: float) -> None:
    with anyio.move_on_after(delay):
        async with embedded_postgres(home / "data"):
            await anyio.sleep_forever()
    assert [process for process in psutil.process_iter(["cmdline"]) if uses(process, home)] == []
    async with embedded_postgres(home / "data") as server:
        assert await ask(server, "SELECT 1") == 1


def uses(process: psutil.Process, folder: Path) -> bool:
    return str(folder) in " ".join(process.info["cmdline"] or [])


async def test_a_directory_is_found_again_with_its_data_its_port_and_its_password(home: Path) -> None:
    async with embedded_postgres(home / "data") as first:
        await ask(first, "CREATE TABLE kept AS SELECT 7 AS n")
    async with embedded_postgres(home / "data") as second:
        assert (second.port, second.password) == (first.port, first.password)
        assert await ask(second, "SELECT n FROM kept") == 7


async def test_a_directory_may_have_any_name(home: Path) -> None:
    async with embedded_postgres(home / "with blanks; ünï 'quote' \"$HOME\" -c" / "data") as server:
        assert await ask(server, "SELECT 1") == 1


async def test_a_directory_in_use_is_refused_clearly_and_its_server_goes_on(home: Path) -> None:
    async with embedded_postgres(home / "data") as first:
        with pytest.raises(ConfigurationError, match=f"Port {first.port}") as refused:
            async with embedded_postgres(home / "data"):
                pytest.fail("started twice")
        assert "--data-dir" in (refused.value.hint or "")
        assert await ask(first, "SELECT 1") == 1


async def test_what_a_killed_server_had_committed_is_still_there(home: Path) -> None:
    async with embedded_postgres(home / "data") as first:
        await ask(first, "CREATE TABLE kept AS SELECT 7 AS n")
        pids = family(first.pid)
        os.kill(first.pid, signal.SIGKILL)
        assert await gone(pids)
    async with embedded_postgres(home / "data") as second:
        assert await ask(second, "SELECT n FROM kept") == 7


@on_linux
async def test_when_its_parent_is_killed_it_ends_and_the_directory_can_be_used_again(home: Path) -> None:
    command = [sys.executable, "-c", HOLD, str(home / "data")]
    async with await anyio.open_process(command) as parent:
        assert parent.stdout is not None
        line = await BufferedByteReceiveStream(parent.stdout).receive_until(b"\n", 1000)
        pid, uri = line.decode().split()
        connection = await asyncpg.connect(uri)
        await connection.execute("CREATE TABLE kept AS SELECT 7 AS n")
        pids = family(int(pid))
        parent.kill()
        await parent.wait()
    assert await gone(pids)
    connection.terminate()
    async with embedded_postgres(home / "data") as server:
        assert uri == server.uri().reveal()
        assert await ask(server, "SELECT n FROM kept") == 7


async def test_what_an_interrupted_first_start_left_is_replaced(home: Path) -> None:
    (home / "data" / "pgdata" / "base").mkdir(parents=True)
    (home / "data" / "superuser").write_text("half")
    if IS_ROOT:
        account = server_account()
        os.chown(home / "data", account.pw_uid, account.pw_gid)
    async with embedded_postgres(home / "data") as server:
        assert await ask(server, "SELECT 1") == 1


async def test_a_directory_of_another_version_is_refused(home: Path) -> None:
    (home / "data" / "pgdata").mkdir(parents=True)
    (home / "data" / "pgdata" / "PG_VERSION").write_text("9\n")
    with pytest.raises(ConfigurationError, match="was made by Postgres 9") as refused:
        async with embedded_postgres(home / "data"):
            pytest.fail("started")
    assert "AGENTDB_PG_BIN" in (refused.value.hint or "")


async def test_a_directory_of_somebody_elses_is_refused(home: Path, postgres: EmbeddedPostgres) -> None:
    (home / "data" / "pgdata").mkdir(parents=True)
    (home / "data" / "pgdata" / "PG_VERSION").write_text(f"{postgres.version}\n")
    with pytest.raises(ConfigurationError, match="not made by agentdb-mcp"):
        async with embedded_postgres(home / "data"):
            pytest.fail("started")


async def test_a_file_in_the_place_of_the_directory_is_refused(home: Path) -> None:
    (home / "data").write_text("a file")
    with pytest.raises(ConfigurationError):
        async with embedded_postgres(home / "data"):
            pytest.fail("started")
    assert (home / "data").read_text() == "a file"


def make_programs(folder: Path, text: str, mode: int) -> Path:
    folder.mkdir()
    for name in ("postgres", "initdb"):
        (folder / name).write_text(text)
        (folder / name).chmod(mode)
    return folder


@pytest.mark.parametrize("kind", ["missing", "empty", "no programs", "not executable", "of another machine", "failing"])
async def test_programs_that_cannot_be_used_are_named_by_their_setting(home: Path, kind: str) -> None:
    folder = home / "bin"
    match kind:
        case "missing":
            pass
        case "empty":
            folder.mkdir()
        case "no programs":
            make_programs(folder, "#!/bin/sh\n", 0o755)
            (folder / "initdb").unlink()
        case "not executable":
            make_programs(folder, "#!/bin/sh\n", 0o644)
        case "of another machine":
            make_programs(folder, "\x7fELF of another machine", 0o755)
        case "failing":
            make_programs(folder, "#!/bin/sh\nexit 1\n", 0o755)
    with pytest.raises(ConfigurationError) as refused:
        async with embedded_postgres(home / "data", bin_dir=folder):
            pytest.fail("started")
    assert str(folder) in refused.value.message


def system_programs() -> Path | None:
    """The newest server of the machine's own, if there is one."""
    found = [path.parent for path in Path("/usr/lib/postgresql").glob("*/bin/postgres")]
    on_path = shutil.which("postgres")
    if on_path:
        found.append(Path(on_path).resolve().parent)
    usable = [path for path in found if (path / "initdb").exists()]
    return max(usable, key=version_of, default=None)


def version_of(binaries: Path) -> int:
    said = subprocess.run([binaries / "postgres", "--version"], capture_output=True, text=True, check=True).stdout
    found = re.search(r"\) (\d+)", said)
    return int(found.group(1)) if found else 0


async def test_a_system_postgres_is_used_where_it_is_named(home: Path) -> None:
    binaries = system_programs()
    if binaries is None:
        pytest.skip("this machine has no Postgres server of its own")
    async with embedded_postgres(home / "data", bin_dir=binaries) as server:
        assert server.version == version_of(binaries)
        assert str(await ask(server, "SHOW server_version")).startswith(str(server.version))
        assert await ask(server, "SHOW unix_socket_directories") == ""
        assert psutil.Process(server.pid).exe().startswith(str(binaries.parent))


def server_account() -> pwd.struct_passwd:
    try:
        return pwd.getpwnam("postgres")
    except KeyError:
        return pwd.getpwnam("nobody")


def modes(folder: Path) -> dict[str, tuple[int, int, int]]:
    return {
        str(each): (each.stat().st_mode, each.stat().st_uid, each.stat().st_gid) for each in (folder, *folder.parents)
    }


async def test_the_folders_above_keep_their_modes_and_owners(home: Path) -> None:
    (home / "a").mkdir(mode=0o711)
    before = modes(home / "a")
    async with embedded_postgres(home / "a" / "b" / "data") as server:
        assert await ask(server, "SELECT 1") == 1
        assert modes(home / "a") == before
    assert modes(home / "a") == before


async def test_the_data_and_the_password_are_closed_to_others(home: Path) -> None:
    async with embedded_postgres(home / "data") as server:
        for name in ("pgdata", "superuser"):
            assert stat.S_IMODE((home / "data" / name).stat().st_mode) & 0o077 == 0
        assert server.password.reveal() not in (home / "data" / "postgres.log").read_text()


@as_root
async def test_as_root_the_server_runs_as_an_unprivileged_account(postgres: EmbeddedPostgres) -> None:
    account = server_account()
    for pid in family(postgres.pid):
        with contextlib.suppress(psutil.NoSuchProcess):  # a backend that ended meanwhile
            process = psutil.Process(pid)
            assert set(process.uids()) == {account.pw_uid}
            assert set(process.gids()) == {account.pw_gid}


@as_root
async def test_as_root_a_folder_that_the_account_cannot_reach_is_refused_and_stays_closed(home: Path) -> None:
    (home / "private").mkdir(mode=0o700)
    before = modes(home / "private")
    with pytest.raises(ConfigurationError, match="cannot reach") as refused:
        async with embedded_postgres(home / "private" / "data"):
            pytest.fail("started")
    assert refused.value.hint
    assert modes(home / "private") == before


def run_as_nobody(folder: Path) -> subprocess.CompletedProcess[str]:
    account = pwd.getpwnam("nobody")
    environ = {"PATH": os.environ["PATH"], "HOME": "/", "TMPDIR": tempfile.gettempdir()}
    try:
        return subprocess.run(
            [sys.executable, "-c", ONCE, str(folder)],
            user=account.pw_uid,
            group=account.pw_gid,
            extra_groups=[],
            env=environ,
            cwd="/",
            capture_output=True,
            text=True,
            check=False,
            timeout=60,
        )
    except PermissionError:
        pytest.skip("a plain user cannot reach this Python")


@as_root
async def test_a_plain_user_runs_it_as_itself(home: Path) -> None:
    account = pwd.getpwnam("nobody")
    os.chown(home, account.pw_uid, account.pw_gid)
    done = run_as_nobody(home / "data")
    if "ModuleNotFoundError" in done.stderr or "PermissionError" in done.stderr:
        pytest.skip("a plain user cannot reach the packages of this Python")
    assert done.stdout.split() == [str(account.pw_uid)] * 2, done.stderr


@as_plain_user
async def test_a_directory_that_is_not_ours_to_write_is_refused(home: Path) -> None:
    (home / "data").mkdir(mode=0o555)
    for directory in (home / "data", home / "data" / "below"):
        with pytest.raises(ConfigurationError, match="data directory"):
            async with embedded_postgres(directory):
                pytest.fail("started")


async def test_settings_of_the_callers_own_postgres_do_not_reach_it(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in (("PGDATA", "/nowhere"), ("PGPORT", "1"), ("PGUSER", secrets.token_hex(4)), ("PGHOST", "h")):
        monkeypatch.setenv(name, value)
    async with embedded_postgres() as server:
        assert await ask(server, "SELECT current_user") == "postgres"
