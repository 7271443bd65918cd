"""Initialize, start and stop a Postgres of our own.

It listens on 127.0.0.1 alone with SCRAM, has no Unix socket and stops when its parent dies, however it dies. As root
it runs as an unprivileged account. A data directory holds `pgdata/`, which is Postgres's, and `superuser`, the
password (mode 0600), and `port`; permissions of the folders above it are never touched.
"""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import errno
import os
import pwd
import resource
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import anyio
import anyio.to_thread

from agentdb_mcp.embedded.binaries import (
    find_binaries,
    has_library,
    may_traverse,
    reachable_binaries,
    server_version,
    trust_extensions,
    unprivileged_account,
)
from agentdb_mcp.errors import ConfigurationError, DatabaseUnavailable
from agentdb_mcp.models import Secret

SUPERUSER = "postgres"
START_TIMEOUT_S = 60.0
STOP_TIMEOUT_S = 10.0
# Ports that are tried, and what Postgres says where it gets none.
PORTS, NO_PORT = 5, "could not create any TCP/IP sockets"
PR_SET_PDEATHSIG = 1
# Of each backend: past it a statement fails with "out of memory" instead of taking the machine's.
BACKEND_MEMORY = 768 * 1024 * 1024

SETTINGS = {
    "listen_addresses": "127.0.0.1",
    "unix_socket_directories": "",
    "max_connections": "300",
    "shared_buffers": "64MB",
    "max_prepared_transactions": "0",
    "password_encryption": "scram-sha-256",
    # Statements carry fresh passwords when a login is unsealed: the server's log shows none.
    "log_min_error_statement": "panic",
    "log_statement": "none",
    "timezone": "UTC",
}
THROW_AWAY = {"fsync": "off", "synchronous_commit": "off", "full_page_writes": "off"}


@dataclass(frozen=True, slots=True)
class EmbeddedPostgres:
    """A running server; `uri()` is its superuser's."""

    port: int
    password: Secret
    pid: int
    version: int

    def uri(self, database: str = "postgres") -> Secret:
        return Secret(f"postgresql://{SUPERUSER}:{self.password.reveal()}@127.0.0.1:{self.port}/{database}")


@dataclass(frozen=True, slots=True)
class _Launch:
    binaries: Path
    version: int
    account: pwd.struct_passwd | None
    home: Path
    durable: bool

    @property
    def pgdata(self) -> Path:
        return self.home / "pgdata"


@contextlib.asynccontextmanager
async def embedded_postgres(
    data_dir: Path | None = None, *, bin_dir: Path | None = None, port: int = 0
) -> AsyncIterator[EmbeddedPostgres]:
    """Run Postgres for the time of the block: on a throw-away directory, or on one that stays.

    Raises ConfigurationError for programs or directories that cannot be used, DatabaseUnavailable when it does not
    come up.
    """
    with _home(data_dir) as home:
        launch = await anyio.to_thread.run_sync(_prepare, home, bin_dir, data_dir is not None)
        password = await anyio.to_thread.run_sync(_initialize, launch)
        port, server = await _come_up(launch, port)
        try:
            if launch.durable:
                (launch.home / "port").write_text(f"{port}\n")
            yield EmbeddedPostgres(port, password, server.pid, launch.version)
        finally:
            with anyio.CancelScope(shield=True):
                await _stop(server)


@contextlib.contextmanager
def _home(data_dir: Path | None) -> Iterator[Path]:
    if data_dir is not None:
        yield data_dir.absolute()
        return
    home = Path(tempfile.mkdtemp(prefix="agentdb-"))
    try:
        yield home
    finally:
        shutil.rmtree(home, ignore_errors=True)


def _prepare(home: Path, bin_dir: Path | None, durable: bool) -> _Launch:
    account = unprivileged_account()
    binaries = find_binaries(bin_dir)
    if account is not None and bin_dir is None:
        binaries = reachable_binaries(binaries, account)
    elif account is not None and not may_traverse(binaries.resolve(), account):
        raise ConfigurationError(f"AGENTDB_PG_BIN names {bin_dir}, which {account.pw_name} cannot reach.")
    _make_home(home, account, ours=not durable)
    return _Launch(binaries, server_version(binaries), account, home, durable)


