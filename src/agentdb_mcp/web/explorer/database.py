"""One database: its tables, and of the one that is open its data and its structure."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any
from urllib.parse import urlencode

from nicegui import ui
from nicegui.element import Element

from agentdb_mcp.models import Result
from agentdb_mcp.services.browse import Details
from agentdb_mcp.services.rows import Table
from agentdb_mcp.web.explorer.forms import add_column_form, create_table_form
from agentdb_mcp.web.explorer.layout import BASE, Early, Text, View, box, button, database_frame, link
from agentdb_mcp.web.explorer.table_data import TableData
from agentdb_mcp.web.explorer.values import number, size
from agentdb_mcp.web.explorer.work import Place

Found = list[dict[str, Any]]


async def show(view: View, place: Place, table: Table | None, tab: str) -> None:
    with database_frame(view, place, "tables"):
        classes = "ax-split open" if table else "ax-split"
        with box("div", classes):
            listed = box("aside", "ax-side", aria_label="Tables")
            content = box("div", "ax-content")

    async def read_tables() -> Found:
        return objects(await view.work.browse.tables(place.tenant, place.scope))

    tables = Early(read_tables)
    if table is None:
        async with view.early(tables):
            found = await view.fill(listed, tables, lambda found: _list(view, place, found, None), ui.navigate.reload)
            if found is not None:
                with content:
                    _summary(view, place, found)
        return
    opened = table
    rows = TableData(view, place)

    async def read_details() -> Details:
        rows.details = await view.work.browse.details(place.tenant, place.scope, opened)
        return rows.details

    details = Early(read_details)
    async with view.early(tables, details, *([rows.first] if tab == "data" else [])):
        found = await view.fill(listed, tables, lambda found: _list(view, place, found, opened), ui.navigate.reload)
        if found is None:
            content.clear()
        elif await view.fill(content, details, lambda _: None, ui.navigate.reload) is not None:
            with content:
                await _table(rows, next((each for each in found if (each["schema"], each["name"]) == table), {}), tab)


def objects(answer: Result) -> Found:
    """Rows by name."""
    names = [column.name for column in answer.columns]
    return [dict(zip(names, row, strict=True)) for row in answer.rows]


def columns_of(found: Mapping[str, Any]) -> list[dict[str, Any]]:
    columns = found.get("columns") or []
    parsed: list[dict[str, Any]] = json.loads(columns) if isinstance(columns, str) else columns
    return parsed


def table_path(place: Place, schema: str, name: str, tab: str = "data") -> str:
    return f"{place.path}?{urlencode({'schema': schema, 'table': name, 'tab': tab})}"


def _list(view: View, place: Place, found: Found, current: Table | None) -> None:
    with box("div", "ax-side-head"):
        search = ui.input(placeholder="Find a table").props("dense outlined clearable").classes("ax-grow")
        search.props["aria-label"] = "Find a table"
        button("New table", lambda: create_table_form(view, place), "")
    names = box("ul", "ax-list")
    several = len({each["schema"] for each in found}) > 1

    def fill() -> None:
        wanted = (search.value or "").casefold()
        shown = [each for each in found if wanted in f"{each['schema']}.{each['name']}".casefold()]
        names.clear()
        with names:
            for each in shown[:500]:
                _entry(place, each, several, (each["schema"], each["name"]) == current)
            if not shown:
                Text("li", "No table of that name." if found else "No tables yet.", "muted ax-pad")
            elif len(shown) > 500:
                Text("li", f"and {len(shown) - 500} more: type a part of the name", "muted ax-pad")

    search.on_value_change(fill)
    fill()


def _entry(place: Place, each: Mapping[str, Any], several: bool, current: bool) -> None:
    name = f"{each['schema']}.{each['name']}" if several and each["schema"] != "public" else each["name"]
    with box("li"), link("", table_path(place, each["schema"], each["name"]), "ax-row", current=current):
        Text("span", name, "ax-name")
        what = each["type"] if each["type"] != "table" else number(each["rows"]) if each["rows"] is not None else ""
        Text("span", what, "muted ax-small")


def _summary(view: View, place: Place, found: Found) -> None:
    if not found:
        with box("div", "ax-empty"):
            Text("h2", "No tables yet")
            Text("p", "Agents make tables as they need them. You can make one too, or run a statement.")
            with box("div", "ax-actions"):
                button("New table", lambda: create_table_form(view, place), "primary")
                link("Open SQL", f"{place.path}/sql", "ax-button")
        return
    with box("section", "ax-card", aria_labelledby="tables"):
        Text("h2", f"{len(found)} {'table' if len(found) == 1 else 'tables'}", id="tables")
        with box("table", "ax-table cards"):
            with box("thead"), box("tr"):
                heads = (("Name", ""), ("Type", ""), ("Columns", "num"), ("Rows, about", "num"), ("Size", "num"))
                for name, classes in (*heads, ("Comment", "")):
                    Text("th", name, classes, scope="col")
            with box("tbody"):
                for each in found[:1000]:
                    with box("tr"):
                        with box("td"):
                            shown = each["name"] if each["schema"] == "public" else f"{each['schema']}.{each['name']}"
                            link(shown, table_path(place, each["schema"], each["name"]), "ax-strong")
                        Text("td", each["type"], data_label="Type")
                        Text("td", str(len(columns_of(each))), "num", data_label="Columns")
                        Text("td", number(each["rows"]), "num", data_label="Rows")
                        Text("td", size(each["size_bytes"]), "num", data_label="Size")
                        Text("td", each["comment"] or "", "muted ax-clip", data_label="Comment")


async def _table(rows: TableData, found: Mapping[str, Any], tab: str) -> None:
    view, place, details = rows.view, rows.place, rows.details
    with box("div", "ax-table-head"):
        Text("a", "‹ Tables", "ax-back", href=BASE + place.path)
        Text("h2", details.name if details.schema == "public" else f"{details.schema}.{details.name}")
        facts = [details.type, f"about {number(found.get('rows'))} rows" if found.get("rows") is not None else ""]
        facts.append(size(found.get("size_bytes")) if found.get("size_bytes") is not None else "")
        Text("span", " · ".join(fact for fact in facts if fact), "muted")
        with box("nav", "ax-tabs small", aria_label="Table"):
            for name in ("data", "structure"):
                link(name.capitalize(), table_path(place, *details.table, name), current=tab == name)
    if details.comment:
        Text("p", details.comment, "muted ax-comment")
    if tab == "structure":
        _structure(view, place, details)
    else:
        rows.estimate = found.get("rows")
        await rows.show()


def _structure(view: View, place: Place, details: Details) -> None:
    with box("div", "ax-stack"):
        heads = ("Name", "Type", "Null", "Default", "Key", "Comment")
        part = _part("Columns", "columns")
        if details.type == "table":
            with part:
                button("Add column", lambda: add_column_form(view, place, details))
        _rows(heads, [_column(details, each) for each in details.columns])
        _listing("Keys and constraints", "constraints", ("Name", "Type", "Definition"), details.constraints)
        _listing("Indexes", "indexes", ("Name", "Definition", "Size"), details.indexes)
        _listing("Triggers", "triggers", ("Name", "Definition"), details.triggers)
        if details.definition:
            _part("Definition", "definition")
            Text("pre", details.definition, "ax-code")


def _column(details: Details, each: Mapping[str, Any]) -> list[str]:
    default = each.get("default") or each.get("generated") or ""
    if each.get("identity"):
        default = f"identity {each['identity']}"
    key = "primary key" if each["name"] in details.primary_key else ""
    null = "" if each.get("nullable") else "not null"
    return [each["name"], each["type"], null, default, key, each.get("comment") or ""]


def _listing(title: str, name: str, heads: Sequence[str], found: Sequence[Mapping[str, Any]]) -> None:
    _part(title, name)
    if not found:
        Text("p", "None.", "muted")
        return
    fields = {"Name": "name", "Type": "type", "Definition": "definition"}
    rows = [
        [size(each.get("size_bytes")) if head == "Size" else str(each[fields[head]]) for head in heads]
        for each in found
    ]
    _rows(heads, rows)


def _part(title: str, name: str) -> Element:
    head = box("div", "ax-part")
    with head:
        Text("h3", title, id=name)
    return head


def _rows(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    with box("div", "ax-scroll", tabindex="0"), box("table", "ax-table cards"):
        with box("thead"), box("tr"):
            for head in heads:
                Text("th", head, scope="col")
        with box("tbody"):
            for row in rows:
                with box("tr"):
                    for head, value in zip(heads, row, strict=True):
                        mono = "mono" if head in ("Type", "Default", "Definition") else ""
                        Text("td", value, mono, data_label=head)
