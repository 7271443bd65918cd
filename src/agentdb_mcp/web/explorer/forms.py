"""Forms in dialogs: a row, a table, a column, a question. What is wrong is said in the form, which stays open."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any

from nicegui import ui

from agentdb_mcp.errors import AgentDBError, InvalidArgument, NotAuthenticated
from agentdb_mcp.execution import Statement
from agentdb_mcp.services.browse import Details
from agentdb_mcp.services.ddl import DEFAULTS, TYPES, NewColumn, add_column, create_table
from agentdb_mcp.services.rows import OPENED
from agentdb_mcp.web.explorer.layout import Text, View, box, button, said
from agentdb_mcp.web.explorer.values import kind
from agentdb_mcp.web.explorer.work import Place

Values = dict[str, str | None]
VALUE, NULL, DEFAULT = "value", "NULL", "default"


async def confirm(title: str, text: str, yes: str) -> bool:
    """Whether the person says yes."""
    with ui.dialog(value=True) as dialog, box("div", "ax-dialog", role="alertdialog", aria_label=title):
        Text("h2", title)
        Text("p", text)
        with box("div", "ax-actions"):
            button(yes, lambda: dialog.submit(True), "danger-solid")
            button("Cancel", lambda: dialog.submit(False), "", autofocus="")
    return bool(await dialog)


def value_form(columns: Sequence[tuple[str, str]], row: Sequence[str | None]) -> None:
    """A row's values, whole."""
    with ui.dialog(value=True) as dialog, box("div", "ax-dialog wide", aria_label="Row"):
        Text("h2", "Row")
        with box("dl", "ax-values"):
            for (name, type_name), value in zip(columns, row, strict=True):
                with box("dt"):
                    Text("span", name, "ax-strong")
                    Text("span", type_name, "muted ax-small")
                Text("dd", "null" if value is None else value[:OPENED], "v-null" if value is None else "mono")
        with box("div", "ax-actions"):
            button("Close", dialog.close, "primary")


def row_form(
    view: View,
    details: Details,
    title: str,
    row: Sequence[str | None] | None,
    save: Callable[[Values], Awaitable[None]],
) -> None:
    """Edit `row`, or a new one where it is None. Only what was changed is saved."""
    inputs: list[tuple[str, str | None, ui.select, ui.textarea]] = []
    with ui.dialog(value=True).props("persistent") as dialog, box("div", "ax-dialog wide", aria_label=title):
        Text("h2", title)
        with box("div", "ax-fields"):
            for index, column in enumerate(details.columns):
                inputs += _field(column, None if row is None else row[index], new=row is None, first=index == 0)
        wrong = Text("p", "", "ax-wrong", role="alert")

        async def submit() -> None:
            try:
                await save(changed(inputs, new=row is None))
            except NotAuthenticated:
                view.leave()
            except AgentDBError as error:
                wrong.text = said(error)
            else:
                dialog.close()

        with box("div", "ax-actions"):
            button("Insert" if row is None else "Save", submit, "primary")
            button("Cancel", dialog.close)


def _field(
    column: Mapping[str, Any], value: str | None, *, new: bool, first: bool
) -> list[tuple[str, str | None, ui.select, ui.textarea]]:
    name, type_name = column["name"], column["type"]
    given = column.get("generated") is not None
    long = value is not None and len(value) > OPENED
    with box("div", "ax-field"):
        note = f"{type_name}{'' if column.get('nullable') else ', not null'}"
        if given or long:
            with box("div", "ax-label"):
                Text("span", name, "ax-strong")
                Text("span", f"{note}, {'generated' if given else 'too long to edit here'}", "muted ax-small")
            Text("div", "null" if value is None else value[:1000], "mono ax-clip")
            return []
        with box("div", "ax-label"):
            Text("span", name, "ax-strong")
            Text("span", note, "muted ax-small")
        modes = [VALUE, *([NULL] if column.get("nullable") else []), *([DEFAULT] if new else [])]
        has_default = bool(column.get("default") or column.get("identity"))
        start = (
            (DEFAULT if has_default or column.get("nullable") else VALUE) if new else (NULL if value is None else VALUE)
        )
        with box("div", "ax-pair"):
            text = ui.textarea(value=value or "").props("outlined dense autogrow").classes("ax-grow mono")
            text.props["aria-label"] = f"{name}, {note}"
            text.props["input-class"] = "ax-input"
            if first:
                text.props["autofocus"] = True
            mode = (
                ui.select(modes, value=start if start in modes else VALUE)
                .props("outlined dense options-dense")
                .classes("ax-mode")
            )
            mode.props["aria-label"] = f"{name}: a value, null or the default"
        hint = Text("span", "", "ax-wrong ax-small", role="status")

        def typed() -> None:
            if text.value and mode.value != VALUE:
                mode.value = VALUE
            hint.text = mistake(type_name, text.value or "") if mode.value == VALUE else ""

        text.on_value_change(typed)
        mode.on_value_change(lambda: text.set_value("") if mode.value != VALUE else None)
    return [(name, value, mode, text)]


