"""JSON as it goes over the wire: compact, in UTF-8."""

from __future__ import annotations

import json

import orjson


def to_json(value: object) -> bytes:
    """What orjson refuses, whole numbers past 64 bits and deep nesting, goes by the slower standard library."""
    try:
        return orjson.dumps(value)
    except TypeError:
        return json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode()


def compact(value: object) -> str:
    return to_json(value).decode()
