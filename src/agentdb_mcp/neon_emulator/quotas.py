"""Quotas of a project: 0 or none is no limit; what is used up suspends its computes until it is raised."""

from __future__ import annotations

from agentdb_mcp.neon_emulator.bodies import Fields
from agentdb_mcp.neon_emulator.usage import Totals

COMPUTE = "Your account or project has exceeded the compute time quota. Upgrade your plan to increase limits."
TRANSFER = "Your project has exceeded the data transfer quota. Upgrade your plan to increase limits."
SIZE = "Your project has exceeded the logical size quota. Upgrade your plan to increase limits."


def has_quota(settings: Fields) -> bool:
    return any(settings.get("quota", {}).values())


def breach(settings: Fields, used: Totals) -> str | None:
    """What a client is told, or None. `written_data_bytes` is kept and not measured."""
    quota = settings.get("quota", {})
    measured = (
        ("compute_time_seconds", used.compute_seconds, COMPUTE),
        ("active_time_seconds", used.active_seconds, COMPUTE),
        ("data_transfer_bytes", used.sent_bytes, TRANSFER),
        ("logical_size_bytes", used.bytes, SIZE),
    )
    for name, value, message in measured:
        if quota.get(name) and value >= quota[name]:
            return message
    return None
