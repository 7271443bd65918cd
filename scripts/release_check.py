"""What would be published, checked before it is: `make release-check`. The first step that fails ends it.

Wheel and sdist are built into a temporary folder; the wheel is installed with the versions of uv.lock into an
environment of its own, and `agentdb-mcp demo` runs from there outside of the repository.
"""

from __future__ import annotations

import argparse
import email
import os
import re
import subprocess
import sys
import tarfile
import tempfile
import time
import tomllib
import zipfile
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

ROOT = Path(__file__).parents[1]
SOURCE = ROOT / "src" / "agentdb_mcp"
PACKAGE = "agentdb_mcp"
DEMO_S = 180


class WrongError(Exception):
    """Why this is not to be published."""


def expected_files() -> set[str]:
    """Everything of the package that git has, and the policies: modules, SQL, static files, the typing marker."""
    listed = run(["git", "ls-files", "src/agentdb_mcp", "policies"]).splitlines()
    return {
        f"{PACKAGE}/{name}" if name.startswith("policies/") else name.removeprefix("src/")
        for name in listed
        if (ROOT / name).exists()
    }


def check_wheel_names(names: Iterable[str], expected: set[str], version: str) -> None:
    """The package whole, its metadata and licence, and nothing beside."""
    found, info = set(names), f"{PACKAGE}-{version}.dist-info"
    if missing := expected - found:
        raise WrongError(f"the wheel lacks {', '.join(sorted(missing))}")
    for kind in (".sql", ".toml", "py.typed", "explorer/static/explorer.css"):
        if not any(name.endswith(kind) for name in found):
            raise WrongError(f"the wheel has no {kind}")
    if extra := {name for name in found - expected if not name.startswith(f"{info}/")}:
        raise WrongError(f"the wheel has {', '.join(sorted(extra))}, which git does not have in the package")
    for name in ("METADATA", "RECORD", "entry_points.txt", "licenses/LICENSE"):
        if f"{info}/{name}" not in found:
            raise WrongError(f"the wheel has no {name}")


def check_metadata(text: str, project: dict[str, object], version: str) -> None:
    fields = email.message_from_string(text)
    wanted = {
        "Name": project["name"],
        "Version": version,
        "License-Expression": project["license"],
        "Requires-Python": project["requires-python"],
        "Description-Content-Type": "text/markdown",
    }
    for name, value in wanted.items():
        if fields[name] != value:
            raise WrongError(f"the metadata says {name}: {fields[name]}, not {value}")
    extras = project["optional-dependencies"]
    assert isinstance(extras, dict)
    if set(fields.get_all("Provides-Extra") or []) != set(extras):
        raise WrongError("the metadata has other extras than pyproject.toml")


def check_sdist_names(names: Iterable[str], expected: set[str], version: str) -> None:
    """What builds the wheel again, and no leftovers of this machine."""
    top = f"{PACKAGE}-{version}/"
    found = {name.removeprefix(top) for name in names}
    paths = {name.removeprefix(f"{PACKAGE}/") if "/policies/" in name else f"src/{name}" for name in expected}
    if missing := (paths | {"pyproject.toml", "README.md", "LICENSE", "CHANGELOG.md", "PKG-INFO"}) - found:
        raise WrongError(f"the sdist lacks {', '.join(sorted(missing))}")
    tracked = {*run(["git", "ls-files", "--cached", "--others", "--exclude-standard"]).splitlines(), "PKG-INFO"}
    if extra := found - tracked:
        raise WrongError(f"the sdist has {', '.join(sorted(extra))}, which git leaves out")


def check_changelog(text: str, version: str) -> str:
    """A section of the version, or something under Unreleased; which of them."""
    sections = dict(re.findall(r"^## \[([^\]]+)\][^\n]*\n(.*?)(?=^## |\Z)", text, re.MULTILINE | re.DOTALL))
    for name in (version, "Unreleased"):
        if re.search(r"^[-*] \S", sections.get(name, ""), re.MULTILINE):
            return name
    raise WrongError(f"CHANGELOG.md says nothing under [{version}] or [Unreleased]")


def check_one_version(version: str) -> None:
    """No module repeats the version: it would be forgotten."""
    for file in SOURCE.rglob("*.py"):
        if re.search(rf"__version__ = [\"']|[\"']{re.escape(version)}[\"']", file.read_text("utf-8")):
            raise WrongError(f"{file.relative_to(ROOT)} repeats the version of pyproject.toml")


def run(
    command: Sequence[str | Path], cwd: Path = ROOT, env: dict[str, str] | None = None, timeout: float = 300
) -> str:
    done = subprocess.run(
        command,
        cwd=cwd,
        env=env,
        capture_output=True,
        text=True,
        timeout=timeout,
        check=False,
        stdin=subprocess.DEVNULL,
    )
    if done.returncode:
        words = " ".join(map(str, command[:6]))
        raise WrongError(f"`{words} …` ended with {done.returncode}:\n{done.stdout[-2000:]}{done.stderr[-4000:]}")
    return done.stdout


