"""`usage` and `sync`: what databases cost, and asking the provider about it."""

from __future__ import annotations

import json
from datetime import date, datetime, timedelta
from typing import TYPE_CHECKING, Annotated

import typer

from agentdb_mcp.cli_running import Json, day_option, print_answer, run

if TYPE_CHECKING:
    from agentdb_mcp.bootstrap import Application
    from agentdb_mcp.models import BudgetReport, DayCost
    from agentdb_mcp.services import Synced

MAX_DAYS = 400


def usage(
    user_id: str,
    days: Annotated[int | None, typer.Option(min=1, max=MAX_DAYS, help="By day: as many, up to today (UTC).")] = None,
    since: Annotated[datetime | None, day_option("By day: from this one on.")] = None,
    until: Annotated[datetime | None, day_option("By day: up to this one; today unless given.")] = None,
    as_json: Json = False,
) -> None:
    """Show what a user's databases cost: in the current period, or day by day."""
    if days is not None and (since or until):
        raise typer.BadParameter("--days counts back from today: give it, or --since and --until.")
    if until and not since:
        raise typer.BadParameter("--until needs --since.")
    if days is None and since is None:
        _show_period(user_id, as_json)
    else:
        _show_days(user_id, days, since and since.date(), until and until.date(), as_json)


def _show_period(user_id: str, as_json: bool) -> None:
    async def work(application: Application) -> BudgetReport:
        return await application.managed().usage.report(user_id)

    report = run(work, quiet=True)
    if as_json:
        from agentdb_mcp.services.reports import usage_fields

        print(json.dumps(usage_fields(report)))
    else:
        from agentdb_mcp.cli_tables import print_table, usage_table

        print_table(usage_table(report))


def _show_days(user_id: str, days: int | None, since: date | None, until: date | None, as_json: bool) -> None:
    async def work(application: Application) -> tuple[list[DayCost], date, date]:
        usage = application.managed().usage
        last = until or usage.clock().date()
        first = since or last - timedelta(days=(days or 1) - 1)
        return await usage.history(user_id, first, last), first, last

    found, first, last = run(work, quiet=True)
    if as_json:
        from agentdb_mcp.services.reports import history_fields

        print(json.dumps(history_fields(found)))
    else:
        from agentdb_mcp.cli_tables import history_table, print_table

        print_table(history_table(found, first, last))


def sync(as_json: Json = False) -> None:
    """Put the provider's figures in the place of our estimates, once."""

    async def work(application: Application) -> Synced:
        from rich.console import Console
        from rich.progress import Progress

        console = Console(stderr=True)
        with Progress(console=console, transient=True, disable=not console.is_terminal) as bar:
            task = bar.add_task("projects", total=None)
            return (
                await application.managed()
                .sync()
                .run(lambda done, of_all: bar.update(task, completed=done, total=of_all))
            )

    synced = run(work, quiet=True)
    from agentdb_mcp.services.reports import sync_fields

    print_answer(sync_fields(synced), _words(synced), as_json)


def _words(synced: Synced) -> str:
    lines = [f"{_count(synced.projects, 'project')} asked for, {_count(synced.hours, 'hour')} settled."]
    if (error := synced.error_percent) is not None:
        lines.append(f"Estimates of these hours' compute were {abs(error):.1f} % too {'low' if error < 0 else 'high'}.")
    return "\n".join(lines)


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"
