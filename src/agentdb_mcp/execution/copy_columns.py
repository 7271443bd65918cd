"""Which columns a copied query has, and which of a table they go to: our own reads on both sides, and pure rules.

A type is known by its name: that of an extension by the extension's, wherever it is installed. What the other database
lacks of an agent's own types becomes text. Lengths and precisions (varchar(20), numeric(10,2)) are not part of what a
query tells, so a table that is made has none. Domains come as the types that they are made of.

Errors that name what stands in a database are SqlError, whose text callers are shown as somebody else's.
"""

from __future__ import annotations

import difflib
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from agentdb_mcp.errors import InvalidArgument, SqlError
from agentdb_mcp.execution.login import quote
from agentdb_mcp.execution.types import TypeInfo
from agentdb_mcp.models import Scope

UNNAMED = "?column?"


@dataclass(frozen=True, slots=True)
class SourceColumn:
    """`type` is what people call it; of an array, `schema` and `base` name the type of its elements."""

    name: str
    type: str
    schema: str
    base: str
    extension: str | None
    array: bool


@dataclass(frozen=True, slots=True)
class TargetColumn:
    """A column that rows can go to; `sql` is its type in a statement, `type` what people call it.

    `own_numbers`: a sequence gives its values where nobody does.
    """

    name: str
    type: str
    sql: str = ""
    generated: bool = False
    always_identity: bool = False
    own_numbers: bool = False


def name_of(table: tuple[str, str]) -> str:
    """As SQL."""
    return ".".join(quote(part) for part in table)


