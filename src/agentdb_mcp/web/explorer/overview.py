"""The overview: the user's databases, what they cost, and how much of the budget is left."""

from __future__ import annotations

from collections import defaultdict
from datetime import timedelta
from typing import Any

from nicegui import ui

from agentdb_mcp.models import BudgetReport, BudgetState, DayCost
from agentdb_mcp.web.explorer.layout import Early, Text, View, box, empty, frame, link
from agentdb_mcp.web.explorer.values import ago, dollars, size
from agentdb_mcp.web.explorer.work import DAYS, Seen

_BANNERS = {
    BudgetState.WARNING: ("The budget is nearly used up", "Statements that write will be refused once it is."),
    BudgetState.EXCEEDED: (
        "The budget is used up",
        "Reading and dropping tables go on; writing starts again with the next period.",
    ),
    BudgetState.PAUSED: ("The databases are paused", "The budget is used up; they start again with the next period."),
}
_COLOURS = ["#2f6fdf", "#1f9e89", "#d98a1f", "#8e5bd0", "#d1495b", "#4c9ed9", "#7a8b3c", "#b0578d"]
Overview = tuple[BudgetReport, list[Seen], list[DayCost]]


async def show(view: View) -> None:
    with frame(view, "Overview", "overview"):
        Text("h1", "Overview")
        content = box("div", "ax-stack")

    async def read() -> Overview:
        report = await view.work.budget()
        return report, await view.work.overview(report), await view.work.history()

    overview = Early(read)
    async with view.early(overview):
        await view.fill(content, overview, lambda found: _content(view, *found))


def _content(view: View, report: BudgetReport, seen: list[Seen], days: list[DayCost]) -> None:
    banner(report)
    with box("div", "ax-two"):
        _budget(report)
        _chart(days, view)
    with box("section", "ax-card", aria_labelledby="databases"):
        Text("h2", "Databases", id="databases")
        _databases(seen, view)


def banner(report: BudgetReport) -> None:
    """What the state of the budget means, where it means something."""
    if report.state not in _BANNERS:
        return
    title, text = _BANNERS[report.state]
    with box("div", f"ax-banner {report.state}", role="alert"):
        Text("strong", title)
        Text("span", f"{text} The period ends on {report.period_end[:10]}.")


def _budget(report: BudgetReport) -> None:
    limit = max(report.limit_microcents, 1)
    percent = min(100.0, 100 * report.used_microcents / limit)
    with box("section", "ax-card", aria_labelledby="budget"):
        Text("h2", "Budget of this month", id="budget")
        with box("div", "ax-amount"):
            Text("strong", dollars(report.used_microcents))
            Text("span", f"of {dollars(report.limit_microcents)}")
        meter = box(
            "div", f"ax-meter {report.state}", role="meter", aria_valuemin="0", aria_valuemax="100",
            aria_valuenow=f"{percent:.0f}", aria_label="Part of the budget that is used",
        )  # fmt: skip
        with meter:
            box("div").style(f"width:{percent:.2f}%")
        with box("dl", "ax-facts"):
            for name, value in (
                ("Left", dollars(max(0, report.limit_microcents - report.used_microcents))),
                ("Stored data will cost", dollars(report.committed_microcents)),
                ("Tier", report.tier),
                ("Period", f"{report.period_start[:10]} to {report.period_end[:10]}"),
            ):
                Text("dt", name)
                Text("dd", value)


def _databases(seen: list[Seen], view: View) -> None:
    now = view.work.explorer.state.managed.usage.clock()
    if len(seen) == 1:
        empty("No agent databases yet", "A database is made when a workspace is, or when its agent first uses it.")
    with box("table", "ax-table cards"):
        with box("thead"), box("tr"):
            for name, classes in (("Database", ""), ("State", ""), ("Size", "num"), ("Cost", "num"), ("Last use", "")):
                Text("th", name, classes, scope="col")
        with box("tbody"):
            for each in seen:
                with box("tr"):
                    with box("td"):
                        link(each.place.name, each.place.path, "ax-strong")
                        if each.place.scope == "global":
                            Text("span", "shared by all agents", "muted ax-note")
                    with box("td", data_label="State"):
                        Text("span", each.state, f"ax-state {each.state.replace(' ', '-')}")
                        if each.reason is not None:
                            Text("div", each.reason, "muted ax-small")
                    Text("td", size(each.size_bytes), "num", data_label="Size")
                    Text("td", dollars(each.cost_microcents), "num", data_label="Cost")
                    Text("td", ago(each.last_use, now), data_label="Last use")


def _chart(days: list[DayCost], view: View) -> None:
    with box("section", "ax-card", aria_labelledby="costs"):
        Text("h2", f"Cost by database, last {DAYS} days", id="costs")
        if not days:
            empty("No costs yet", "What databases cost shows here day by day, once they are used.")
            return
        chart = ui.echart(chart_options(days, view), renderer="svg").classes("ax-chart")
        total = dollars(sum(each.database.cost_microcents for each in days))
        chart.props["role"], chart.props["aria-label"] = "img", f"Cost by database and day, {total} together"


def chart_options(days: list[DayCost], view: View) -> dict[str, Any]:
    """Stacked bars by day. Tooltips are drawn (`richText`): names are never HTML."""
    today = view.work.explorer.state.managed.usage.clock().date()
    axis = [today - timedelta(DAYS - 1 - index) for index in range(DAYS)]
    places = {day: index for index, day in enumerate(axis)}
    by_name: dict[str, list[float]] = defaultdict(lambda: [0.0] * DAYS)
    for each in days:
        if each.day in places:
            name = "Global database" if each.database.workspace_id is None else each.database.name
            by_name[name][places[each.day]] += each.database.cost_microcents / 1e8
    grey = "#8792a2"
    return {
        "color": _COLOURS,
        "animation": False,
        "textStyle": {"fontFamily": "system-ui, sans-serif"},
        "tooltip": {"trigger": "axis", "renderMode": "richText", "axisPointer": {"type": "shadow"}},
        "legend": {"bottom": 0, "type": "scroll", "textStyle": {"color": grey}, "itemWidth": 12, "itemHeight": 12},
        "grid": {"left": 8, "right": 8, "top": 16, "bottom": 36, "containLabel": True},
        "xAxis": {
            "type": "category",
            "data": [f"{day:%m-%d}" for day in axis],
            "axisLabel": {"color": grey},
            "axisTick": {"show": False},
            "axisLine": {"lineStyle": {"color": grey, "opacity": 0.4}},
        },
        "yAxis": {
            "type": "value",
            "axisLabel": {"color": grey, "formatter": "${value}"},
            "splitLine": {"lineStyle": {"color": grey, "opacity": 0.15}},
        },
        "series": [
            {
                "name": name,
                "type": "bar",
                "stack": "cost",
                "barMaxWidth": 24,
                "data": [round(value, 6) for value in values],
            }
            for name, values in by_name.items()
        ],
    }