def _make_home(home: Path, account: pwd.struct_passwd | None, *, ours: bool) -> None:
    try:
        if not home.exists():
            home.mkdir(parents=True, mode=0o700)
            ours = True
        next(home.iterdir(), None)
        if not os.access(home, os.W_OK):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
    except OSError as error:
        raise ConfigurationError(
            f"The data directory {home} cannot be used: {error.strerror}.", hint="Choose another with --data-dir."
        ) from None
    if account is None:
        return
    if ours:
        os.chown(home, account.pw_uid, account.pw_gid)
    if not may_traverse(home, account):
        raise ConfigurationError(
            f"Postgres runs as {account.pw_name} when started by root, and {account.pw_name} cannot reach {home}.",
            hint="Choose a directory outside of private folders with --data-dir, such as /var/lib/agentdb-mcp.",
        )


def _initialize(launch: _Launch) -> Secret:
    """Run initdb where there is no cluster yet; return the superuser's password."""
    password_file = launch.home / "superuser"
    if (launch.pgdata / "PG_VERSION").exists():
        _check_cluster(launch, password_file)
        return Secret(password_file.read_text().strip())
    password = secrets.token_urlsafe(24)
    shutil.rmtree(launch.pgdata, ignore_errors=True)  # an initdb that was killed
    password_file.unlink(missing_ok=True)
    with open(os.open(password_file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
        file.write(password + "\n")
    _give(password_file, launch.account)
    command: list[str | Path] = [
        launch.binaries / "initdb",
        "-D",
        launch.pgdata,
        "-U",
        SUPERUSER,
        "--pwfile",
        password_file,
    ]
    command += ["--auth=scram-sha-256", "--encoding=UTF8", "--no-locale", "--no-instructions"]
    if launch.version >= 17:
        command += ["--locale-provider=builtin", "--builtin-locale=C.UTF-8"]
    if not launch.durable:
        command += ["--no-sync"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, **_identity(launch))
    if done.returncode != 0:
        raise DatabaseUnavailable(f"initdb failed: {_last_line(done.stderr)}")
    return Secret(password)


def _check_cluster(launch: _Launch, password_file: Path) -> None:
    found = (launch.pgdata / "PG_VERSION").read_text().strip()
    if found != str(launch.version):
        raise ConfigurationError(
            f"{launch.home} was made by Postgres {found}; the programs here are version {launch.version}.",
            hint="Set AGENTDB_PG_BIN to programs of that version, or choose another --data-dir.",
        )
    if not password_file.exists():
        raise ConfigurationError(f"{launch.home} was not made by agentdb-mcp.", hint="Choose another --data-dir.")


def _give(path: Path, account: pwd.struct_passwd | None) -> None:
    if account is not None:
        os.chown(path, account.pw_uid, account.pw_gid)


def _identity(launch: _Launch) -> dict[str, Any]:
    common: dict[str, Any] = {"env": {"PATH": os.defpath, "LC_ALL": "C"}, "cwd": launch.home}
    if launch.account is None:
        return common
    return common | {"user": launch.account.pw_uid, "group": launch.account.pw_gid, "extra_groups": []}


async def _come_up(launch: _Launch, wanted: int) -> tuple[int, asyncio.subprocess.Process]:
    """The server when it is ready, and its port: another one if somebody took the first before Postgres did."""
    for _ in range(PORTS - 1):
        try:
            return await _come_up_once(launch, wanted)
        except DatabaseUnavailable as error:
            if NO_PORT not in error.message:
                raise
    return await _come_up_once(launch, wanted)


async def _come_up_once(launch: _Launch, wanted: int) -> tuple[int, asyncio.subprocess.Process]:
    port = await anyio.to_thread.run_sync(_choose_port, launch, wanted)
    server = await _start(launch, port)
    try:
        await _wait_until_ready(launch, server)
    except BaseException:
        with anyio.CancelScope(shield=True):
            await _stop(server)
        raise
    return port, server


async def _start(launch: _Launch, port: int) -> asyncio.subprocess.Process:
    settings = SETTINGS | ({} if launch.durable else THROW_AWAY) | {"port": str(port)}
    if has_library(launch.binaries, "pg_stat_statements"):
        settings["shared_preload_libraries"] = "pg_stat_statements"
    if launch.version >= 18 and (trusted := trust_extensions(launch.binaries, launch.home)) is not None:
        settings["extension_control_path"] = f"{trusted}:$system"
    arguments = [part for name, value in settings.items() for part in ("-c", f"{name}={value}")]
    with (launch.home / "postgres.log").open("ab") as log:  # the child needs a real descriptor
        # Not anyio.open_process: it has no preexec_fn, and the death signal is set after the change of user.
        return await asyncio.create_subprocess_exec(
            launch.binaries / "postgres",
            "-D",
            launch.pgdata,
            *arguments,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
            preexec_fn=_in_child(),
            **_identity(launch),
        )


def _in_child() -> Callable[[], None]:
    """What the child does before it becomes Postgres: bound its memory, and ask to die when we do (Linux)."""
    prctl = ctypes.CDLL(None, use_errno=True).prctl if sys.platform == "linux" else None
    parent = os.getpid()

    def prepare() -> None:
        resource.setrlimit(resource.RLIMIT_DATA, (BACKEND_MEMORY, BACKEND_MEMORY))
        if prctl is not None:
            prctl(PR_SET_PDEATHSIG, signal.SIGINT)  # a fast shutdown, however we die
            if os.getppid() != parent:
                os.kill(os.getpid(), signal.SIGKILL)

    return prepare


async def _wait_until_ready(launch: _Launch, server: asyncio.subprocess.Process) -> None:
    """Wait for the word `ready` in postmaster.pid, which is what `pg_ctl --wait` reads."""
    pid_file = launch.pgdata / "postmaster.pid"
    with anyio.move_on_after(START_TIMEOUT_S):
        while server.returncode is None:
            with contextlib.suppress(OSError):
                lines = pid_file.read_text().splitlines()
                if len(lines) >= 8 and lines[0] == str(server.pid) and lines[7].strip() == "ready":
                    return
            await anyio.sleep(0.01)
    raise DatabaseUnavailable(
        f"Postgres did not start on {launch.home}: {_log_end(launch.home)}",
        hint="If another agentdb-mcp uses this data directory, end it or choose another with --data-dir.",
    )


async def _stop(server: asyncio.subprocess.Process) -> None:
    for sign in (signal.SIGINT, signal.SIGQUIT, signal.SIGKILL):
        if server.returncode is not None:
            return
        with contextlib.suppress(ProcessLookupError):
            server.send_signal(sign)
        with anyio.move_on_after(STOP_TIMEOUT_S):
            await server.wait()


def _choose_port(launch: _Launch, wanted: int) -> int:
    """A free port; a directory that stays keeps its own, because URLs that name it are stored elsewhere."""
    file = launch.home / "port"
    if not wanted and launch.durable and file.exists():
        wanted = int(file.read_text())
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", wanted))
        except OSError:
            raise ConfigurationError(
                f"Port {wanted}, which {launch.home} uses, is taken.",
                hint="If another agentdb-mcp runs on this directory, end it, or choose another with --data-dir.",
            ) from None
        return int(probe.getsockname()[1])


def _last_line(text: str) -> str:
    lines = [line for line in text.splitlines() if line.strip()]
    return lines[-1].strip()[:300] if lines else "no message"


def _log_end(home: Path) -> str:
    with contextlib.suppress(OSError):
        lines = [line for line in (home / "postgres.log").read_text(errors="replace").splitlines() if "FATAL" in line]
        return _last_line("\n".join(lines))
    return "no message"