# For each of the types $1: the name of its (elements') type, its schema and extension, and whether it is an array.
SOURCE_SQL = """
SELECT t.oid::pg_catalog.int8, n.nspname::pg_catalog.text, e.typname::pg_catalog.text, x.extname::pg_catalog.text,
       e.oid OPERATOR(pg_catalog.<>) t.oid
  FROM pg_catalog.pg_type AS t
  LEFT JOIN pg_catalog.pg_type AS a
         ON a.oid OPERATOR(pg_catalog.=) t.typelem AND a.typarray OPERATOR(pg_catalog.=) t.oid
  JOIN pg_catalog.pg_type AS e ON e.oid OPERATOR(pg_catalog.=) coalesce(a.oid, t.oid)
  JOIN pg_catalog.pg_namespace AS n ON n.oid OPERATOR(pg_catalog.=) e.typnamespace
  LEFT JOIN pg_catalog.pg_depend AS d
         ON d.classid OPERATOR(pg_catalog.=) 'pg_catalog.pg_type'::pg_catalog.regclass
        AND d.objid OPERATOR(pg_catalog.=) e.oid AND d.deptype OPERATOR(pg_catalog.=) 'e'::"char"
        AND d.refclassid OPERATOR(pg_catalog.=) 'pg_catalog.pg_extension'::pg_catalog.regclass
  LEFT JOIN pg_catalog.pg_extension AS x ON x.oid OPERATOR(pg_catalog.=) d.refobjid
 WHERE t.oid OPERATOR(pg_catalog.=) ANY ($1::pg_catalog.oid[])
"""
# For each of the (schema, type, extension) $1, $2, $3: that type here, as SQL without a length, or null.
TARGET_TYPES_SQL = """
SELECT (SELECT pg_catalog.format('%I.%I', n.nspname, t.typname)
          FROM pg_catalog.pg_type AS t
          JOIN pg_catalog.pg_namespace AS n ON n.oid OPERATOR(pg_catalog.=) t.typnamespace
          LEFT JOIN pg_catalog.pg_depend AS d
                 ON d.classid OPERATOR(pg_catalog.=) 'pg_catalog.pg_type'::pg_catalog.regclass
                AND d.objid OPERATOR(pg_catalog.=) t.oid AND d.deptype OPERATOR(pg_catalog.=) 'e'::"char"
                AND d.refclassid OPERATOR(pg_catalog.=) 'pg_catalog.pg_extension'::pg_catalog.regclass
          LEFT JOIN pg_catalog.pg_extension AS x ON x.oid OPERATOR(pg_catalog.=) d.refobjid
         WHERE t.typname OPERATOR(pg_catalog.=) w.base::pg_catalog.name
           AND t.typtype OPERATOR(pg_catalog.<>) 'p'::"char"
           AND CASE WHEN w.extension IS NULL
                    THEN x.extname IS NULL AND n.nspname OPERATOR(pg_catalog.=) w.schema::pg_catalog.name
                    ELSE x.extname OPERATOR(pg_catalog.=) w.extension::pg_catalog.name END
         LIMIT 1)
  FROM ROWS FROM (pg_catalog.unnest($1::pg_catalog.text[]), pg_catalog.unnest($2::pg_catalog.text[]),
                  pg_catalog.unnest($3::pg_catalog.text[])) WITH ORDINALITY AS w (schema, base, extension, place)
 ORDER BY w.place
"""
# What kind of relation $1.$2 is, and a row for each of its columns (one with nulls where it has none).
TABLE_SQL = """
SELECT c.relkind::pg_catalog.text, a.attname::pg_catalog.text, pg_catalog.format_type(a.atttypid, a.atttypmod),
       a.attgenerated OPERATOR(pg_catalog.<>) ''::"char", a.attidentity OPERATOR(pg_catalog.=) 'a'::"char",
       pg_catalog.pg_get_serial_sequence(pg_catalog.format('%I.%I', n.nspname, c.relname), a.attname::pg_catalog.text)
           IS NOT NULL
  FROM pg_catalog.pg_class AS c
  JOIN pg_catalog.pg_namespace AS n ON n.oid OPERATOR(pg_catalog.=) c.relnamespace
  LEFT JOIN pg_catalog.pg_attribute AS a
         ON a.attrelid OPERATOR(pg_catalog.=) c.oid AND a.attnum OPERATOR(pg_catalog.>) 0::pg_catalog.int2
        AND NOT a.attisdropped
 WHERE n.nspname OPERATOR(pg_catalog.=) $1::pg_catalog.name AND c.relname OPERATOR(pg_catalog.=) $2::pg_catalog.name
   AND c.relkind OPERATOR(pg_catalog.=) ANY ('{r,p,v,m,f}'::"char"[])
 ORDER BY a.attnum
"""
# Foreign keys of other tables whose rows go or change with those of $1.$2.
FOLLOWERS_SQL = """
SELECT k.conname::pg_catalog.text, k.conrelid::pg_catalog.regclass::pg_catalog.text
  FROM pg_catalog.pg_constraint AS k
  JOIN pg_catalog.pg_class AS c ON c.oid OPERATOR(pg_catalog.=) k.confrelid
  JOIN pg_catalog.pg_namespace AS n ON n.oid OPERATOR(pg_catalog.=) c.relnamespace
 WHERE k.contype OPERATOR(pg_catalog.=) 'f'::"char" AND k.conrelid OPERATOR(pg_catalog.<>) k.confrelid
   AND k.confdeltype OPERATOR(pg_catalog.=) ANY ('{c,n,d}'::"char"[])
   AND n.nspname OPERATOR(pg_catalog.=) $1::pg_catalog.name AND c.relname OPERATOR(pg_catalog.=) $2::pg_catalog.name
 ORDER BY 1 LIMIT 1
"""


def source_columns(columns: Sequence[tuple[str, TypeInfo]], found: Sequence[Sequence[object]]) -> list[SourceColumn]:
    """Of the query's columns and the rows of SOURCE_SQL. Raises InvalidArgument, SqlError for names that cannot be."""
    if not columns:
        raise InvalidArgument("The query gives no columns.", hint="Write a SELECT with the columns to copy.")
    twice = next((name for name, times in Counter(name for name, _ in columns).items() if times > 1), None)
    if twice is not None and twice != UNNAMED:
        raise SqlError(
            f"The query has two columns {twice!r}.", hint="Name one otherwise: SELECT … AS …", sqlstate="42701"
        )
    for place, (name, _) in enumerate(columns, 1):
        if name == UNNAMED:
            raise InvalidArgument(f"Column {place} of the query has no name.", hint="Name it: SELECT … AS …")
    known = {int(str(oid)): rest for oid, *rest in found}
    return [_source_column(name, info, known[info.oid]) for name, info in columns]


def _source_column(name: str, info: TypeInfo, found: Sequence[object]) -> SourceColumn:
    schema, base, extension, array = found
    return SourceColumn(
        name, info.name, str(schema), str(base), None if extension is None else str(extension), bool(array)
    )


