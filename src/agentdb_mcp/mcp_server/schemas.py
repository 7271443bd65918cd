"""Output schemas. Each also admits `error` alone: clients check structured content of failed calls against it too."""

from __future__ import annotations

from typing import Any

Schema = dict[str, Any]

STRING = {"type": "string"}
INTEGER = {"type": "integer"}
OPTIONAL_INTEGER = {"type": ["integer", "null"]}
BOOLEAN = {"type": "boolean"}
ARRAY = {"type": "array"}
# Each tool says it again, so what an error may have besides (hint, sqlstate, position) is left to the documentation.
_ERROR = {"type": "object", "properties": {"code": STRING}, "required": ["code"]}


def answer(optional: Schema | None = None, /, **properties: Schema) -> Schema:
    """Of a tool: what every answer has, the first of which says that it is one, and what it may have."""
    return {
        "type": "object",
        "properties": {**properties, **(optional or {}), "error": _ERROR},
        "anyOf": [{"required": list(properties)[:1]}, {"required": ["error"]}],
    }


def objects(**properties: Schema) -> Schema:
    """A list of objects."""
    return {"type": "array", "items": {"type": "object", "properties": properties}}


_RESULT: Schema = {
    "columns": objects(name=STRING, type=STRING),
    "rows": {"type": "array", "items": {"type": "array"}},
    "row_count": INTEGER,
    "truncated": BOOLEAN,
}

_ROWS = ("columns", "rows", "row_count", "truncated")
_HELD: Schema = {"next_handle": STRING, "cut": ARRAY}

NOTES: Schema = {"notes": ARRAY}

SCHEMAS = answer(NOTES, schemas=objects(name=STRING, owner_kind=STRING))
OBJECTS = answer(NOTES, objects=objects(name=STRING, type=STRING))
DETAILS = answer(NOTES, name=STRING, schema=STRING)
RESULT = answer(NOTES | _HELD, **_RESULT)
PAGE = answer(_HELD, **{name: {"type": _RESULT[name]["type"]} for name in _ROWS})
RESULTS = answer(NOTES, results=ARRAY)
COPIED = answer(NOTES, table=STRING, rows=INTEGER, columns=ARRAY)
TOP_QUERIES = answer(queries=ARRAY)
HEALTH = answer(findings=ARRAY, figures={"type": "object"}, not_seen=ARRAY)
BUDGET = answer(
    managed=BOOLEAN,
    state=STRING,
    limit_cents=OPTIONAL_INTEGER,
    used_cents=OPTIONAL_INTEGER,
    remaining_cents=OPTIONAL_INTEGER,
    allowed=ARRAY,
)
OBJECT: Schema = {"type": "object"}
CHECKPOINTS = answer(checkpoints=ARRAY, month_cents={"type": "number"}, next=OBJECT)
CHECKPOINT = answer(checkpoint=OBJECT, month_cents={"type": "number"})
RESTORED = answer(restored=BOOLEAN, checkpoint=OBJECT)
DELETED = answer(deleted=OBJECT)
TRIAL = answer(succeeded=BOOLEAN, statements=ARRAY)
