"""The command line as people and scripts use it: demo, migrate, doctor, users, workspaces, neon-emulator."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import anyio
import asyncpg
import httpx
import psutil
import pytest

from agentdb_mcp.embedded import embedded_postgres
from agentdb_mcp.local_stack import LocalStack
from agentdb_mcp.neon_emulator import neon_emulator
from agentdb_mcp.settings import load_settings
from processes import free_port

if TYPE_CHECKING:
    from tests.acceptance.conftest import CommandFactory, Finished, ServeFactory, StartFactory

Projects = Callable[[], Awaitable[list[str]]]


@pytest.fixture(scope="module")
async def story(fresh_command: CommandFactory) -> Finished:
    return await fresh_command({}, "demo", "--json", within=240)


async def test_demo_exits_0_and_prints_one_json_object_a_line(story: Finished) -> None:
    assert story.code == 0, story.err
    steps = [json.loads(line) for line in story.out.splitlines()]
    assert len(steps) > 10
    assert all(isinstance(step, dict) for step in steps)
    assert "Traceback" not in story.err


async def test_demo_tells_the_whole_story(story: Finished) -> None:
    steps = [json.loads(line) for line in story.out.splitlines()]
    codes = [step["result"]["error"]["code"] for step in steps if step.get("is_error")]
    assert codes.count("budget_exceeded") == 1
    assert len(codes) >= 3
    tags = [step["result"].get("command_tag", "") for step in steps if step.get("tool") == "execute_sql"]
    for tag in ("CREATE TABLE", "INSERT", "SELECT", "ALTER TABLE"):
        assert any(found.startswith(tag) for found in tags), tag
    assert any(step.get("arguments", {}).get("database") == "global" for step in steps)
    refused = next(number for number, step in enumerate(steps) if "budget_exceeded" in json.dumps(step))
    assert any(tag == "INSERT 0 1" for tag in [s.get("result", {}).get("command_tag") for s in steps[refused:]])


async def test_demo_shows_no_connection_string(story: Finished) -> None:
    assert "postgresql://" not in story.out + story.err
    assert "napi_" not in story.out + story.err


@pytest.fixture
async def control(stack: LocalStack) -> AsyncIterator[dict[str, str]]:
    """The environment with an empty control database of its own."""
    connection = await asyncpg.connect(stack.postgres.uri().reveal())
    await connection.execute("CREATE DATABASE fresh_control")
    yield stack.environ() | {"AGENTDB_CONTROL_URL": stack.postgres.uri("fresh_control").reveal()}
    await connection.execute("DROP DATABASE fresh_control WITH (FORCE)")
    await connection.close()


async def test_migrate_applies_everything_once_and_then_nothing(
    command: CommandFactory, control: dict[str, str]
) -> None:
    first, second = [await command(control, "migrate", "--json") for _ in range(2)]
    assert first.code == second.code == 0
    assert len(json.loads(first.out)["applied"]) > 0
    assert json.loads(second.out)["applied"] == []
    connection = await asyncpg.connect(control["AGENTDB_CONTROL_URL"])
    tables = {row[0] for row in await connection.fetch("SELECT tablename FROM pg_tables WHERE schemaname = 'public'")}
    await connection.close()
    assert tables >= {"user", "workspace", "user_global_database", "workspace_database", "user_db_budget"}


async def test_migrations_from_several_processes_at_once_are_applied_once(
    command: CommandFactory, control: dict[str, str]
) -> None:
    done: list[Finished] = []

    async def migrate() -> None:
        done.append(await command(control, "migrate", "--json"))

    async with anyio.create_task_group() as group:
        for _ in range(3):
            group.start_soon(migrate)
    assert [one.code for one in done] == [0, 0, 0], [one.err for one in done]
    applied = [step for one in done for step in json.loads(one.out)["applied"]]
    assert applied
    assert len(applied) == len(set(applied))


async def test_doctor_finds_nothing_wrong_where_nothing_is(
    command: CommandFactory, fresh_command: CommandFactory, control: dict[str, str]
) -> None:
    await command(control, "migrate")
    done = await fresh_command(control, "doctor", "--json")
    findings = json.loads(done.out)["findings"]
    assert [finding for finding in findings if finding["ok"] is False] == []
    assert {finding["check"] for finding in findings if finding["ok"]} >= {"control database", "migrations", "neon"}
    assert done.code == 0


async def test_doctor_changes_nothing(command: CommandFactory, control: dict[str, str]) -> None:
    done = await command(control, "doctor", "--json")
    connection = await asyncpg.connect(control["AGENTDB_CONTROL_URL"])
    tables = await connection.fetchval("SELECT count(*) FROM pg_tables WHERE schemaname = 'public'")
    await connection.close()
    assert tables == 0
    wrong = [finding for finding in json.loads(done.out)["findings"] if finding["ok"] is False]
    assert [finding["check"] for finding in wrong] == ["migrations"]
    assert "migrate" in wrong[0]["hint"]
    assert done.code == 1


@pytest.mark.parametrize(
    ("wrong", "checks"),
    [
        (
            {
                "NEON_API_KEY": "not-the-key-at-all",
                "AGENTDB_ENCRYPTION_KEYS": "",
                "AGENT_DB_URL": "postgresql://u:hunter2hunter2@127.0.0.1:1/x",
            },
            ["neon", "encryption", "AGENT_DB_URL"],
        ),
        ({"AGENTDB_CONTROL_URL": "postgresql://u:hunter2hunter2@127.0.0.1:1/x"}, ["control database"]),
    ],
    ids=["keys and a URL", "control database"],
)
async def test_doctor_names_what_is_wrong_what_to_do_and_exits_1(
    command: CommandFactory, stack: LocalStack, wrong: dict[str, str], checks: list[str]
) -> None:
    done = await command(stack.environ() | wrong, "doctor", "--json")
    findings = {finding["check"]: finding for finding in json.loads(done.out)["findings"]}
    for check in checks:
        assert findings[check]["ok"] is False
        assert findings[check]["message"]
        assert findings[check]["hint"]
    assert "Traceback" not in done.err
    assert "hunter2" not in done.out + done.err
    assert done.code == 1


async def run(command: CommandFactory, stack: LocalStack, *arguments: str) -> dict[str, Any]:
    done = await command(stack.environ(), *arguments, "--json")
    assert done.code == 0, done.err
    fields: dict[str, Any] = json.loads(done.out)
    return fields


async def test_users_and_workspaces_of_any_name_are_made_once_and_removed_with_their_databases(
    command: CommandFactory, stack: LocalStack, projects: Projects, serve: ServeFactory
) -> None:
    user, workspace = 'o\'brien; DROP TABLE "user" -- 😀/b?c&d=%00', "desk"

    async def made() -> list[str]:
        return [name.split("-")[0] for name in await projects() if "desk" in name or "brien" in name]

    for _ in range(2):
        answer = await run(command, stack, "users", "create", user, "--tier", "paid")
        assert answer["database"]["status"] == "ready"
    for _ in range(2):
        answer = await run(command, stack, "workspaces", "create", workspace, "--user", user, "--name", "Desk")
        assert answer["database"]["status"] == "ready"
    assert await made() == ["agent", "global"]

    async with serve(stack.environ() | {"AGENTDB_USER_ID": user, "AGENTDB_WORKSPACE_ID": workspace}) as server:
        await server.sql("CREATE TABLE notes (id int)")
        assert (await server.call("get_budget")).fields["limit_cents"] == 2000
    assert await made() == ["agent", "global"]

    for _ in range(2):
        await run(command, stack, "workspaces", "delete", workspace)
    assert await made() == ["global"]
    await run(command, stack, "users", "delete", user)
    assert await made() == []


async def test_a_workspace_of_nobody_is_refused_in_one_line(command: CommandFactory, stack: LocalStack) -> None:
    done = await command(stack.environ(), "workspaces", "create", "orphan", "--user", "nobody-at-all")
    assert done.code in (1, 2)
    assert "nobody-at-all" in done.one_line or "user" in done.one_line


async def test_an_unknown_tier_is_refused_in_one_line(command: CommandFactory, stack: LocalStack) -> None:
    done = await command(stack.environ(), "users", "create", "dave", "--tier", "golden")
    assert done.code in (1, 2)
    assert "golden" in done.one_line or "tier" in done.one_line
    assert "free" in done.one_line


async def test_a_registration_that_fails_leaves_nothing(
    command: CommandFactory, stack: LocalStack, projects: Projects
) -> None:
    before = await projects()
    done = await command(stack.environ() | {"NEON_API_KEY": "not-the-key-at-all"}, "users", "create", "erin")
    assert done.code == 1
    assert "Neon" in done.err.splitlines()[-1]
    assert "Traceback" not in done.err
    assert "not-the-key-at-all" not in done.err
    connection = await asyncpg.connect(stack.environ()["AGENTDB_CONTROL_URL"])
    assert await connection.fetchval("SELECT count(*) FROM \"user\" WHERE id = 'erin'") == 0
    await connection.close()
    assert await projects() == before


async def test_the_neon_emulator_answers_its_key_alone_and_ends_by_sigterm_with_0(
    start: StartFactory, until: Callable[..., Awaitable[None]], left_of: Callable[[int], list[str]]
) -> None:
    async with start({}, "neon-emulator") as emulator:
        assert emulator.stdout is not None
        said = json.loads(await emulator.stdout.readline())
        async with httpx.AsyncClient(base_url=said["base_url"], timeout=60) as client:
            assert (await client.get("/projects")).status_code == 401
            key = {"Authorization": f"Bearer {said['api_key']}"}
            listed = await client.get("/projects", headers=key)
            assert listed.status_code == 200
            assert listed.json()["projects"] == []
            made = await client.post("/projects", headers=key, json={"project": {"name": "one"}})
            assert made.status_code == 201
            uri = made.json()["connection_uris"][0]["connection_uri"]
        connection = await asyncpg.connect(uri)
        assert await connection.fetchval("SELECT 1") == 1
        await connection.close()
        emulator.terminate()
        await until(lambda: emulator.returncode is not None)
        assert emulator.returncode == 0
        assert left_of(emulator.pid) == []


async def test_the_neon_emulator_runs_on_a_given_postgres_and_port(start: StartFactory, tmp_path: Path) -> None:
    """The same cluster knows the same organization, projects and key; a file tells servers, and nobody else."""
    file, port = tmp_path / "neon.env", free_port()
    arguments = ("neon-emulator", "--port", str(port), "--env-file", str(file))
    async with embedded_postgres() as postgres:
        async with neon_emulator(postgres.uri().reveal()) as former:
            pass
        async with start({"AGENTDB_EMULATOR_PG": postgres.uri().reveal()}, *arguments) as emulator:
            assert emulator.stdout is not None
            said = json.loads(await emulator.stdout.readline())
            assert f":{port}/" in said["base_url"]
            assert (said["org_id"], said["api_key"]) == (former.org_id, former.api_key)
            settings = load_settings({"AGENTDB_ENV_FILE": str(file)})
            assert settings.neon_api_host == said["base_url"]
            assert [key.api_key.reveal() for key in settings.neon] == [said["api_key"]]
            assert file.stat().st_mode & 0o777 == 0o600
            family = [process := psutil.Process(emulator.pid), *process.children(recursive=True)]
            assert postgres.password.reveal() not in str([each.cmdline() for each in family])


async def test_help_names_every_command(fresh_command: CommandFactory) -> None:
    done = await fresh_command({}, "--help")
    assert done.code == 0
    commands = {line.split()[1] for line in done.out.splitlines() if len(line.split()) > 2}
    assert commands >= {
        *("serve", "up", "demo", "migrate", "worker", "sync", "reconcile", "doctor"),
        *("users", "workspaces", "usage", "policy", "neon-emulator"),
    }
