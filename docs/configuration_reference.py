"""Writes docs/configuration.md from the settings, the policy's model and the comments of the shipped policy."""

from __future__ import annotations

import re
import tomllib
import types
from collections.abc import Iterator, Mapping
from decimal import Decimal
from enum import Enum
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from agentdb_mcp.policy import Policy, default_path
from agentdb_mcp.policy.sections import PriceBook, Section, StateRules
from agentdb_mcp.settings import Settings
from agentdb_mcp.settings_help import SECRET_PARTS, VARIABLES, Variable

_HEAD = """# Configuration

Every setting there is; written by `make docs` from the program itself. What belongs to a machine or a secret is a
variable of the environment; what an operator decides about tenants is the policy.

## The environment

A setting that is wrong stops the start with one line that names it. Lists are written with commas. A secret is shown in
no log and no error. `agentdb-mcp doctor` checks them all together.

| variable | is | secret | default | meaning |
|---|---|---|---|---|"""

_POLICY = """
## The policy

A TOML file that `AGENTDB_POLICY` names; it states only what differs from the shipped
[policies/default.toml](../policies/default.toml), whose values are the defaults below. [Policies](policies.md) tells
how to write one.
"""
_COLUMNS = "| key | is | default | meaning |\n|---|---|---|---|"

# By what a key's name ends in.
_UNITS = (
    ("_per_cu_hour", "dollars"), ("_per_gb_month", "dollars"), ("_per_gb", "dollars"), ("branch_month", "dollars"),
    ("_gb", "GB"), ("_percent", "percent"), ("_days", "days"), ("_cu", "CU"), ("_s", "seconds"), ("bytes", "bytes"),
    ("bytes_per_user", "bytes"),
)  # fmt: skip


def configuration_page() -> str:
    """The page, as Markdown."""
    return "\n".join([_HEAD, *(_variable(each) for each in VARIABLES), _POLICY, *_sections()]).rstrip() + "\n"


def _variable(variable: Variable) -> str:
    fields, hints = Settings.__dataclass_fields__, get_type_hints(Settings)
    default, secret = "", variable.name in SECRET_PARTS
    if variable.field is not None:
        secret = secret or "Secret" in str(hints[variable.field])
        value = fields[variable.field].default
        default = f"`{value}`" if value not in (None, ()) else ""
    return f"| `{variable.name}` | {variable.form} | {'yes' if secret else ''} | {default} | {variable.meaning} |"


def _sections() -> Iterator[str]:
    text = default_path().read_text("utf-8")
    values, comments = tomllib.loads(text), Comments(text)
    yield f"### Top level\n\n{_COLUMNS}"
    tables = []
    for key, field in Policy.model_fields.items():
        name = field.alias or key
        if isinstance(values[name], dict):
            tables.append((name, field.annotation))
        else:
            meaning = {
                "name": "what the file is called in answers and logs",
                "version": "of the file, the operator's own",
            }
            yield f"| `{name}` | {_type(field.annotation)} | `{values[name]}` | {meaning[name]} |"
    for name, annotation in tables:
        yield from _table(name, annotation, values[name], comments)


def _table(name: str, annotation: object, values: Mapping[str, Any], comments: Comments) -> Iterator[str]:
    model = annotation if isinstance(annotation, type) and issubclass(annotation, Section) else None
    if model is None and PriceBook in get_args(annotation):
        first = f"{name}.{next(iter(values))}"
        yield f"\n### `[{name}.NAME]`\n\n{comments.of_table(first)}\n\n{_COLUMNS}"
        book = {"date": next(iter(values.values()))["date"], **next(iter(values.values()))}
        yield from _rows(PriceBook, first, book, comments, without={"version"})
    elif model is None:
        yield f"\n### `[{name}]`\n\n{comments.of_table(name)}\n\n{_COLUMNS}"
        yield from (f"| `{key}` | whole number ≥ 0, cents | `{value}` | tier {key} |" for key, value in values.items())
    elif all(field.annotation is StateRules for field in model.model_fields.values()):
        for state in model.model_fields:
            yield f"\n### `[{name}.{state}]`\n\n{comments.of_table(f'{name}.{state}')}\n\n{_COLUMNS}"
            yield from _rows(StateRules, f"{name}.{state}", values[state], comments, without=set())
    else:
        yield f"\n### `[{name}]`\n\n{comments.of_table(name)}\n\n{_COLUMNS}"
        yield from _rows(model, name, values, comments, without=set())


def _rows(
    model: type[Section], table: str, values: Mapping[str, Any], comments: Comments, without: set[str]
) -> Iterator[str]:
    for key, field in model.model_fields.items():
        if key not in without:
            bounds = ", ".join(_bounds(field.metadata))
            unit = next((unit for ending, unit in _UNITS if key.endswith(ending)), "")
            kind = ", ".join(filter(None, [f"{_type(field.annotation)} {bounds}".strip(), unit]))
            yield f"| `{key}` | {kind} | {_value(values[key])} | {comments.of_key(table, key)} |"


def _bounds(metadata: list[Any]) -> Iterator[str]:
    for each in metadata:
        for name, sign in (("ge", "≥"), ("gt", ">"), ("le", "≤"), ("lt", "<")):
            if (bound := getattr(each, name, None)) is not None:
                yield f"{sign} {bound:,}"
        yield from _bounds(getattr(each, "metadata", []))


def _type(annotation: object) -> str:
    if get_origin(annotation) is Literal:
        return " or ".join(f"`{value}`" for value in get_args(annotation))
    if get_origin(annotation) in (Union, types.UnionType):
        return " or ".join(_type(each) for each in get_args(annotation))
    if get_origin(annotation) is frozenset:
        return "list of names"
    if isinstance(annotation, type) and issubclass(annotation, Enum):
        return " or ".join(f"`{member.value}`" for member in annotation)
    names = {bool: "`true` or `false`", int: "whole number", float: "number", str: "text", Decimal: "number in quotes"}
    return names.get(annotation, getattr(annotation, "__name__", str(annotation)))


def _value(value: object) -> str:
    if isinstance(value, bool):
        return f"`{str(value).lower()}`"
    if isinstance(value, int):
        return f"`{value:_}`" if value >= 100_000 else f"`{value}`"
    if isinstance(value, list):
        return ", ".join(f"`{each}`" for each in value) or "none"
    return f"`{value}`"


class Comments:
    """The comments of a TOML file: above its tables, and behind its keys."""

    def __init__(self, text: str) -> None:
        self._tables: dict[str, str] = {}
        self._keys: dict[tuple[str, str], str] = {}
        table, above = "", []
        for line in text.splitlines():
            if line.startswith("#"):
                above.append(line[1:].removeprefix(" "))
            elif match := re.fullmatch(r"\[([\w.-]+)\]", line):
                table = match[1]
                self._tables[table] = "\n".join(above)
                above = []
            elif match := re.match(r"(\w+) = (?:\"[^\"]*\"|[^#\"])*?\s*# (.+)", line):
                self._keys[table, match[1]] = match[2]
            elif not line:
                above = []

    def of_table(self, table: str) -> str:
        lines = self._tables[table].splitlines()
        listed = [re.sub(r"^  (\w+) +", r"- `\1`: ", line) for line in lines]
        pairs = zip(["", *listed], listed, strict=False)
        return "\n".join(
            f"\n{line}" if was and line[:2] != was[:2] and "- " in (line[:2], was[:2]) else line for was, line in pairs
        )

    def of_key(self, table: str, key: str) -> str:
        return self._keys.get((table, key)) or self._keys.get(("statements.ok", key), "")
