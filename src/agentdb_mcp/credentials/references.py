"""References in place of values: `${NAME}`, `{{NAME}}`, and our own opaque `agentdb://` names."""

from __future__ import annotations

import re
from collections.abc import Mapping

AGENT_REFERENCE = "agentdb://agent"
GLOBAL_REFERENCE = "agentdb://global"

# A name ends at the next brace, so that no text is read twice however it is built.
_REFERENCE = re.compile(r"\$\{(?P<shell>[^{}]*)\}|\{\{(?P<sim>[^{}]*)\}\}")

_TOKEN = re.compile(r"adb_[A-Za-z0-9_-]{43}")


def is_unresolved(value: str) -> bool:
    """Whether a reference is left anywhere in the value, which then counts as missing."""
    return _REFERENCE.search(value) is not None


def resolve(value: str, variables: Mapping[str, str]) -> str | None:
    """Put the variables in place of their names, once; None when a name is missing."""
    parts: list[str] = []
    end = 0
    for match in _REFERENCE.finditer(value):
        found = variables.get((match["shell"] or match["sim"] or "").strip())
        if found is None:
            return None
        parts += value[end : match.start()], found
        end = match.end()
    return "".join(parts) + value[end:]


def is_own_reference(value: str) -> bool:
    """Whether the value is an opaque name that only this server resolves."""
    return value.strip() in (AGENT_REFERENCE, GLOBAL_REFERENCE)


def is_own_token(value: str) -> bool:
    """Whether the value is a token of ours: it says who calls over HTTP, and names no database."""
    return _TOKEN.fullmatch(value.strip()) is not None
