"""`usage`, `sync`, `users tier` and `users reset` on a platform with two days of billed use behind it."""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import asyncpg
import httpx
import pytest

from agentdb_mcp.local_stack import LocalStack, local_stack

if TYPE_CHECKING:
    from tests.acceptance.conftest import CommandFactory, Finished

GUIDE = (Path(__file__).parents[2] / "docs/budgets.md").read_text("utf-8")
CU_HOUR = 3600
DAY = timedelta(days=1)
TODAY = datetime.now(UTC).date()


@pytest.fixture(scope="module")
async def stack(anyio_backend: str) -> AsyncIterator[LocalStack]:
    """With the port by which use is added to projects' histories."""
    async with local_stack(control=True) as stack:
        yield stack


@pytest.fixture(scope="module")
async def synced(stack: LocalStack, command: CommandFactory) -> Finished:
    """What the first `sync` printed: Ada's two agents used something yesterday and the day before."""
    environ = stack.environ()
    for arguments in (
        ("users", "create", "ada"),
        ("workspaces", "create", "research", "--user", "ada", "--name", "Research agent"),
        ("workspaces", "create", "support", "--user", "ada", "--name", "Support \x1b[31magent"),
    ):
        assert (await command(environ, *arguments)).code == 0
    connection = await asyncpg.connect(environ["AGENTDB_CONTROL_URL"])
    await connection.execute(
        "UPDATE user_db_budget SET period_anchor = now() - interval '3 days';"
        "UPDATE user_global_database SET created_at = created_at - interval '3 days';"
        "UPDATE workspace_database SET created_at = created_at - interval '3 days'"
    )
    ids = dict(await connection.fetch("SELECT workspace_id, neon_project_id FROM workspace_database"))
    await connection.close()
    noon = datetime(TODAY.year, TODAY.month, TODAY.day, tzinfo=UTC) - DAY / 2
    async with httpx.AsyncClient(base_url=stack.emulator.control_url or "", timeout=60) as control:
        for workspace_id, hour, cu_hours in (("research", noon, 3), ("research", noon - DAY, 1), ("support", noon, 2)):
            seconds = cu_hours * CU_HOUR
            used = {"project_id": ids[workspace_id], "hour": hour.isoformat(), "compute_unit_seconds": seconds}
            assert (await control.post("/consumption", json=used)).status_code == 204
    return await command(environ, "sync", "--json")


@pytest.fixture
async def environ(stack: LocalStack, synced: Finished) -> dict[str, str]:
    assert synced.code == 0, synced.err
    return stack.environ()


async def answer(command: CommandFactory, environ: dict[str, str], *arguments: str) -> dict[str, Any]:
    done = await command(environ, *arguments, "--json")
    assert (done.code, done.err) == (0, "")
    fields: dict[str, Any] = json.loads(done.out)
    return fields


def check_plain(text: str) -> None:
    """For people who read it in a pipe: no colours, nothing that a terminal obeys, 80 columns."""
    assert all(sign.isprintable() or sign == "\n" for sign in text)
    assert max(map(len, text.splitlines())) <= 80


async def test_sync_tells_what_it_settled_and_by_how_much_estimates_missed(
    synced: Finished, environ: dict[str, str], command: CommandFactory
) -> None:
    assert (synced.code, synced.err) == (0, "")
    assert json.loads(synced.out) == {"projects": 3, "hours": 3, "error_percent": -100.0}
    again = await command(environ, "sync")
    assert (again.code, again.err) == (0, "")
    assert "0 hours settled" in again.out
    check_plain(again.out)


async def test_usage_in_json_is_what_the_platform_reads(command: CommandFactory, environ: dict[str, str]) -> None:
    fields = await answer(command, environ, "usage", "ada")
    assert fields["budget"] == {
        "tier": "free",
        "limitCents": 200,
        "usedCents": 63,
        "exceeded": False,
        "state": "ok",
        "remainingCents": 137,
        "committedCents": 0,
    }
    assert fields["breakdown"] == [
        {"type": "global", "name": "global", "costCents": 0, "sizeBytes": 0},
        {"type": "agent", "workspaceId": "research", "name": "Research agent", "costCents": 42, "sizeBytes": 0},
        {"type": "agent", "workspaceId": "support", "name": "Support \x1b[31magent", "costCents": 21, "sizeBytes": 0},
    ]
    start, end = (datetime.fromisoformat(fields[name]) for name in ("periodStart", "periodEnd"))
    assert start < datetime.now(UTC) - 2 * DAY < end


