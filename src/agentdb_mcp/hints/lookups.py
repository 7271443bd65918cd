"""What to look up in the catalog for an error, by its code and its message."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from agentdb_mcp.errors import Diagnosis

LookupKind = Literal["relation", "column", "same column", "function", "constraint", "not null"]

_RELATION = re.compile(r'(?:relation|table|view|sequence) "(.+)" does not exist', re.DOTALL)
_COLUMN_OF = re.compile(r'column "(.+)" of relation "(.+)" does not exist', re.DOTALL)
_COLUMN = re.compile(r'column "(.+)" .*does not exist', re.DOTALL)
_QUALIFIED_COLUMN = re.compile(r"column (?:(.+)\.)?([^.]+) does not exist", re.DOTALL)
_AMBIGUOUS = re.compile(r'column reference "(.+)" is ambiguous', re.DOTALL)
_FUNCTION = re.compile(r"(?:function|procedure) (.+?)\(.*\) does not exist", re.DOTALL)
_CONSTRAINT_CLASS = "23"
_NOT_NULL = "23502"


@dataclass(frozen=True, slots=True)
class Lookup:
    """A name, in a schema if one was given; `tables` are those that the statement names, or the one that it is of.

    `qualifier` is what stood before a column's name, a table or an alias; `type_name` the domain of a constraint.
    """

    kind: LookupKind
    name: str
    schema: str | None = None
    tables: tuple[str, ...] = ()
    type_name: str | None = None
    qualifier: str | None = None


def lookup(sqlstate: str, said: Diagnosis, objects: Sequence[str] = ()) -> Lookup | None:
    """None where the catalog knows nothing more. `objects` are the names of tables in the statement."""
    tables = tuple(dict.fromkeys(name.rpartition(".")[2] for name in objects))
    if sqlstate == "42P01" and (found := _RELATION.match(said.message)):
        schema, _, name = found[1].rpartition(".")
        return Lookup("relation", name, schema or None)
    if sqlstate == "42703":
        return _column(said.message, tables)
    if sqlstate == "42702" and (found := _AMBIGUOUS.match(said.message)):
        return Lookup("same column", found[1], tables=tables)
    if sqlstate == "42883" and (found := _FUNCTION.match(said.message)):
        schema, _, name = found[1].rpartition(".")
        return Lookup("function", name, schema or None)
    if sqlstate == _NOT_NULL and said.column and said.table:
        return Lookup("not null", said.column, said.schema, (said.table,))
    if sqlstate.startswith(_CONSTRAINT_CLASS) and said.constraint:
        of = (said.table,) if said.table else ()
        return Lookup("constraint", said.constraint, said.schema, of, said.type_name)
    return None


def _column(message: str, tables: tuple[str, ...]) -> Lookup | None:
    if found := _COLUMN_OF.match(message):
        return Lookup("column", found[1], tables=(found[2],))
    if found := _COLUMN.match(message):
        return Lookup("column", found[1], tables=tables)
    if found := _QUALIFIED_COLUMN.match(message):
        return Lookup("column", found[2], tables=tables, qualifier=found[1])
    return None
