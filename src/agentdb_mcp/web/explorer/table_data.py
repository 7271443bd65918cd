"""The rows of a table: page by page, sorted and filtered by Postgres, and changed one by one."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any

from nicegui import ui
from nicegui.element import Element
from nicegui.events import GenericEventArguments

from agentdb_mcp.errors import AgentDBError
from agentdb_mcp.services.browse import EDITABLE, Details
from agentdb_mcp.services.queries import Answer
from agentdb_mcp.services.rows import OPERATORS, Filter, Order, RowKey, select_all
from agentdb_mcp.web.explorer.forms import confirm, row_form, value_form
from agentdb_mcp.web.explorer.grid import NUMBER, Grid, GridColumn, data_grid, records
from agentdb_mcp.web.explorer.layout import Early, Text, View, box, button, empty, enable, labelled, problem
from agentdb_mcp.web.explorer.paging import Paging, page_size
from agentdb_mcp.web.explorer.work import Place
from agentdb_mcp.web.exporting import Format

_WITHOUT_KEY = "Read-only: the table has no primary key, so its rows cannot be told apart. Use SQL to change them."
_EXPORTED = "All rows that fit the filters, in the order that was chosen, with whole values"
_NO_TABLE = "Read-only: this is a {}."


@dataclass(slots=True)
class TableData:
    """The data of one table on a page; `details` are set before it is shown."""

    view: View
    place: Place
    details: Details = field(init=False)
    first: Early[Answer] = field(init=False)
    estimate: int | None = None
    paging: Paging = field(default_factory=Paging)
    order: list[Order] = field(default_factory=list)
    filters: list[Filter] = field(default_factory=list)
    rows: list[list[Any]] = field(default_factory=list)
    more: bool = False
    grid: Grid | None = None
    parts: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.first = Early(self._read)

    async def show(self) -> None:
        self._bar()
        self.parts["filters"] = box("div", "ax-filters")
        if not self.details.editable:
            kind_of = self.details.type
            Text("p", _WITHOUT_KEY if kind_of in EDITABLE else _NO_TABLE.format(kind_of), "ax-hint")
        self.parts["place"] = box("div", "ax-fill")
        with box("div", "ax-foot"):
            self.parts["range"] = Text("span", "", "muted", role="status")
            for name, label, turn in (
                ("first", "«", lambda: self._begin(from_end=False)),
                ("previous", "‹ Previous", lambda: self._turn(onward=self.paging.from_end)),
                ("next", "Next ›", lambda: self._turn(onward=not self.paging.from_end)),
                ("last", "»", lambda: self._begin(from_end=True)),
            ):
                spoken = f"{name.capitalize()} page"
                self.parts[name] = button(label, turn, aria_label=spoken, title=spoken)
        await self._load(self.first)

    def _bar(self) -> None:
        with box("div", "ax-bar", role="toolbar", aria_label="Rows"):
            button("Filter", self._ask_filter)
            button("Reload", self.reload)
            if self.details.editable:
                button("Insert row", self._insert)
                button("Edit", self._edit_selected)
                button("Delete", self._delete_selected, "danger")
            else:
                button("Open row", self._edit_selected)
            box("span", "ax-grow")
            button("CSV", lambda: self._export("csv"), aria_label="Export as CSV", title=_EXPORTED)
            button("JSON", lambda: self._export("json"), aria_label="Export as JSON", title=_EXPORTED)

    # --- reading ----------------------------------------------------------------------------------------------------

    async def reload(self) -> None:
        """Read the page anew."""
        await self._load(self._read)

    async def _read(self) -> Answer:
        start = self.paging.start
        return await self.view.work.browse.shown(
            self.place.tenant, self.place.scope, self.details, limit=self._size + 1, offset=start.offset,
            after=start.after, from_end=self.paging.from_end, filters=self.filters, order_by=self.order,
        )  # fmt: skip

    @property
    def _size(self) -> int:
        return page_size(len(self.details.columns))

    async def _load(self, read: Callable[[], Awaitable[Answer]]) -> None:
        try:
            answer = await self.view.work.look(read)
        except AgentDBError as error:
            self._failed(error)
            return
        result = answer.results[0]
        self.more = len(result.rows) > self._size or result.truncated
        rows = result.rows[: self._size]
        self.rows = rows[::-1] if self.paging.from_end else rows
        self._show_rows()

    def _failed(self, error: AgentDBError) -> None:
        if error.code == "not_authenticated":
            self.view.leave()
            return
        self.grid = None
        self.parts["place"].clear()
        with self.parts["place"]:
            problem(error, retry=self.reload)

    def _show_rows(self) -> None:
        place: Element = self.parts["place"]
        shown = [row[: len(self.details.columns)] for row in self.rows]
        if not shown and self.paging.began:
            self.grid = None
            place.clear()
            with place:
                if self.filters:
                    empty("No row fits", "Change or remove a filter.")
                else:
                    empty("No rows yet", "The table is empty.")
        elif self.grid is None:
            place.clear()
            with place:
                columns = [
                    GridColumn(each["name"], each["type"], each["name"] in self.details.primary_key)
                    for each in self.details.columns
                ]
                self.grid = data_grid(
                    columns,
                    shown,
                    label=f"Rows of {self.details.name}",
                    selectable=True,
                    sortable=True,
                    on_open=self._open,
                )
                self.grid.on("sortChanged", self._sorted, [])
        else:
            self.grid.run_grid_method("setGridOption", "rowData", records(shown))
            self.grid.run_grid_method("ensureIndexVisible", 0) if shown else None
        estimate = None if self.filters else self.estimate
        self.parts["range"].text = self.paging.text(len(shown), estimate, more=self.more or not self.paging.began)
        onward, back = ("previous", "next") if self.paging.from_end else ("next", "previous")
        enable(self.parts[onward], self.more)
        enable(self.parts[back], not self.paging.began)
        enable(self.parts["first"], not self.paging.began or self.paging.from_end)
        ordered = bool(self.order or self.details.primary_key)
        enable(self.parts["last"], ordered and (not self.paging.began if self.paging.from_end else self.more))

    async def _begin(self, *, from_end: bool) -> None:
        self.paging.begin(from_end=from_end)
        await self.reload()

    async def _turn(self, *, onward: bool) -> None:
        if not onward:
            self.paging.back()
        elif self.rows:
            last = 0 if self.paging.from_end else len(self.rows) - 1
            keyed = self.details.editable and not self.order
            self.paging.onward(len(self.rows), self._key(last) if keyed else None)
        await self.reload()

    async def _sorted(self, _: GenericEventArguments) -> None:
        if self.grid is None:
            return
        state = await self.grid.run_grid_method("getColumnState", timeout=5)
        sorted_by = sorted((each for each in state if each.get("sort")), key=lambda each: each.get("sortIndex") or 0)
        names = [each["name"] for each in self.details.columns]
        self.order = [
            Order(names[int(each["colId"][1:])], each["sort"] == "desc")
            for each in sorted_by
            if each["colId"][1:].isdecimal() and int(each["colId"][1:]) < len(names)
        ]
        await self._begin(from_end=False)

    # --- filters ----------------------------------------------------------------------------------------------------

    def _ask_filter(self) -> None:
        names = [each["name"] for each in self.details.columns]
        with ui.dialog(value=True) as dialog, box("div", "ax-dialog"):
            Text("h2", "Filter rows")
            column = labelled(
                ui.select(dict(enumerate(names)), value=0, label="Column", with_input=len(names) > 12), "Column"
            )
            operator = labelled(ui.select(list(OPERATORS), value="=", label="Operator"), "Operator")
            value = ui.input("Value").props("outlined dense autofocus")
            for each in (column, operator):
                each.props("outlined dense options-dense")

            async def add() -> None:
                self.filters.append(Filter(names[column.value], operator.value, value.value or ""))
                dialog.close()
                await self._filtered()

            value.on("keydown.enter", add, [])
            with box("div", "ax-actions"):
                button("Add filter", add, "primary")
                button("Cancel", dialog.close)

    async def _filtered(self) -> None:
        shown: Element = self.parts["filters"]
        shown.clear()
        with shown:
            for index, each in enumerate(self.filters):
                text = f"{each.column} {each.operator}{'' if 'null' in each.operator else f' {each.value}'}"
                with box("span", "ax-chip"):
                    Text("span", text)
                    button(
                        "×", lambda index=index: self._remove(index), "quiet", aria_label=f"Remove the filter {text}"
                    )
        await self._begin(from_end=False)

    async def _remove(self, index: int) -> None:
        del self.filters[index]
        await self._filtered()

    # --- changing ---------------------------------------------------------------------------------------------------

    def _key(self, index: int) -> dict[str, str]:
        values = self.rows[index][len(self.details.columns) : -1]
        return {name: str(value) for name, value in zip(self.details.primary_key, values, strict=True)}

    async def _open(self, index: int) -> None:
        if index >= len(self.rows):
            return
        if not self.details.editable:
            names = [(each["name"], each["type"]) for each in self.details.columns]
            row = await self._whole(index)
            if row is not None:
                value_form(names, row)
            return
        key = self._key(index)

        async def read() -> list[Any]:
            return await self.view.work.browse.row(self.place.tenant, self.place.scope, self.details, key)

        row = await self.view.attempt(read, looking=True)
        if row is None:
            return

        async def save(values: dict[str, str | None]) -> None:
            await self.view.work.do(lambda: self._update(RowKey(key, str(row[-1])), values))
            await self.reload()

        row_form(self.view, self.details, "Edit row", row[:-1], save)

    async def _update(self, key: RowKey, values: dict[str, str | None]) -> None:
        await self.view.work.browse.update(self.place.tenant, self.place.scope, self.details, key, values)

    async def _whole(self, index: int) -> list[Any] | None:
        """A row of what has no key: by its place, as it is ordered now."""
        place = len(self.rows) - 1 - index if self.paging.from_end else index
        answer = await self.view.attempt(
            lambda: self.view.work.browse.shown(
                self.place.tenant,
                self.place.scope,
                self.details,
                limit=1,
                offset=self.paging.start.passed + place,
                from_end=self.paging.from_end,
                filters=self.filters,
                order_by=self.order,
                whole=True,
            ),
            looking=True,
        )
        return answer.results[0].rows[0] if answer and answer.results[0].rows else None

    async def _selected(self) -> list[int]:
        if self.grid is None:
            return []
        chosen = await self.grid.run_grid_method("getSelectedRows", timeout=5)
        return sorted(int(each[NUMBER]) for each in chosen or [])

    async def _edit_selected(self) -> None:
        chosen = await self._selected()
        if len(chosen) != 1:
            ui.notify("Select one row first.", type="info")
            return
        await self._open(chosen[0])

    def _insert(self) -> None:
        async def save(values: dict[str, str | None]) -> None:
            work = self.view.work
            await work.do(lambda: work.browse.insert(self.place.tenant, self.place.scope, self.details, values))
            await self.reload()

        row_form(self.view, self.details, "Insert row", None, save)

    async def _delete_selected(self) -> None:
        chosen = await self._selected()
        if not chosen:
            ui.notify("Select the rows to delete first.", type="info")
            return
        keys = [RowKey(self._key(index), str(self.rows[index][-1])) for index in chosen]
        count = f"{len(keys)} row{'' if len(keys) == 1 else 's'}"
        if not await confirm(
            f"Delete {count}?", f"From {self.details.name}. This cannot be undone.", f"Delete {count}"
        ):
            return
        work = self.view.work
        deleted = await self.view.attempt(
            lambda: work.browse.delete(self.place.tenant, self.place.scope, self.details, keys)
        )
        if deleted is not None:
            if deleted < len(keys):
                ui.notify(
                    f"{deleted} of {count} deleted: somebody else changed or deleted the rest since you read it.",
                    type="warning",
                )
            else:
                ui.notify(f"{count} deleted.", type="positive")
        await self.reload()

    def _export(self, form: Format) -> None:
        statement = select_all(self.details.table, self.filters, self.order, self.details.primary_key)
        work = self.view.work
        path = work.explorer.ticket(work.session, self.place, statement, self.details.name, form)
        ui.download(path.removeprefix("/explorer"))
