"""What the catalog's answer to a lookup says, in lines."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from agentdb_mcp.hints.lookups import Lookup
from agentdb_mcp.hints.names import MOST, closest, one_of, visible, written

Row = Mapping[str, str | None]


def told(wanted: Lookup, rows: Sequence[Row]) -> list[str]:
    """No lines where it has nothing that helps. `rows` are as `execution.names` gives them for that kind of lookup."""
    lines = {
        "relation": _relations,
        "column": _columns,
        "same column": _same_columns,
        "function": _functions,
        "constraint": _constraint,
        "not null": _not_null,
    }[wanted.kind](wanted, rows)
    return [visible(line, 500) for line in lines]


def _relations(wanted: Lookup, rows: Sequence[Row]) -> list[str]:
    found: dict[str, list[str]] = {}
    for row in rows:
        found.setdefault(str(row["name"]), []).append(str(row["schema"]))
    names = [
        _qualified(schema, name)
        for name in closest(wanted.name, found)
        for schema in sorted(found[name], key=lambda each: (each != wanted.schema, each != "public", each))
    ]
    return _meant(names)


def _columns(wanted: Lookup, rows: Sequence[Row]) -> list[str]:
    """Of the statement's own tables; else columns of exactly that name elsewhere."""
    own = [row for row in rows if row["table"] in wanted.tables]
    names = closest(wanted.name, [str(row["name"]) for row in own])
    if names:
        if wanted.qualifier and wanted.qualifier not in wanted.tables:  # an alias: the table's name would not do
            return _meant([written(wanted.qualifier, name) for name in names])
        return _meant([_column(row) for name in names for row in own if row["name"] == name])
    same = closest(wanted.name, [str(row["name"]) for row in rows], most=1)
    others = [_column(row) for row in rows if same and row["name"] == same[0]]
    if not wanted.tables:
        return _meant(others)
    return [f"There is {one_of(others[:MOST])}."] if others and same[0].casefold() == wanted.name.casefold() else []


def _same_columns(wanted: Lookup, rows: Sequence[Row]) -> list[str]:
    names = [_column(row) for row in rows if row["table"] in wanted.tables and row["name"] == wanted.name]
    return [f"It may be {one_of(names[:5])}."] if len(names) > 1 else []


def _functions(wanted: Lookup, rows: Sequence[Row]) -> list[str]:
    same = [row for row in rows if row["name"] == wanted.name]
    if same:
        each = [f"{_function(row)}({row['arguments'] or ''})" for row in same]
        more = f", and {len(each) - 5} more" if len(each) > 5 else ""
        return [f"There is {', '.join(each[:5])}{more}."]
    names = closest(wanted.name, [str(row["name"]) for row in rows])
    by_name = {str(row["name"]): row for row in reversed(rows)}
    return _meant([_function(by_name[name]) for name in names])


def _constraint(wanted: Lookup, rows: Sequence[Row]) -> list[str]:
    lines = []
    for row in rows[:1]:
        of = _qualified(str(row["schema"]), str(row["owner"]))
        lines.append(f"{written(wanted.name)} of {of}: {visible(str(row['definition']))}.")
    return lines


def _not_null(wanted: Lookup, rows: Sequence[Row]) -> list[str]:
    lines = []
    for row in rows[:1]:
        default = f"its default is {visible(row['default'], 100)}" if row["default"] else "it has no default"
        lines.append(f"{written(wanted.tables[0], wanted.name)} is {row['type']} NOT NULL, and {default}.")
    return lines


def _meant(names: Sequence[str]) -> list[str]:
    return [f"Did you mean {one_of(list(dict.fromkeys(names))[:MOST])}?"] if names else []


def _column(row: Row) -> str:
    schema, table, name = str(row["schema"]), str(row["table"]), str(row["name"])
    return written(table, name) if schema == "public" else written(schema, table, name)


def _function(row: Row) -> str:
    schema, name = str(row["schema"]), str(row["name"])
    return written(name) if schema in {"pg_catalog", "public", "extensions"} else written(schema, name)


def _qualified(schema: str, name: str) -> str:
    return written(name) if schema == "public" else written(schema, name)
