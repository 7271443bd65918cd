"""A plan as a tree that a person can read: what takes longest stands out."""

from __future__ import annotations

from agentdb_mcp.web.explorer.layout import Text, box
from agentdb_mcp.web.explorer.plan import Plan, Step
from agentdb_mcp.web.explorer.values import duration, number

HEAVY, MISJUDGED = 0.4, 10.0


def show_plan(plan: Plan) -> None:
    ran = plan.execution_ms is not None
    summary = (
        f"Planned in {duration(plan.planning_ms)}, ran in {duration(plan.execution_ms)}."
        if ran
        else (f"Estimated cost {plan.total_cost:,.0f}. “With a run” measures instead of estimating.")
    )
    Text("p", summary, "ax-hint")
    with box("div", "ax-scroll ax-plan", role="region", aria_label="Plan", tabindex="0"), box("table", "ax-table"):
        with box("thead"), box("tr"):
            heads = ("Step", "Share", "Rows", "Expected", "Time" if ran else "Cost")
            for head in heads if ran else (heads[0], heads[1], heads[2], heads[4]):
                Text("th", head, "" if head in ("Step", "Share") else "num", scope="col")
        with box("tbody"):
            for step in plan.steps:
                _step(step, ran=ran)


def _step(step: Step, *, ran: bool) -> None:
    with box("tr"):
        with box("td").style(f"padding-left:{12 + 20 * min(step.depth, 20)}px"):
            with box("div"):
                Text("span", ("└ " if step.depth else "") + step.title, "ax-strong")
                Text("span", step.subject, "ax-subject")
            for detail in step.details:
                Text("div", detail, "muted mono ax-small ax-clip")
        with box("td"):
            percent = f"{step.share * 100:.0f} %"
            with box("div", "ax-share heavy" if step.share >= HEAVY else "ax-share"):
                box("div").style(f"width:{step.share * 100:.1f}%")
            Text("span", percent, "ax-small")
        Text("td", number(step.actual_rows if ran else step.rows), "num")
        if ran:
            with box("td", "num"):
                Text("div", number(step.rows))
                if step.misjudged is not None and step.misjudged >= MISJUDGED:
                    Text("div", f"{step.misjudged:,.0f}× off", "bad ax-small")
        Text("td", duration(step.milliseconds) if ran else f"{step.cost:,.0f}", "num")
