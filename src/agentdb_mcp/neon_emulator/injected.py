"""Use that a test adds to projects' histories, checked and in the columns of what is measured."""

from __future__ import annotations

import math
from datetime import UTC, datetime
from typing import Any

from agentdb_mcp.neon_emulator.bodies import Fields
from agentdb_mcp.neon_emulator.clock import HOUR, hour_of
from agentdb_mcp.neon_emulator.errors import bad_request
from agentdb_mcp.neon_emulator.usage import Entry

MOST = 1e15
COLUMNS = {
    "compute_unit_seconds": "compute_seconds",
    "root_branch_byte_hours": "root_byte_hours",
    "child_branch_byte_hours": "child_byte_hours",
    "instant_restore_byte_hours": "restore_byte_hours",
    "snapshot_byte_hours": "snapshot_byte_hours",
    "sent_bytes": "sent_bytes",
    "private_sent_bytes": "private_sent_bytes",
    "extra_branch_hours": "extra_branch_hours",
}


def read_entries(body: object, now: datetime) -> list[Entry]:
    """One object or a list of them; a refusal names the place of the wrong one."""
    if isinstance(body, list):
        return [_entry(item, f"[{number}]", now) for number, item in enumerate(body)]
    return [_entry(body, "", now)]


def _entry(item: object, place: str, now: datetime) -> Entry:
    if not isinstance(item, dict):
        raise bad_request(f"`{place}` must be an object" if place else "the body must be an object or a list of them")
    dot = f"{place}." if place else ""
    if unknown := sorted(set(item) - {"project_id", "hour", *COLUMNS}):
        raise bad_request(f"`{dot}{unknown[0]}` is not known; known are {', '.join(COLUMNS)}")
    project_id = item.get("project_id")
    if not isinstance(project_id, str):
        raise bad_request(f"`{dot}project_id` must be a string")
    used = {column: _amount(item, name, dot) for name, column in COLUMNS.items() if item.get(name) is not None}
    return Entry(project_id, _hour(item, dot, now), used)


def _hour(item: Fields, dot: str, now: datetime) -> datetime:
    try:
        moment = datetime.fromisoformat(item.get("hour") or "")
    except (TypeError, ValueError):
        moment = None
    if moment is None or moment.tzinfo is None or hour_of(moment) != moment:
        raise bad_request(f"`{dot}hour` must be a whole hour with its offset, such as 2026-01-31T15:00:00Z")
    hour = moment.astimezone(UTC)
    if hour_of(hour) != hour or hour + HOUR > now:
        raise bad_request(f"`{dot}hour` must be a whole hour of UTC that is over; it is {now.isoformat()} now")
    return hour


def _amount(item: dict[str, Any], name: str, dot: str) -> float:
    value = item[name]
    if not isinstance(value, int | float) or isinstance(value, bool) or not 0 <= value <= MOST or math.isnan(value):
        raise bad_request(f"`{dot}{name}` must be a number from 0 to {MOST:.0e}")
    return float(value)
