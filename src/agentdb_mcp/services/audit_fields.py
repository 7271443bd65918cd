"""An entry of the audit log as REST and the command line show it."""

from __future__ import annotations

from datetime import UTC
from typing import Any

from agentdb_mcp.store import AuditEntry


def entry_fields(entry: AuditEntry) -> dict[str, Any]:
    """JSON: moments in UTC, hashes as hexadecimal digits."""
    return {
        "sequence": entry.sequence,
        "at": entry.at.astimezone(UTC).isoformat(timespec="microseconds").replace("+00:00", "Z"),
        "user_id": entry.user_id,
        "workspace_id": entry.workspace_id,
        "scope": entry.scope,
        "database_id": entry.database_id,
        "source": entry.source,
        "principal": entry.principal,
        "tool": entry.tool,
        "kinds": list(entry.kinds),
        "objects": list(entry.objects),
        "decision": entry.decision.value,
        "code": entry.code,
        "sqlstate": entry.sqlstate,
        "duration_ms": entry.duration_ms,
        "rows": entry.rows,
        "statement_hash": None if entry.statement_hash is None else entry.statement_hash.hex(),
        "request_id": entry.request_id,
        "previous_hash": entry.previous_hash.hex(),
        "hash": entry.hash.hex(),
    }
