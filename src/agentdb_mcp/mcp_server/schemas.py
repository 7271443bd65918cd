"""Output schemas. Each also admits `error` alone: clients check structured content of failed calls against it too."""

from __future__ import annotations

from typing import Any

Schema = dict[str, Any]

_STRING = {"type": "string"}
_OPTIONAL_STRING = {"type": ["string", "null"]}
_INTEGER = {"type": "integer"}
_OPTIONAL_INTEGER = {"type": ["integer", "null"]}
_BOOLEAN = {"type": "boolean"}
_ERROR = {
    "type": "object",
    "properties": {
        "code": _STRING,
        "message": _STRING,
        "hint": _OPTIONAL_STRING,
        "sqlstate": _STRING,
        "position": _INTEGER,
        "retryable": _BOOLEAN,
    },
    "required": ["code", "message", "retryable"],
}


def _answer(optional: Schema | None = None, /, **properties: Schema) -> Schema:
    return {
        "type": "object",
        "properties": {**properties, **(optional or {}), "error": _ERROR},
        "anyOf": [{"required": list(properties)}, {"required": ["error"]}],
    }


def _objects(**properties: Schema) -> Schema:
    return {"type": "array", "items": {"type": "object", "properties": properties}}


_RESULT: Schema = {
    "columns": _objects(name=_STRING, type=_STRING, encoding=_STRING),
    "rows": {"type": "array", "items": {"type": "array"}, "description": "Values in the order of columns."},
    "row_count": _INTEGER,
    "truncated": _BOOLEAN,
    "command_tag": _STRING,
    "duration_ms": {"type": "number"},
}

_NOTES: Schema = {"notes": {"type": "array", "items": _STRING}}

SCHEMAS = _answer(_NOTES, schemas=_objects(name=_STRING, owner_kind=_STRING))
OBJECTS = _answer(
    _NOTES,
    objects=_objects(
        name=_STRING, type=_STRING, rows=_OPTIONAL_INTEGER, size_bytes=_OPTIONAL_INTEGER, comment=_OPTIONAL_STRING
    ),
)
DETAILS = _answer(_NOTES, name=_STRING, schema=_STRING, type=_STRING)
RESULT = _answer(_NOTES, **_RESULT)
RESULTS = _answer(_NOTES, results={"type": "array", "items": {"type": "object", "properties": _RESULT}})
BUDGET = _answer(
    managed=_BOOLEAN,
    state=_STRING,
    limit_cents=_OPTIONAL_INTEGER,
    used_cents=_OPTIONAL_INTEGER,
    remaining_cents=_OPTIONAL_INTEGER,
    allowed={"type": "array", "items": _STRING},
    committed_cents=_OPTIONAL_INTEGER,
    databases=_objects(name=_STRING, scope=_STRING, cost_cents=_INTEGER, size_bytes=_INTEGER),
)