def changed(inputs: Sequence[tuple[str, str | None, Any, Any]], *, new: bool) -> Values:
    """What is to be written: of a new row all that is not left to its default."""
    values: Values = {}
    for name, before, mode, text in inputs:
        if mode.value == DEFAULT:
            continue
        value = None if mode.value == NULL else text.value or ""
        if new or value != before:
            values[name] = value
    return values


def mistake(type_name: str, text: str) -> str:
    """What is wrong with a value's text, as far as can be told before Postgres is asked."""
    shown = kind(type_name)
    if shown == "number" and type_name in ("smallint", "integer", "bigint"):
        return "" if text.strip().lstrip("+-").isdecimal() else "A whole number is needed."
    if shown == "number":
        try:
            float(text.replace("$", "").replace(",", ""))
        except ValueError:
            return "A number is needed."
    if shown == "bool" and text.strip().lower() not in ("true", "false", "t", "f", "yes", "no", "on", "off", "1", "0"):
        return "true or false is needed."
    return ""


def create_table_form(view: View, place: Place) -> None:
    """A new table, with the SQL that will run."""
    columns: list[_ColumnInputs] = []
    with ui.dialog(value=True).props("persistent") as dialog, box("div", "ax-dialog wide", aria_label="New table"):
        Text("h2", "New table")
        with box("div", "ax-pair"):
            name = ui.input("Name").props("outlined dense autofocus").classes("ax-grow")
            schema = ui.input("Schema", value="public").props("outlined dense")
        rows = box("div", "ax-fields")

        def sql() -> str:
            return create_table((schema.value or "public", name.value or ""), [each.column() for each in columns])

        preview = _Preview(sql)
        for each in (name, schema):
            each.on_value_change(preview.refresh)

        def add(*, name: str = "", type_: str = "text", identity: bool = False, key: bool = False) -> None:
            with rows:
                columns.append(_ColumnInputs(preview.refresh, name=name, type_=type_, identity=identity, key=key))
            preview.refresh()

        button("Add another column", add)
        preview.show()
        add(name="id", type_="bigint", identity=True, key=True)
        add()
        _run_buttons(view, place, dialog, preview, "Create table")


def add_column_form(view: View, place: Place, details: Details) -> None:
    with ui.dialog(value=True).props("persistent") as dialog, box("div", "ax-dialog wide", aria_label="Add column"):
        Text("h2", f"Add a column to {details.name}")
        holder: list[_ColumnInputs] = []
        preview = _Preview(lambda: add_column(details.table, holder[0].column()))
        holder.append(_ColumnInputs(preview.refresh, key_allowed=False))
        preview.show()
        _run_buttons(view, place, dialog, preview, "Add column")


class _ColumnInputs:
    """One line of a form."""

    def __init__(
        self, refresh: Callable[[], None], *, name: str = "", type_: str = "text", identity: bool = False,
        key: bool = False, key_allowed: bool = True,
    ) -> None:  # fmt: skip
        with box("div", "ax-column", role="group", aria_label="A column"):
            self._name = ui.input("Column", value=name).props("outlined dense").classes("ax-grow")
            self._type = ui.select(list(TYPES), value=type_, label="Type").props("outlined dense options-dense")
            self._default = ui.select(
                {each: each or "no default" for each in DEFAULTS} | {"identity": "numbered"},
                value="identity" if identity else "", label="Default",
            ).props("outlined dense options-dense")  # fmt: skip
            self._required = ui.checkbox("Not null", value=key)
            self._key = ui.checkbox("Key", value=key) if key_allowed else None
        for each in (self._name, self._type, self._default, self._required, *([self._key] if self._key else [])):
            each.on_value_change(refresh)

    def column(self) -> NewColumn:
        default = self._default.value
        return NewColumn(
            self._name.value or "", self._type.value, nullable=not self._required.value,
            primary_key=bool(self._key and self._key.value),
            default="" if default == "identity" else default, identity=default == "identity",
        )  # fmt: skip


class _Preview:
    """The statement that a form makes, or why it makes none."""

    def __init__(self, make: Callable[[], str]) -> None:
        self._make = make
        self._shown: Text | None = None

    def show(self) -> None:
        Text("h3", "This will run")
        self._shown = Text("pre", "", "ax-code", role="status", aria_label="The SQL that will run")
        self.refresh()

    def refresh(self) -> None:
        if self._shown is None:
            return
        try:
            self._shown.text = self._make()
        except InvalidArgument as error:
            self._shown.text = f"-- {error.message}"
        except IndexError:
            self._shown.text = ""

    def sql(self) -> str:
        return self._make()


def _run_buttons(view: View, place: Place, dialog: ui.dialog, preview: _Preview, label: str) -> None:
    wrong = Text("p", "", "ax-wrong", role="alert")

    async def run() -> None:
        try:
            sql = preview.sql()
            await view.work.do(lambda: view.work.queries.execute(place.tenant, place.scope, [Statement(sql)]))
        except NotAuthenticated:
            view.leave()
        except AgentDBError as error:
            wrong.text = said(error)
        else:
            dialog.close()
            ui.navigate.reload()

    with box("div", "ax-actions"):
        button(label, run, "primary")
        button("Cancel", dialog.close)