def columns_to_make(
    source: Sequence[SourceColumn], types: Sequence[str | None], scope: Scope
) -> tuple[list[TargetColumn], list[str]]:
    """The columns of a new table in `scope`, and what to say of them. `types` is what TARGET_TYPES_SQL gave for each.

    Raises SqlError for an extension that is not there.
    """
    made, notes = list[TargetColumn](), list[str]()
    for column, found in zip(source, types, strict=True):
        if found is not None:
            made.append(TargetColumn(column.name, column.type, found + "[]" * column.array))
            continue
        if column.extension is not None:
            raise SqlError(
                f"Column {column.name!r} is of the type {column.type}, and the {scope} database lacks the extension"
                f" {column.extension}.",
                hint=f"Run CREATE EXTENSION {column.extension} there first, or cast the column to text in the query.",
                sqlstate="42704",
            )
        text = "text[]" if column.array else "text"
        made.append(TargetColumn(column.name, text, f"pg_catalog.{text}"))
        notes.append(
            f"Column {column.name!r} became {text}: no column in the {scope} database can be of the type {column.type}."
        )
    return made, notes


def columns_to_fill(
    source: Sequence[SourceColumn], found: Sequence[Sequence[object]], table: tuple[str, str], scope: Scope
) -> tuple[list[TargetColumn], list[str]]:
    """The table's columns by the query's names, and what to say of them. `found` is what TABLE_SQL gave.

    Raises SqlError for a table or a column that cannot take rows.
    """
    shown = ".".join(table)
    if not found:
        raise SqlError(
            f"There is no table {shown} in the {scope} database.",
            hint=(
                "Name the schema in to_schema, and the table alone in to_table."
                if "." in table[1]
                else 'Use mode "create" to make it from the query.'
            ),
            sqlstate="42P01",
        )
    if found[0][0] not in ("r", "p"):
        raise SqlError(
            f"{shown} is not a table.", hint="Name a table; rows cannot be copied into a view.", sqlstate="42809"
        )
    there = {str(row[1]): _target_column(row) for row in found if row[1] is not None}
    for name in (column.name for column in source):
        _check_fillable(name, there, shown, scope)
    filled = [there[column.name] for column in source]
    notes = [
        f"Column {column.name!r} numbers new rows itself, and its sequence was not moved: setval() does that."
        for column in filled
        if column.own_numbers
    ]
    return filled, notes


def _target_column(row: Sequence[object]) -> TargetColumn:
    _, name, sql_type, generated, always_identity, own_numbers = row
    return TargetColumn(str(name), str(sql_type), "", bool(generated), bool(always_identity), bool(own_numbers))


def _check_fillable(name: str, there: dict[str, TargetColumn], shown: str, scope: Scope) -> None:
    column = there.get(name)
    if column is None:
        near = difflib.get_close_matches(name, there, n=1, cutoff=0.5)
        nearest = f"; the nearest is {near[0]!r}" if near else ""
        raise SqlError(
            f"The table {shown} in the {scope} database has no column {name!r}{nearest}.",
            hint="Name the query's columns as the table's are: SELECT … AS …; what it leaves out takes its default.",
            sqlstate="42703",
        )
    if column.generated or column.always_identity:
        how = "generated from other columns" if column.generated else "GENERATED ALWAYS AS IDENTITY"
        raise SqlError(
            f"Column {name!r} of {shown} is {how}: its values cannot be copied.",
            hint="Leave it out of the query; the database gives its values.",
            sqlstate="428C9",
        )


def check_no_followers(found: Sequence[Sequence[object]], table: tuple[str, str]) -> None:
    """Of the rows of FOLLOWERS_SQL: replacing one table must change no other. Raises SqlError."""
    for constraint, other in found:
        raise SqlError(
            f"Replacing the rows of {'.'.join(table)} would change {other} as well, by its foreign key {constraint}.",
            hint='Use mode "append", or change that key to ON DELETE NO ACTION DEFERRABLE INITIALLY DEFERRED first.',
            sqlstate="2BP01",
        )


def check_empty(left: Sequence[Sequence[object]], table: tuple[str, str]) -> None:
    """Of what a DELETE of all rows left. Raises SqlError."""
    if left:
        raise SqlError(
            f"The rows of {'.'.join(table)} cannot be replaced: a rule, trigger or policy of the table keeps old ones.",
            hint='Use mode "append", or drop what keeps them first.',
            sqlstate="55000",
        )
