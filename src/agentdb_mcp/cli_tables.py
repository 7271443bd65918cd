"""Money and tokens as tables: with colours on a terminal, as plain text anywhere else."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Sequence
from datetime import UTC, date, datetime
from io import TextIOWrapper
from itertools import groupby

from rich.box import SIMPLE_HEAD
from rich.console import Console, Group, RenderableType
from rich.filesize import decimal
from rich.table import Table
from rich.text import Text

from agentdb_mcp.costs import MICROCENTS_PER_CENT
from agentdb_mcp.models import BudgetReport, BudgetState, DatabaseCost, DayCost
from agentdb_mcp.store import TokenRow

BAR = 20
STYLES = {
    BudgetState.OK: "green",
    BudgetState.WARNING: "yellow",
    BudgetState.EXCEEDED: "red",
    BudgetState.PAUSED: "bold red",
}


def print_table(table: RenderableType) -> None:
    """What the output's encoding cannot write becomes a question mark."""
    if isinstance(sys.stdout, TextIOWrapper):
        sys.stdout.reconfigure(errors="replace")
    Console(highlight=False).print(table)


def budget_table(report: BudgetReport) -> RenderableType:
    """The budget alone, line by line."""
    limit, used = report.limit_microcents, report.used_microcents
    committed = f"{_money(report.committed_microcents)} by stored data until the period ends"
    table = Table.grid(padding=(0, 2))
    table.add_column(style="dim")
    table.add_column()
    table.add_row("tier", _plain(report.tier))
    table.add_row("limit", _money(limit))
    table.add_row("used", f"{_money(used)}  {_bar(used, limit)} {_percent(used, limit)}")
    table.add_row("left", _money(max(0, limit - used), max(0, _cents(limit) - _cents(used))))
    table.add_row("committed", committed if report.committed_microcents else "nothing")
    table.add_row("state", Text(str(report.state), STYLES[report.state]))
    table.add_row("period", f"{report.period_start} to {report.period_end}")
    return table


def usage_table(report: BudgetReport) -> RenderableType:
    """The budget, and what each database had of it."""
    used, databases = report.used_microcents, report.by_database
    if not databases:
        return Group(budget_table(report), "", "No database yet.")
    table = _table()
    table.add_column("database", "total", overflow="fold")
    table.add_column("cost", _money(used), justify="right", no_wrap=True)
    table.add_column("share", no_wrap=True)
    table.add_column("size", decimal(sum(each.size_bytes for each in databases)), justify="right", no_wrap=True)
    for name, each in zip(_names(databases), databases, strict=True):
        cost = each.cost_microcents
        share = f"{_bar(cost, used)} {_percent(cost, used)}"
        table.add_row(name, _money(cost, each.cents), share, decimal(each.size_bytes))
    return Group(budget_table(report), table)


def history_table(days: Sequence[DayCost], since: date, until: date) -> RenderableType:
    """Day by day; bars are relative to the dearest day."""
    span = f"{since} to {until}"
    if not days:
        return f"No costs from {span} (UTC)."
    by_day = [(day, [each.database for each in found]) for day, found in groupby(days, key=lambda each: each.day)]
    sums = [(sum(each.cost_microcents for each in found), sum(each.cents for each in found)) for _, found in by_day]
    most = max(cost for cost, _ in sums)
    table = _table()
    table.add_column("day (UTC)", "total", no_wrap=True)
    table.add_column("database", span, overflow="fold")
    table.add_column("cost", _money(*map(sum, zip(*sums, strict=True))), justify="right", no_wrap=True)
    table.add_column("", no_wrap=True)
    names = iter(_names([each.database for each in days]))
    for (day, found), (cost, cents) in zip(by_day, sums, strict=True):
        if len(found) == 1:
            table.add_row(str(day), next(names), _money(cost, cents), _bar(cost, most), end_section=True)
            continue
        table.add_row(str(day), "", _money(cost, cents), _bar(cost, most))
        for each in found:
            own = each.cost_microcents
            table.add_row("", next(names), _money(own, each.cents), _bar(own, most), end_section=each is found[-1])
    return table


def token_table(rows: Sequence[TokenRow], now: datetime) -> RenderableType:
    """A user's tokens, with their names below their ids."""
    if not rows:
        return "No token."
    table = Table(box=SIMPLE_HEAD, pad_edge=False)
    table.add_column("token", overflow="fold", min_width=len(rows[0].id))
    table.add_column("for", overflow="fold")
    table.add_column("valid (UTC)")
    table.add_column("last used")
    for row in rows:
        what = ", ".join(row.scopes) + (f" in {row.workspace_id}" if row.workspace_id else "")
        valid = row.ended(now) or (f"until {_minute(row.expires_at)}" if row.expires_at else "until revoked")
        used = _minute(row.last_used_at) if row.last_used_at else "never"
        table.add_row(Text.assemble(row.id, "\n", _plain(row.name)) if row.name else row.id, _plain(what), valid, used)
    return table


def _minute(at: datetime) -> str:
    return f"{at.astimezone(UTC):%Y-%m-%d %H:%M}"


def _table() -> Table:
    return Table(box=SIMPLE_HEAD, show_footer=True, footer_style="bold", pad_edge=False)


def _names(databases: Sequence[DatabaseCost]) -> list[Text]:
    """Workspaces may have the same name: those are told apart by their ids."""
    count = Counter(name for name, _ in {(each.name, each.workspace_id) for each in databases})
    return [
        _plain(each.name if count[each.name] == 1 or not each.workspace_id else f"{each.name} ({each.workspace_id})")
        for each in databases
    ]


def _plain(text: str) -> Text:
    """Users choose names: no markup, and nothing that a terminal obeys."""
    return Text("".join(sign if sign.isprintable() else "�" for sign in text))


def _money(microcents: int, cents: int | None = None) -> str:
    """`cents` where the parts of a total were rounded together."""
    cents = _cents(microcents) if cents is None else cents
    return "<$0.01" if microcents and not cents else f"${cents // 100:,}.{cents % 100:02}"


def _cents(microcents: int) -> int:
    return microcents // MICROCENTS_PER_CENT


def _percent(part: int, whole: int) -> str:
    return f"{100 * part // whole:3} %" if whole else ""


def _bar(part: int, whole: int) -> str:
    """Filled in proportion, and a little wherever there is anything."""
    filled = min(BAR, max(1, round(BAR * part / whole))) if part and whole else 0
    return ("█" * filled).ljust(BAR)
