"""What agents did: the audit log, page by page."""

from __future__ import annotations

from typing import Any

from nicegui import ui
from nicegui.element import Element

from agentdb_mcp.models import Scope
from agentdb_mcp.store import AuditDecision, AuditEntry
from agentdb_mcp.web.explorer.layout import Text, View, box, button, empty, enable, frame
from agentdb_mcp.web.explorer.values import duration, moment, number
from agentdb_mcp.web.explorer.work import Place

PAGE = 50
EVERYTHING = "all"
_SOURCES = {"mcp": "agent, by MCP", "rest": "by REST", "explorer": "a person, here", "cli": "command line"}
DECISIONS = {EVERYTHING: "All decisions", "allowed": "Allowed", "refused": "Refused", "failed": "Failed"}


async def show(view: View) -> None:
    with frame(view, "Activity", "activity"):
        Text("h1", "Activity")
        Text(
            "p", "What agents and people did with your databases. Texts of statements and values are not kept.", "muted"
        )
        bar = box("div", "ax-bar", role="toolbar", aria_label="Filters")
        rows = box("div", "ax-stack")
        with box("div", "ax-foot"):
            newest = button("« Newest", lambda: load(None))
            older = button("Older ›", lambda: load(state["last"]))
    state: dict[str, Any] = {"last": None}
    await view.client.connected()
    places = await view.attempt(view.work.places)
    if places is None:
        return
    with bar:
        names = {EVERYTHING: "All agents"} | {str(index): place.name for index, place in enumerate(places)}
        place = (
            ui.select(names, value=EVERYTHING, label="Agent").props("outlined dense options-dense").classes("ax-select")
        )
        decision = (
            ui.select(DECISIONS, value=EVERYTHING, label="Decision")
            .props("outlined dense options-dense")
            .classes("ax-select")
        )
        looks = ui.checkbox("with what these pages read").props("dense")
        button("Reload", lambda: load(None))

    async def load(before: int | None) -> None:
        chosen = None if place.value == EVERYTHING else places[int(place.value)]
        wanted = None if decision.value == EVERYTHING else AuditDecision(decision.value)
        found = await view.fill(
            rows,
            lambda: view.work.activity(chosen, wanted, before, PAGE + 1, looks=bool(looks.value)),
            lambda each: _rows(each[:PAGE], places, rows),
        )
        shown = (found or [])[:PAGE]
        state["last"] = shown[-1].sequence if shown else None
        enable(older, len(found or []) > PAGE)
        enable(newest, before is not None)

    place.on_value_change(lambda: load(None))
    decision.on_value_change(lambda: load(None))
    looks.on_value_change(lambda: load(None))
    await load(None)


def _rows(entries: list[AuditEntry], places: list[Place], _: Element) -> None:
    if not entries:
        empty("Nothing here yet", "What agents do shows here a few seconds later.")
        return
    names = {
        (place.scope, place.tenant.workspace_id if place.scope is Scope.AGENT else None): place.name for place in places
    }
    with box("div", "ax-scroll", role="region", aria_label="Activity", tabindex="0"), box("table", "ax-table cards"):
        with box("thead"), box("tr"):
            for name in ("When (UTC)", "Agent", "Database", "What", "Decision", "Duration", "Rows", "Reason"):
                Text("th", name, "num" if name in ("Duration", "Rows") else "", scope="col")
        with box("tbody"):
            for each in entries:
                _row(each, names)


def _row(each: AuditEntry, names: dict[tuple[Scope, str | None], str]) -> None:
    scope = Scope(each.scope) if each.scope else None
    agent = names.get((Scope.AGENT, each.workspace_id), each.workspace_id or "")
    database = (
        "" if scope is None else names.get((scope, each.workspace_id if scope is Scope.AGENT else None), str(scope))
    )
    what = ", ".join(each.kinds) or each.tool or ""
    with box("tr"):
        Text("td", moment(each.at), "mono ax-nowrap", data_label="When")
        with box("td", data_label="Agent"):
            Text("span", agent or "–")
            Text("div", _SOURCES.get(each.source, each.source), "muted ax-small")
        Text("td", database, data_label="Database")
        with box("td", data_label="What"):
            Text("span", what)
            if each.objects:
                Text("div", ", ".join(each.objects)[:120], "muted ax-small ax-clip")
        with box("td", data_label="Decision"):
            Text("span", str(each.decision), f"ax-state {each.decision}")
        Text("td", duration(each.duration_ms), "num", data_label="Duration")
        Text("td", number(each.rows), "num", data_label="Rows")
        reason = " ".join(part for part in (each.code, f"({each.sqlstate})" if each.sqlstate else None) if part)
        Text("td", reason, "muted", data_label="Reason")
