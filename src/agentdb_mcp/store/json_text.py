"""Change one member of a JSON object as text; every other byte stays as somebody else wrote it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass

_SPACE = " \t\n\r"
_DECODER = json.JSONDecoder(strict=False)


@dataclass(frozen=True, slots=True)
class _Member:
    """Where a member stands: its key begins at `start`, its value at `value`, and it is over at `end`."""

    key: str
    start: int
    value: int
    end: int


def set_member(text: str, key: str, value: str) -> str:
    """The object with the string as the value of the key. Raises ValueError where the text is no object."""
    written = json.dumps(value)
    members = list(_members(text))
    for member in reversed(members):  # of several with the same key the last one counts
        if member.key == key:
            return text[: member.value] + written + text[member.end :]
    at = members[-1].end if members else text.index("{") + 1
    return text[:at] + ("," if members else "") + f"{json.dumps(key)}:{written}" + text[at:]


def remove_member(text: str, key: str) -> str:
    """The object without the key. Raises ValueError where the text is no object."""
    while True:
        members = list(_members(text))
        at = next((i for i, member in enumerate(members) if member.key == key), None)
        if at is None:
            return text
        # With the comma behind it or, of the last one, the one before it.
        if at + 1 < len(members):
            text = text[: members[at].start] + text[members[at + 1].start :]
        else:
            text = text[: members[at - 1].end if at else members[at].start] + text[members[at].end :]


def _members(text: str) -> Iterator[_Member]:
    at = _skip(text, 0)
    if text[at : at + 1] != "{":
        raise ValueError("not a JSON object")
    at = _skip(text, at + 1)
    while text[at] != "}":
        start = at
        key, at = _DECODER.raw_decode(text, at)
        value = _skip(text, _skip(text, at) + 1)  # over the colon
        _, end = _DECODER.raw_decode(text, value)
        yield _Member(key, start, value, end)
        at = _skip(text, end)
        if text[at] == ",":
            at = _skip(text, at + 1)


def _skip(text: str, at: int) -> int:
    while at < len(text) and text[at] in _SPACE:
        at += 1
    return at
