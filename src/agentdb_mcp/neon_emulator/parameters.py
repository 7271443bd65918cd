"""What callers may send beside a body: parameters of the path and of the query."""

from __future__ import annotations

from collections.abc import Mapping

from starlette.requests import Request

from agentdb_mcp.neon_emulator.errors import bad_request
from agentdb_mcp.neon_emulator.naming import ID


def path_identifiers(request: Request) -> None:
    """Refuse a path with an identifier that none can be."""
    for key, value in request.path_params.items():
        if key.endswith("_id") and not ID.fullmatch(value):
            raise bad_request(f"`{key}` must match ^{ID.pattern}$")


def query_text(query: Mapping[str, str], key: str) -> str | None:
    value = query.get(key)
    if value is not None and "\x00" in value:
        raise bad_request(f"`{key}` has a character that cannot be")
    return value or None


def query_required(query: Mapping[str, str], key: str) -> str:
    value = query_text(query, key)
    if value is None:
        raise bad_request(f"`{key}` is required")
    return value


def query_identifier(query: Mapping[str, str], key: str) -> str | None:
    value = query_text(query, key)
    if value is not None and not ID.fullmatch(value):
        raise bad_request(f"`{key}` must match ^{ID.pattern}$")
    return value


def query_limit(query: Mapping[str, str], default: int, most: int) -> int:
    text = query.get("limit")
    if text is None:
        return default
    # Digits only: int() also takes "+5", "1_0" and digits of other scripts.
    if not (text.isascii() and text.isdigit() and len(text) < 10 and 1 <= int(text) <= most):
        raise bad_request(f"`limit` must be an integer from 1 to {most}")
    return int(text)


def query_flag(query: Mapping[str, str], key: str) -> bool:
    """A boolean in any casing, as Python's clients send `False`."""
    text = query.get(key, "false").lower()
    if text not in ("true", "false"):
        raise bad_request(f"`{key}` must be true or false")
    return text == "true"