async def test_usage_in_a_pipe_is_a_plain_table(command: CommandFactory, environ: dict[str, str]) -> None:
    done = await command(environ, "usage", "ada")
    assert (done.code, done.err) == (0, "")
    check_plain(done.out)
    lines = done.out.splitlines()
    assert any(line.split() == ["limit", "$2.00"] for line in lines)
    research = next(line for line in lines if "Research agent" in line)
    assert "$0.42" in research
    assert "66 %" in research
    assert next(line for line in lines if "total" in line).split()[:2] == ["total", "$0.63"]


async def test_usage_by_day_sums_to_the_same(command: CommandFactory, environ: dict[str, str]) -> None:
    fields = await answer(command, environ, "usage", "ada", "--days", "4")
    assert fields["totalCents"] == 63
    assert [(day["date"], day["costCents"]) for day in fields["days"]] == [
        (str(TODAY - 2 * DAY), 10),
        (str(TODAY - DAY), 53),
    ]
    assert [each["workspaceId"] for each in fields["days"][1]["breakdown"]] == ["research", "support"]
    one = await answer(command, environ, "usage", "ada", "--since", str(TODAY - DAY), "--until", str(TODAY - DAY))
    assert [day["date"] for day in one["days"]] == [str(TODAY - DAY)]
    done = await command(environ, "usage", "ada", "--since", str(TODAY - 2 * DAY))
    assert str(TODAY - DAY) in done.out
    check_plain(done.out)
    none = await command(environ, "usage", "ada", "--days", "1")
    assert none.out.startswith("No costs")


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (("usage", "nobody"), 1, "There is no user nobody."),
        (("usage", "ada", "--days", "2", "--since", "2026-01-01"), 2, "--days counts back from today"),
        (("usage", "ada", "--until", "2026-01-01"), 2, "--until needs --since"),
        (("usage", "ada", "--since", "2026-02-01", "--until", "2026-01-01"), 1, "2026-02-01 to 2026-01-01"),
        (("usage", "ada", "--since", "9999-12-31", "--until", "9999-12-31"), 1, "9999-12-31 to 9999-12-31"),
        (("users", "tier", "ada", "golden"), 1, "free, paid, enterprise"),
        (("users", "tier", "ada", "paid", "--custom-cents", "5", "--no-custom"), 2, "give one of them"),
        (("users", "reset", "nobody"), 1, "There is no user nobody."),
    ],
)
async def test_what_cannot_be_done_is_said_in_one_line(
    command: CommandFactory, environ: dict[str, str], arguments: tuple[str, ...], code: int, words: str
) -> None:
    done = await command(environ, *arguments)
    assert (done.code, done.out) == (code, "")
    assert words in done.one_line


async def test_a_sync_without_the_provider_is_one_line_and_changes_nothing(
    command: CommandFactory, environ: dict[str, str]
) -> None:
    before = await answer(command, environ, "usage", "ada")
    done = await command(environ | {"NEON_API_HOST": "http://127.0.0.1:1"}, "sync")
    assert (done.code, done.out) == (1, "")
    assert "Neon" in done.one_line
    assert await answer(command, environ, "usage", "ada") == before


async def test_a_tier_and_a_limit_of_ones_own_count_at_once_and_a_reset_begins_anew(
    command: CommandFactory, environ: dict[str, str]
) -> None:
    async def budget(*arguments: str) -> dict[str, Any]:
        fields: dict[str, Any] = (await answer(command, environ, "users", *arguments))["budget"]
        return fields

    assert (await budget("tier", "ada", "paid"))["limitCents"] == 2000
    custom = await budget("tier", "ada", "paid", "--custom-cents", "60")
    assert (custom["limitCents"], custom["state"], custom["exceeded"]) == (60, "exceeded", True)
    assert (await budget("tier", "ada", "enterprise"))["limitCents"] == 60
    assert (await budget("tier", "ada", "enterprise", "--no-custom"))["limitCents"] == 10000
    assert (await budget("tier", "ada", "free"))["usedCents"] == 63
    done = await command(environ, "users", "reset", "ada")
    assert (done.code, done.err) == (0, "")
    assert any(line.split()[:2] == ["used", "$0.00"] for line in done.out.splitlines())
    check_plain(done.out)


async def test_the_commands_of_the_guide_run(fresh_command: CommandFactory, environ: dict[str, str]) -> None:
    commands = re.findall(r"^agentdb-mcp (.+?) +#", GUIDE, re.MULTILINE)
    commands += re.findall(r"`agentdb-mcp (policy [^`]+)`", GUIDE)
    assert len(commands) > 8
    for line in commands:
        done = await fresh_command(environ, *shlex.split(line))
        assert (line, done.code, done.err) == (line, 0, "")
        assert done.out
