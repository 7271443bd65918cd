"""A roll-out as docs/deploying.md has it, from an earlier version to this one: `make upgrade-check FROM=<git ref>`.

Both versions are built and installed into environments of their own. Beside clients that write all the while, the new
one migrates the control database, an old server is started again on it, new servers join, and the old ones are ended
one after the other. No acknowledged write may be lost and no call may fail. The first thing that is wrong ends it.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tarfile
import tempfile
from contextlib import AsyncExitStack
from pathlib import Path

import anyio
from benchmarks.soak.client import Ears
from scripts.release_check import ROOT, WrongError, build, install, outside, program, run, step
from scripts.rolling_out import Agent, RollOut, Version, until

from agentdb_mcp.local_stack import local_stack

POLICY = 'name = "upgrade"\n[metering]\nflush_s = 1.0\n'
TENANTS = 4
AUDITED = """
    SELECT count(*) FILTER (WHERE tool IN ('execute_sql', 'execute_transaction') AND decision = 'allowed')
      FROM db_audit_log WHERE user_id = $1
"""


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
        with step("the new version migrates the control database"):
            print(f"      {(await it.new.command('migrate')).strip()}")
            await it.go_on()
        with step("an old server that is started again serves on it"):
            await it.replace(second)
            await second.start()
            it.rotation.append(second)
            await it.go_on()
            await it.until_metered_by(3)
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
    await check(it)


async def check(it: RollOut) -> None:
    """What is left of it, as the new version sees it."""
    written = sum(len(agent.acknowledged) for agent in it.agents)
    with step(f"all {written} acknowledged writes of {len(it.agents)} tenants are there, and no others"):
        for agent in it.agents:
            if extra := await agent.read() - set(agent.acknowledged):
                raise WrongError(f"rows of {agent.user} are there that nobody wrote: {sorted(extra)[:10]}")
    with step("each call is in the audit log once, and `audit verify` finds the chains whole"):
        await check_audited(it)
        print(f"      {(await it.new.command('audit', 'verify')).strip()}")
    with step("`doctor` finds nothing wrong"):
        await it.new.command("doctor")
    with step("what clients used is metered by each of the old servers and of the new ones"):
        await it.until_metered_by(5)
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
            hint = [] if given.keep else ["--keep FOLDER (KEEP=FOLDER of make) keeps the logs."]
            sys.exit("\n".join([f"NOT to be upgraded from {given.ref}:", *why(errors), *hint]))
    print(f"To be upgraded from {given.ref}, as far as this looks.")


if __name__ == "__main__":
    main()
