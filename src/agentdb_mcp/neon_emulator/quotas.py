"""Quotas of a project: 0 or none is no limit; what is used up suspends its computes until it is raised."""

from __future__ import annotations

from collections.abc import Sequence

from agentdb_mcp.neon_emulator.bodies import Fields
from agentdb_mcp.neon_emulator.stretches import TOLERANCE_S
from agentdb_mcp.neon_emulator.usage import Totals

COMPUTE = "Your account or project has exceeded the compute time quota. Upgrade your plan to increase limits."
TRANSFER = "Your project has exceeded the data transfer quota. Upgrade your plan to increase limits."
SIZE = "Your project has exceeded the logical size quota. Upgrade your plan to increase limits."
OF_TIME = ("compute_time_seconds", "active_time_seconds")
OF_BYTES = ("data_transfer_bytes", "logical_size_bytes")


def quota_of(settings: Fields) -> Fields:
    return settings.get("quota") or {}


def has_quota(settings: Fields) -> bool:
    return any(quota_of(settings).values())


def breach(settings: Fields, used: Totals, names: Sequence[str] = OF_TIME + OF_BYTES) -> str | None:
    """What a client is told, or None. `written_data_bytes` is kept and not measured."""
    quota = quota_of(settings)
    measured = {
        "compute_time_seconds": (used.compute_seconds + TOLERANCE_S, COMPUTE),
        "active_time_seconds": (used.active_seconds + TOLERANCE_S, COMPUTE),
        "data_transfer_bytes": (used.sent_bytes, TRANSFER),
        "logical_size_bytes": (used.bytes, SIZE),
    }
    for name in names:
        value, message = measured[name]
        if quota.get(name) and value >= quota[name]:
            return message
    return None
