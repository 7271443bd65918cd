"""What usage looks like outside: parts that sum to their totals, and tables that anybody can read."""

from __future__ import annotations

import io
import re
from datetime import date, timedelta
from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console, RenderableType

from agentdb_mcp import store
from agentdb_mcp.cli_tables import history_table, usage_table
from agentdb_mcp.costs import to_cents
from agentdb_mcp.jobs import JOBS
from agentdb_mcp.models import BudgetReport, BudgetState, DatabaseCost, DayCost, Scope
from agentdb_mcp.services.reports import history_fields, sync_fields, usage_fields
from agentdb_mcp.services.sync import Synced

GUIDE = (Path(__file__).parents[2] / "docs/budgets.md").read_text("utf-8")
START = date(2026, 11, 1)
microcents = st.one_of(st.integers(0, 3_000_000), st.integers(0, 10**18))
names = st.text(min_size=1, max_size=60)


def report_of(costs: list[int], limit: int = 200_000_000, name: str = "Notes", state: str = "ok") -> BudgetReport:
    """As the service makes it: the first database is the global one."""
    databases = [
        DatabaseCost(
            Scope.AGENT if number else Scope.GLOBAL,
            name if number else "global",
            cost,
            f"w{number}" if number else None,
            cents,
            number * 10**9,
        )
        for number, (cost, cents) in enumerate(zip(costs, to_cents(costs), strict=True))
    ]
    return BudgetReport(
        limit_microcents=limit,
        used_microcents=sum(costs),
        state=BudgetState(state),
        period_start="2026-11-01T00:00:00Z",
        period_end="2026-12-01T00:00:00Z",
        tier="free",
        by_database=tuple(databases),
        committed_microcents=1_500_000,
    )


def days_of(costs: list[tuple[int, int]]) -> list[DayCost]:
    """(day, micro-cents), as the service makes them."""
    ordered = sorted(costs, key=lambda each: each[0])
    cents = to_cents([cost for _, cost in ordered])
    return [
        DayCost(START + timedelta(days=day), DatabaseCost(Scope.AGENT, "Notes", cost, f"w{number}", share))
        for number, ((day, cost), share) in enumerate(zip(ordered, cents, strict=True))
    ]


def shown(table: RenderableType, width: int = 80) -> str:
    console = Console(file=io.StringIO(), width=width, highlight=False)
    console.print(table)
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


@given(st.lists(microcents, max_size=30))
def test_a_breakdown_sums_to_what_was_used(costs: list[int]) -> None:
    fields = usage_fields(report_of(costs))
    assert sum(each["costCents"] for each in fields["breakdown"]) == fields["budget"]["usedCents"]
    for each, cost in zip(fields["breakdown"], costs, strict=True):
        assert abs(each["costCents"] * 1_000_000 - cost) < 1_000_000


@given(st.lists(st.tuples(st.integers(0, 20), microcents), max_size=30))
def test_a_history_sums_to_its_days_and_they_to_their_databases(costs: list[tuple[int, int]]) -> None:
    fields = history_fields(days_of(costs))
    days = fields["days"]
    assert fields["totalCents"] == sum(day["costCents"] for day in days) == sum(cost for _, cost in costs) // 1_000_000
    for day in days:
        assert day["costCents"] == sum(each["costCents"] for each in day["breakdown"])
    assert [day["date"] for day in days] == sorted({day["date"] for day in days})


def test_what_is_left_is_never_less_than_nothing() -> None:
    budget = usage_fields(report_of([250_000_000], state="paused"))["budget"]
    assert (budget["remainingCents"], budget["usedCents"], budget["exceeded"]) == (0, 250, True)
    assert usage_fields(report_of([10], state="warning"))["budget"]["exceeded"] is False
    assert usage_fields(report_of([10], state="exceeded"))["budget"]["exceeded"] is True


def test_a_global_database_belongs_to_no_workspace() -> None:
    first, second = usage_fields(report_of([0, 0]))["breakdown"]
    assert first == {"type": "global", "name": "global", "costCents": 0, "sizeBytes": 0}
    assert second == {"type": "agent", "workspaceId": "w1", "name": "Notes", "costCents": 0, "sizeBytes": 10**9}


def test_a_sync_that_billed_nothing_has_no_error_to_tell() -> None:
    assert sync_fields(Synced(2, 0, 5, 0))["error_percent"] is None
    assert sync_fields(Synced(2, 1, 110, 100))["error_percent"] == 10.0


@given(st.lists(microcents, max_size=4), st.integers(0, 10**12), names, st.sampled_from(list(BudgetState)))
def test_a_table_of_any_costs_and_names_is_plain_text_of_80_columns(
    costs: list[int], limit: int, name: str, state: BudgetState
) -> None:
    text = shown(usage_table(report_of(costs, limit, name, state.value)))
    text += shown(history_table(days_of([(number // 2, cost) for number, cost in enumerate(costs)]), START, START))
    assert all(sign.isprintable() or sign == "\n" for sign in text)
    assert max(map(len, text.splitlines())) <= 80


def test_workspaces_of_the_same_name_are_told_apart() -> None:
    text = shown(usage_table(report_of([1, 2, 3], name="My [red]agent[/red]")))
    assert "My [red]agent[/red] (w1)" in text
    assert "My [red]agent[/red] (w2)" in text


def test_less_than_a_cent_is_not_shown_as_nothing() -> None:
    text = shown(usage_table(report_of([0, 220_833])))
    assert "<$0.01" in text
    assert next(line for line in text.splitlines() if "Notes" in line).count("█") == 20


def test_a_user_without_databases_is_told_so() -> None:
    assert "No database yet." in shown(usage_table(report_of([])))
    assert history_fields([]) == {"days": [], "totalCents": 0}


def test_the_table_of_the_guide_is_what_is_printed() -> None:
    costs = [24_300_000, 105_200_000, 27_100_000]
    parts = zip(("global", "Research", "Support"), costs, to_cents(costs), (1200, 400, 8), strict=True)
    report = BudgetReport(
        limit_microcents=2_000_000_000,
        used_microcents=sum(costs),
        state=BudgetState.OK,
        period_start="2026-11-01T00:00:00Z",
        period_end="2026-12-01T00:00:00Z",
        tier="paid",
        by_database=tuple(
            DatabaseCost(Scope.AGENT, name, cost, name.lower(), cents, megabytes * 10**6)
            for name, cost, cents, megabytes in parts
        ),
        committed_microcents=31_000_000,
    )
    lines = [line.rstrip() for line in shown(usage_table(report)).splitlines()]
    assert "\n".join(lines).strip() in GUIDE


def test_the_guide_names_every_job_and_its_period() -> None:
    periods = {60: "minute", 300: "5 minutes", 900: "15 minutes", 3600: "hour", 86_400: "day"}
    for job in JOBS:
        assert f"| `{job.name}` | {periods[int(job.every_s)]} |" in GUIDE


def test_the_guide_names_columns_that_there_are() -> None:
    tables = GUIDE[GUIDE.index("## Columns for other programs") :]
    steps = Path(store.__file__).parent.glob("migrations/*.sql")
    schema = "\n".join(step.read_text("utf-8") for step in steps)
    rows = re.findall(r"^\| (`.+`) \| (`.+`) \|$", tables, re.MULTILINE)
    assert len(rows) == 2
    for names in rows:
        for name in re.findall(r"`(\w+)`", " ".join(names)):
            assert re.search(rf"\b{name}\b", schema), name