@contextmanager
def step(words: str) -> Iterator[None]:
    begun = time.monotonic()
    yield
    print(f"ok  {words}  ({time.monotonic() - begun:.1f} s)", flush=True)


def the_only(folder: Path, pattern: str) -> Path:
    (found,) = folder.glob(pattern)
    return found


def build(uv: str, folder: Path, tree: Path = ROOT) -> tuple[Path, Path]:
    """Wheel and sdist, both from the repository or another tree of it."""
    run([uv, "build", "--quiet", "--python", sys.executable, "--sdist", "--wheel", "--out-dir", folder], tree)
    return the_only(folder, "*.whl"), the_only(folder, "*.tar.gz")


def build_again(uv: str, sdist: Path, folder: Path) -> Path:
    """The wheel from the sdist alone, outside of the repository, by the same versions of what builds it."""
    pinned = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["tool"]["uv"]["build-constraint-dependencies"]
    constraints = folder / "constraints.txt"
    constraints.write_text("\n".join(pinned))
    given = ["--python", sys.executable, "--build-constraints", constraints]
    run([uv, "build", "--quiet", *given, "--wheel", "--out-dir", folder, sdist], cwd=folder)
    return the_only(folder, "*.whl")


def install(uv: str, wheel: Path, folder: Path, tree: Path = ROOT) -> Path:
    """A clean environment with the wheel and the tree's locked versions of what it needs; its folder of programs."""
    wanted, made = folder / "requirements.txt", folder / "environment"
    export = [uv, "export", "--quiet", "--locked", "--no-dev", "--all-extras", "--no-emit-project"]
    run([*export, "--output-file", wanted], tree)
    run([uv, "venv", "--quiet", "--python", sys.executable, made])
    programs = made / "bin"
    pip = [uv, "pip", "install", "--quiet", "--python", programs / "python"]
    run([*pip, "--require-hashes", "--only-binary", ":all:", "--requirements", wanted])
    run([*pip, "--no-deps", wheel])
    run([uv, "pip", "check", "--quiet", "--python", programs / "python"])
    return programs


def outside(folder: Path) -> dict[str, str]:
    """An environment without anything of ours or of the repository."""
    return {"PATH": os.defpath, "HOME": str(folder), "TMPDIR": str(folder), "LC_ALL": "C.UTF-8"}


def check(uv: str, folder: Path) -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    version = str(project["version"])
    with step(f"the version is {version}, in pyproject.toml alone, and uv.lock is up to date"):
        check_one_version(version)
        run([uv, "lock", "--check"])
    section = check_changelog((ROOT / "CHANGELOG.md").read_text("utf-8"), version)
    with step(f"the changelog has something under [{section}]"):
        pass
    with step("wheel and sdist are built"):
        wheel, sdist = build(uv, folder / "built")
    expected = expected_files()
    with step(f"the wheel ({wheel.stat().st_size >> 10} KiB) has the package's {len(expected)} files and no others"):
        with zipfile.ZipFile(wheel) as archive:
            check_wheel_names(archive.namelist(), expected, version)
            metadata = archive.read(f"{PACKAGE}-{version}.dist-info/METADATA").decode()
        check_metadata(metadata, project, version)
    with step(f"the sdist ({sdist.stat().st_size >> 10} KiB) has what git has"), tarfile.open(sdist) as files:
        check_sdist_names((file.name for file in files if file.isfile()), expected, version)
    with step("the sdist builds the same wheel, byte by byte"):
        again = folder / "again"
        again.mkdir()
        if build_again(uv, sdist, again).read_bytes() != wheel.read_bytes():
            raise WrongError("the wheel that the sdist builds is another one")
    with step("the wheel installs with the locked versions into a clean environment"):
        programs = install(uv, wheel, folder)
    elsewhere = folder / "elsewhere"
    elsewhere.mkdir()
    with step("`agentdb-mcp --version` is that of pyproject.toml"):
        said = run([programs / "agentdb-mcp", "--version"], elsewhere, outside(elsewhere)).strip()
        if said != f"agentdb-mcp {version}":
            raise WrongError(f"it says {said}")
    with step("`agentdb-mcp demo` runs from it"):
        told = run([programs / "agentdb-mcp", "demo"], elsewhere, outside(elsewhere), DEMO_S)
    print("\n".join(f"      {line}" for line in told.splitlines()[-4:]))


def program(given: str) -> str:
    """The path of a program, from the repository on, or its plain name."""
    return str((ROOT / given).absolute()) if "/" in given else given


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--uv", type=program, default="uv")
    uv = parser.parse_args().uv
    with tempfile.TemporaryDirectory(prefix="agentdb-release-") as name:
        # Postgres gives up root's rights where it has them, and has to reach the programs in here.
        Path(name).chmod(0o755)
        try:
            check(uv, Path(name))
        except (WrongError, subprocess.TimeoutExpired) as error:
            sys.exit(f"NOT to be released: {error}")
    print("To be released, as far as this looks.")


if __name__ == "__main__":
    main()
