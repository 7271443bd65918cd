"""Rows in a grid: texts only, the functions in it constant."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from nicegui import ui
from nicegui.events import GenericEventArguments

from agentdb_mcp.web.explorer.values import cut, kind, width

# Nulls look like nulls, and what is cut off or broken into lines is marked: the text itself is never HTML.
_CLASS = "p => p.value === null || p.value === undefined ? 'v-null' : 'v-' + (p.colDef.context?.kind ?? 'text')"
_FORMAT = "p => p.value === null || p.value === undefined ? 'null' : p.value"
_KEEP_ORDER = "() => 0"
# Where a row's number is in it.
NUMBER = 0
# What the grid is made of here, instead of all there is: with a smaller `rowBuffer`, one of two hundred columns took
# 247 ms to make instead of 560, in a profile.
_MODULES = [
    f"{name}Module"
    for name in ("ClientSideRowModel", "RowSelection", "CellStyle", "Tooltip", "ColumnApi", "ScrollApi", "EventApi")
]


class Grid(ui.aggrid):
    """One that is made once: the toolkit makes each twice that comes to a page by its socket."""

    def __init__(self, options: dict[str, Any]) -> None:
        super().__init__(options, auto_size_columns=False, modules=_MODULES)
        self._update_method = None


@dataclass(frozen=True, slots=True)
class GridColumn:
    name: str
    type: str
    key: bool = False


def data_grid(
    columns: Sequence[GridColumn],
    rows: Sequence[Sequence[str | None]],
    *,
    label: str,
    selectable: bool = False,
    sortable: bool = False,
    on_open: Callable[[int], Any] | None = None,
) -> Grid:
    """A row is told by its number. `sortable` shows and tells the order, which is whoever gives the rows' to keep."""
    options: dict[str, Any] = {
        "columnDefs": [_column(index, column, rows) for index, column in enumerate(columns)],
        "rowData": records(rows),
        "defaultColDef": {
            "resizable": True,
            "sortable": sortable,
            "suppressHeaderMenuButton": True,
            "cellDataType": False,
            ":cellClass": _CLASS,
            ":valueFormatter": _FORMAT,
            ":comparator": _KEEP_ORDER,
        },
        "rowHeight": 30,
        "headerHeight": 34,
        "animateRows": False,
        "suppressFieldDotNotation": True,
        "ensureDomOrder": True,
        "rowBuffer": 2,
        "tooltipShowDelay": 400,
        "suppressDragLeaveHidesColumns": True,
        "overlayNoRowsTemplate": "<span>No rows</span>",
    }
    if selectable:
        options["rowSelection"] = {
            "mode": "multiRow",
            "checkboxes": True,
            "headerCheckbox": True,
            "enableClickSelection": True,
        }
        options["selectionColumnDef"] = {"width": 44, "pinned": "left", "sortable": False}
    grid = Grid(options)
    grid.classes("ax-grid")
    grid.props["role"], grid.props["aria-label"] = "region", label
    if on_open is not None:
        opened = on_open

        def open_row(event: GenericEventArguments) -> object:
            return opened(int(event.args["data"][NUMBER]))

        grid.on("rowDoubleClicked", open_row, ["data"])
    return grid


def records(rows: Sequence[Sequence[str | None]]) -> tuple[tuple[object, ...], ...]:
    """Tuples, for the toolkit wraps and watches each list and dict, and looks at each value in them."""
    return tuple((number, *map(cut, row)) for number, row in enumerate(rows))


def _column(index: int, column: GridColumn, rows: Sequence[Sequence[str | None]]) -> dict[str, Any]:
    shown = kind(column.type)
    return {
        "field": str(1 + index),
        "colId": f"c{index}",
        "headerName": column.name,
        "headerTooltip": f"{column.name}: {column.type}{', primary key' if column.key else ''}",
        "width": width(column.name, [row[index] for row in rows]),
        "context": {"kind": shown},
        "headerClass": "h-number" if shown == "number" else ("h-key" if column.key else ""),
    }
