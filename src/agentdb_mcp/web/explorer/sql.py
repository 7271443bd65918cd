"""The SQL page: an editor, what ran, its rows, its plan."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from nicegui import ui
from nicegui.element import Element

from agentdb_mcp.errors import AgentDBError, NotAuthenticated
from agentdb_mcp.execution import Statement
from agentdb_mcp.models import Result
from agentdb_mcp.services.queries import Answer
from agentdb_mcp.web.explorer.database import columns_of, objects
from agentdb_mcp.web.explorer.forms import value_form
from agentdb_mcp.web.explorer.grid import GridColumn, data_grid
from agentdb_mcp.web.explorer.layout import Text, View, box, button, database_frame, empty, enable, hint_of, loading
from agentdb_mcp.web.explorer.plan import read_plan
from agentdb_mcp.web.explorer.plan_view import show_plan
from agentdb_mcp.web.explorer.session import Ran
from agentdb_mcp.web.explorer.values import duration, number, place_in_text, whole, word_at
from agentdb_mcp.web.explorer.work import Place
from agentdb_mcp.web.exporting import Format

MAX_NAMES = 5000
TICK_S = 0.5


class SchemaNames(ui.element, component=Path(__file__).parent / "static" / "schema_names.js"):
    """Completes names in an editor."""

    def __init__(self, editor: ui.codemirror) -> None:
        super().__init__()
        self.props["editor"], self.props["names"] = editor.id, []

    def know(self, names: list[tuple[str, str, str]]) -> None:
        self.props["names"] = names
        self.update()

    async def selected(self) -> tuple[str, int]:
        """The text that is selected, and the character where it begins."""
        text, start = await self.run_method("selected", timeout=5) or ("", 0)
        return str(text), int(start)


@dataclass(slots=True)
class Console:
    """The state of one SQL page."""

    view: View
    place: Place
    task: asyncio.Task[Answer] | None = None
    parts: dict[str, Any] = field(default_factory=dict)
    ran: str = ""

    def show(self, sql: str) -> None:
        with box("div", "ax-console"):
            with box("div", "ax-editor"):
                keys: dict[str, Any] = {"Mod-Enter": self.run, "Shift-Mod-Enter": self.explain}
                editor = ui.codemirror(sql, language="PostgreSQL", line_wrapping=True, keymap=keys)
                self.parts["editor"], self.parts["names"] = editor, SchemaNames(editor)
                with box("div", "ax-bar", role="toolbar", aria_label="Statement"):
                    self.parts["run"] = button(
                        "Run", self.run, "primary", title="Ctrl+Enter; runs the selection, else all"
                    )
                    self.parts["cancel"] = button("Cancel", self.cancel, "danger")
                    button("Plan", self.explain, title="Ctrl+Shift+Enter; how Postgres would run it")
                    self.parts["analyze"] = ui.checkbox("with a run").props("dense")
                    box("span", "ax-grow")
                    button("History", self._history)
                    button("CSV", lambda: self._export("csv"), aria_label="Export as CSV")
                    button("JSON", lambda: self._export("json"), aria_label="Export as JSON")
            self.parts["status"] = Text("div", "", "ax-status", role="status")
            with box("div", "ax-fill") as results:
                empty("No result yet", "Write a statement and run it with Ctrl+Enter. Select a part to run only that.")
            self.parts["results"] = results
        enable(self.parts["cancel"], False)
        ui.timer(TICK_S, self._tick)
        self.view.client.on_delete(lambda: self.cancel())

    # --- running ----------------------------------------------------------------------------------------------------

    async def run(self) -> None:
        """Run the selection, else the whole text."""
        sql, start = await self._statement()
        if sql.strip():
            await self._run(sql, sql, start, self._show_result)

    async def explain(self) -> None:
        sql, start = await self._statement()
        if not sql.strip():
            return
        options = "FORMAT JSON, ANALYZE, BUFFERS" if self.parts["analyze"].value else "FORMAT JSON"
        head = f"EXPLAIN ({options}) "
        await self._run(sql, head + sql, start - len(head), self._show_plan)

    async def _statement(self) -> tuple[str, int]:
        selected, start = await self.parts["names"].selected()
        return (selected, start) if selected.strip() else (self.parts["editor"].value, 0)

    async def _run(self, sql: str, text: str, start: int, show: Callable[[Answer], str]) -> None:
        if self.task is not None:
            ui.notify("A statement is running: wait for it, or cancel it.", type="info")
            return
        self.ran = sql
        results: Element = self.parts["results"]
        results.clear()
        with results:
            loading()
        self._mark(None)
        self.parts["began"] = began = time.monotonic()
        work = self.view.work
        statement = Statement(text)
        self.task = asyncio.create_task(
            work.do(lambda: work.queries.execute(self.place.tenant, self.place.scope, [statement]))
        )
        enable(self.parts["cancel"], True)
        outcome, failed = "", False
        try:
            await asyncio.wait([self.task])
            answer = self.task.result()
        except asyncio.CancelledError:
            outcome, failed = "Cancelled.", True
            self._show_note("Cancelled", "The statement was ended, and nothing of it took effect.")
        except NotAuthenticated:
            self.view.leave()
            return
        except AgentDBError as error:
            outcome, failed = error.message, True
            self._show_error(error, text, start)
        else:
            results.clear()
            with results:
                outcome = show(answer)
        finally:
            self.task = None
            enable(self.parts["cancel"], False)
        if not failed:
            outcome += f" · {duration((time.monotonic() - began) * 1000)}"
        self.parts["status"].text = outcome if not failed else ""
        work.session.history.append(Ran(datetime.now(UTC), self.place.name, sql, outcome, failed))

    def cancel(self) -> None:
        """End the statement that runs."""
        if self.task is not None:
            self.task.cancel()

    def _tick(self) -> None:
        if self.task is not None:
            self.parts["status"].text = f"Running for {time.monotonic() - self.parts['began']:,.0f} s"

    # --- what came of it --------------------------------------------------------------------------------------------

    def _show_result(self, answer: Answer) -> str:
        result = answer.results[0]
        for note in (*answer.notes, *([answer.budget_note] if answer.budget_note else [])):
            Text("p", note, "ax-hint")
        if not result.columns:
            empty(result.command_tag or "Done", "The statement gave no rows.")
            return result.command_tag
        texts = [
            [whole(value, column) for value, column in zip(row, result.columns, strict=True)] for row in result.rows
        ]
        columns = [GridColumn(column.name, column.type) for column in result.columns]

        def open_row(index: int) -> None:
            with self.parts["results"]:
                value_form([(column.name, column.type) for column in result.columns], texts[index])

        if result.truncated:
            Text(
                "p", "There are more rows than are shown. Export gives them all; LIMIT and OFFSET the next.", "ax-hint"
            )
        data_grid(columns, texts, label="Result", on_open=open_row)
        return f"{number(len(texts))} row{'' if len(texts) == 1 else 's'}{', and more' if result.truncated else ''}"

    def _show_plan(self, answer: Answer) -> str:
        result = answer.results[0]
        try:
            plan = read_plan(_value(result))
        except (ValueError, TypeError, IndexError):
            empty("No plan", "Postgres plans SELECT, INSERT, UPDATE, DELETE and MERGE; for this there is none.")
            return "No plan"
        show_plan(plan)
        return f"Plan of {len(plan.steps)} step{'' if len(plan.steps) == 1 else 's'}"

    def _show_error(self, error: AgentDBError, text: str, start: int) -> None:
        results: Element = self.parts["results"]
        results.clear()
        with results, box("div", "ax-problem", role="alert"):
            Text("h2", "The statement failed" if error.sqlstate else "The statement did not run")
            Text("p", error.message)
            if error.position:
                line, column, shown = place_in_text(text, error.position)
                first = max(0, column - 60)
                Text("pre", f"{shown[first : first + 120]}\n{' ' * (column - 1 - first)}▲", "ax-code")
                self._mark(start + error.position)
                Text("p", f"Line {line}, character {column}.", "muted")
            if (hint := hint_of(error)) is not None:
                Text("p", hint, "muted")
            if error.sqlstate:
                Text("p", f"SQLSTATE {error.sqlstate}", "muted ax-small")

    def _show_note(self, title: str, text: str) -> None:
        results: Element = self.parts["results"]
        results.clear()
        with results:
            empty(title, text)

    def _mark(self, position: int | None) -> None:
        """Underline the word at a 1-based position in the editor, or nothing."""
        editor = self.parts["editor"]
        marks: list[dict[str, Any]] = []
        if position is not None and position > 0 and editor.value:
            start, end = word_at(editor.value, position)
            marks = [{"kind": "mark", "from": start, "to": end, "class": "ax-error-mark"}]
        if marks or editor.decorations:
            editor.decorations = marks

    # --- history and files ------------------------------------------------------------------------------------------

    def _history(self) -> None:
        with ui.dialog(value=True) as dialog, box("div", "ax-dialog wide", aria_label="History"):
            Text("h2", "History of this session")
            ran = list(reversed(self.view.work.session.history))
            if not ran:
                empty("Nothing ran yet", "Statements that you run show here until you sign out.")
            with box("ul", "ax-history"):
                for each in ran:
                    with box("li"), box("button", "ax-past", type="button") as chosen:
                        Text(
                            "span",
                            f"{each.at:%H:%M:%S} · {each.place} · {each.outcome}",
                            "ax-small " + ("bad" if each.failed else "muted"),
                        )
                        Text("code", each.sql[:400])

                    def choose(sql: str = each.sql) -> None:
                        self.parts["editor"].value = sql
                        dialog.close()

                    chosen.on("click", choose, [])
            with box("div", "ax-actions"):
                button("Close", dialog.close)

    async def _export(self, form: Format) -> None:
        sql, _ = await self._statement()
        if not sql.strip():
            ui.notify("Write a SELECT first: what it gives becomes the file.", type="info")
            return
        work = self.view.work
        path = work.explorer.ticket(work.session, self.place, Statement(sql), "result", form)
        ui.download(path.removeprefix("/explorer"))


async def show(view: View, place: Place) -> None:
    with database_frame(view, place, "sql"):
        console = Console(view, place)
        console.show("")
    await view.client.connected()
    found = await view.attempt(lambda: view.work.browse.tables(place.tenant, place.scope), looking=True)
    if found is not None:
        console.parts["names"].know(names_of(found))


def names_of(found: Result) -> list[tuple[str, str, str]]:
    """(name as SQL writes it, what it is, kind) of all tables and columns, each once."""
    names: dict[str, tuple[str, str, str]] = {}
    for each in objects(found):
        names.setdefault(each["name"], (written(each["name"]), each["type"], "class"))
        for column in columns_of(each):
            names.setdefault(column["name"], (written(column["name"]), f"{column['type']}, {each['name']}", "property"))
    return list(names.values())[:MAX_NAMES]


def written(name: str) -> str:
    """With quotes where SQL needs them."""
    plain = name.isascii() and name.islower() and name.replace("_", "a").isalnum() and not name[0].isdigit()
    return name if plain else '"' + name.replace('"', '""') + '"'


def _value(result: Result) -> object:
    value = result.rows[0][0]
    return json.loads(value) if isinstance(value, str) else value
