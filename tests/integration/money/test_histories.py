"""Bills against a second calculation, in fractions, from what the local Neon API itself answers about random months."""

from __future__ import annotations

import os
import random
import tomllib
from collections import defaultdict
from datetime import datetime, timedelta
from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest
from cloud import DAY, HISTORY, HOUR, Agent, Cloud, hour_of

DATABASES_A_USER = 2
# A month in parts of which Neon still tells the hours.
PARTS = (6, 6, 6, 6, 3)
AMOUNTS = {
    "compute_unit_seconds": 40_000,
    "root_branch_byte_hours": 10**12,
    "child_branch_byte_hours": 10**11,
    "instant_restore_byte_hours": 10**11,
    "snapshot_byte_hours": 10**11,
    "sent_bytes": 2 * 10**11,
    "private_sent_bytes": 10**12,
    "extra_branch_hours": 5,
}
METRICS = {
    "compute_unit_seconds": "compute",
    "root_branch_bytes_month": "storage",
    "child_branch_bytes_month": "storage",
    "instant_restore_bytes_month": "history",
    "snapshot_storage_bytes_month": "history",
    "public_network_transfer_bytes": "egress",
    "extra_branches_month": "branches",
}
# Micro-cents by which a sum of roundings may be off.
ROUNDING = 2

Told = dict[str, dict[datetime, dict[str, Fraction]]]


def price_book() -> dict[str, Any]:
    policy = tomllib.loads((Path(__file__).parents[3] / "policies" / "default.toml").read_text())
    book: dict[str, Any] = policy["price_books"][policy["prices"]["book"]]
    return book


def expected(told: dict[datetime, dict[str, Fraction]], start: datetime, until: datetime) -> Fraction:
    """What a project's hours cost, in micro-cents."""
    book, used = price_book(), defaultdict[str, Fraction](Fraction)
    for hour, amounts in told.items():
        if start <= hour < until:
            for metric, amount in amounts.items():
                used[METRICS[metric]] += amount
    billion, month = Fraction(10**9), Fraction(744)
    dollars = (
        used["compute"] / 3600 * Fraction(book["compute_per_cu_hour"])
        + used["storage"] / month / billion * Fraction(book["storage_per_gb_month"])
        + used["history"] / month / billion * Fraction(book["history_per_gb_month"])
        + max(Fraction(0), used["egress"] / billion - book["egress_free_gb"]) * Fraction(book["egress_per_gb"])
        + used["branches"] / month * Fraction(book["branch_month"])
    )
    return dollars * 100 * 1_000_000


def random_use(chance: random.Random, agents: list[Agent], start: datetime, days: int) -> list[dict[str, object]]:
    return [
        {"project_id": agent.project_id, "hour": (start + chance.randrange(days * 24) * HOUR).isoformat()}
        | {name: chance.randrange(most) for name, most in AMOUNTS.items() if chance.random() < 0.5}
        for agent in agents
        for _ in range(chance.choice((0, 1, 4, 12)))
    ]


async def listen(cloud: Cloud, agents: list[Agent], start: datetime, until: datetime, told: Told) -> None:
    """What the API says itself of the hours."""
    query = {
        "from": start.isoformat(),
        "to": until.isoformat(),
        "granularity": "hourly",
        "metrics": ",".join(METRICS),
        "project_ids": ",".join(agent.project_id for agent in agents),
        "org_id": cloud.environ["NEON_ORG_ID"],
        "limit": 100,
    }
    answer = (await cloud.api.get(HISTORY, params=query)).raise_for_status().json()
    for project in answer["projects"]:
        for period in project["periods"]:
            for span in period["consumption"]:
                amounts = {each["metric_name"]: Fraction(each["value"]) for each in span["metrics"]}
                told[project["project_id"]][datetime.fromisoformat(span["timeframe_start"])] = amounts


async def owned(cloud: Cloud, users: int) -> list[Agent]:
    """Users with several databases each: those of the first pay for those of the others."""
    agents = await cloud.agents(users * DATABASES_A_USER)
    for number, agent in enumerate(agents):
        payer = agents[number - number % DATABASES_A_USER].user_id
        await cloud.db.execute("UPDATE workspace_database SET user_id = $1 WHERE id = $2", payer, agent.row.id)
        await cloud.db.execute("UPDATE workspace SET owner_id = $1 WHERE id = $2", payer, agent.tenant.workspace_id)
        await cloud.db.execute("UPDATE user_db_budget SET tier = 'enterprise', placed_tier = 'enterprise'")
    return agents


async def live_a_month(cloud: Cloud, chance: random.Random, agents: list[Agent]) -> None:
    """Random use and random syncs; with days without any, periods begin at midnight: days are all that Neon tells."""
    first, told = hour_of(cloud.clock()), Told()
    told |= {agent.project_id: {} for agent in agents}
    outage = chance.random() < 0.5
    begins = {}
    for agent in agents[::DATABASES_A_USER]:
        begin = first + chance.randrange(1, 60) * HOUR
        begins[agent.user_id] = begin = begin.replace(hour=0) + DAY if outage else begin
        await cloud.db.execute("UPDATE user_db_budget SET period_anchor = $2 WHERE user_id = $1", agent.user_id, begin)
    for number, days in enumerate(PARTS):
        start = hour_of(cloud.clock())
        await cloud.advance(timedelta(days=days))
        await cloud.add(random_use(chance, agents, start, days))
        # All but the last two hours: these are told once they are over for good.
        await listen(cloud, agents, start - 2 * HOUR, hour_of(cloud.clock()), told)
        if number == len(PARTS) - 1 or not outage:
            await cloud.sync()
    for agent in agents[::DATABASES_A_USER]:
        until = await cloud.synced(agent)
        assert until is not None
        assert until >= hour_of(cloud.clock()) - 2 * HOUR
        report = await cloud.report(agent)
        begin = begins[agent.user_id]
        assert datetime.fromisoformat(report.period_start) == begin
        index = agents.index(agent)
        mine = {each.tenant.workspace_id: each for each in agents[index : index + DATABASES_A_USER]}
        assert {each.workspace_id for each in report.by_database} == set(mine)
        total = Fraction(0)
        for each in report.by_database:
            wanted = expected(told[mine[each.workspace_id].project_id], begin, until)
            assert abs(each.cost_microcents - wanted) <= ROUNDING
            total += wanted
        assert total > 0
        assert abs(report.used_microcents - total) <= ROUNDING * DATABASES_A_USER
        assert sum(each.cents for each in report.by_database) == report.used_microcents // 1_000_000
        assert abs(report.used_microcents / 1_000_000 - total / 1_000_000) < Fraction(1, 100)


@pytest.mark.parametrize(
    ("users", "months"),
    [
        pytest.param(2, 2, id="a month with an outage and one without"),
        pytest.param(25, 20, id="a thousand histories", marks=pytest.mark.long),
    ],
)
async def test_bills_are_what_a_second_calculation_says(cloud: Cloud, users: int, months: int) -> None:
    seed = int(os.environ.get("AGENTDB_HISTORIES_SEED", "1"))
    agents = await owned(cloud, users)
    for month in range(months):
        await live_a_month(cloud, random.Random(f"{seed}-{month}"), agents)
