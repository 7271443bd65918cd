"""What a condition or a sort key of a plan says about columns. Postgres wrote the text: each column with its table.

A text that is not understood says nothing, which costs a candidate and no more.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from sqlglot import exp

# sqlglot logs the text of what it cannot parse.
logging.getLogger("sqlglot").disabled = True

# Beyond these a text is not read: the parser takes long for lists of thousands and for brackets in brackets.
MAX_CHARACTERS = 4_000
MAX_DEPTH = 10
_PARSER_FAULTS = (
    RuntimeError, ValueError, TypeError, AttributeError, LookupError, ArithmeticError, AssertionError,
)  # fmt: skip
# A value that another part of the plan makes; Postgres writes it in no SQL.
_OTHER_PLAN = re.compile(r"\((?:hashed |rescan )?(?:Sub|Init)Plan \d+\)(?:\.col\d+)?|\b(?:Sub|Init)Plan \d+")
_SORT_SUFFIX = re.compile(r"( DESC)?( NULLS (?:FIRST|LAST))?$")


class Role(StrEnum):
    """How a condition uses a column: `=`, a range, or as one of several that any may be true."""

    EQUAL = "equal"
    RANGE = "range"
    ANY = "any"


@dataclass(frozen=True, slots=True)
class Use:
    """A column in a condition; `others` are the tables on the other side of its sign."""

    alias: str
    column: str
    role: Role
    others: frozenset[str] = frozenset()


def uses(condition: str) -> list[Use]:
    """The columns of a condition that an index could look for, in their order."""
    tree = _parse(condition)
    return [] if tree is None else list(_conjunction(tree))


def sort_key(text: str) -> tuple[str, str, str] | None:
    """Table, column and suffix (as of `indexes.Key`) of a sort key; None where it is more than a column."""
    found = _SORT_SUFFIX.search(text)
    descending, nulls = (found[1] or "", found[2] or "") if found else ("", "")
    tree = _parse(text[: found.start()] if found else text)
    column = None if tree is None else _column(tree)
    return None if column is None else (column[0], column[1], descending + nulls)


def _parse(text: str) -> exp.Expr | None:
    from sqlglot.dialects.postgres import Postgres
    from sqlglot.errors import SqlglotError

    if len(text) > MAX_CHARACTERS or _depth(text) > MAX_DEPTH:
        return None
    try:
        trees = Postgres().parse(_OTHER_PLAN.sub("NULL", text))
    except (SqlglotError, *_PARSER_FAULTS):
        return None
    return trees[0] if len(trees) == 1 else None


def _depth(text: str) -> int:
    depth = deepest = 0
    for character in text:
        if character in "([":
            depth += 1
            deepest = max(deepest, depth)
        elif character in ")]":
            depth -= 1
    return deepest


def _conjunction(tree: exp.Expr) -> Iterator[Use]:
    from sqlglot import exp

    if isinstance(tree, exp.Paren):
        yield from _conjunction(tree.this)
    elif isinstance(tree, exp.And):
        for part in tree.flatten():
            yield from _conjunction(part)
    elif isinstance(tree, exp.Or):
        for part in tree.flatten():
            for use in _conjunction(part):
                yield Use(use.alias, use.column, Role.ANY)
    else:
        yield from _comparison(tree)


def _comparison(tree: exp.Expr) -> Iterator[Use]:
    from sqlglot import exp

    if isinstance(tree, exp.Not):
        tree = tree.this
    if (flag := _column(tree)) is not None:  # a boolean column by itself
        yield Use(*flag, Role.EQUAL)
    elif isinstance(tree, exp.Is) and (column := _column(tree.this)) is not None:
        yield Use(*column, Role.RANGE if tree.args.get("negate") else Role.EQUAL)
    elif isinstance(tree, exp.Like):
        if (column := _column(tree.this)) is not None and _has_prefix(tree.expression):
            yield Use(*column, Role.RANGE)
    elif isinstance(tree, (exp.EQ, exp.GT, exp.GTE, exp.LT, exp.LTE)):
        role = Role.EQUAL if isinstance(tree, exp.EQ) else Role.RANGE
        for side, other in ((tree.left, tree.right), (tree.right, tree.left)):
            column, others = _column(side), _tables(other)
            if column is not None and column[0] not in others:
                yield Use(*column, role, others)


def _column(tree: exp.Expr | None) -> tuple[str, str] | None:
    """Table and name of a column, under brackets and casts; None where it is anything else."""
    from sqlglot import exp

    while isinstance(tree, (exp.Paren, exp.Cast)):
        tree = tree.this
    if isinstance(tree, exp.Column) and tree.table and isinstance(tree.this, exp.Identifier) and not tree.db:
        return tree.table, tree.name
    return None


def _tables(tree: exp.Expr) -> frozenset[str]:
    from sqlglot import exp

    return frozenset(column.table for column in tree.find_all(exp.Column) if column.table)


def _has_prefix(pattern: exp.Expr) -> bool:
    from sqlglot import exp

    while isinstance(pattern, (exp.Paren, exp.Cast)):
        pattern = pattern.this
    return isinstance(pattern, exp.Literal) and not pattern.name.startswith(("%", "_"))
