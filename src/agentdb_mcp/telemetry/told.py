"""What spans say of results, in the words of OpenTelemetry's semantic conventions and `agentdb.…` beside them."""

from __future__ import annotations

from agentdb_mcp.models import Result, StatementFacts
from agentdb_mcp.telemetry.spans import Attributes, Kind, Span

POSTGRES: Attributes = {"db.system.name": "postgresql"}
# The words of Neon's API; whatever else is in a path is somebody's id or name.
_NEON_WORDS = frozenset(
    {
        "branches",
        "connection_uri",
        "consumption_history",
        "databases",
        "endpoints",
        "finalize_restore",
        "operations",
        "organizations",
        "projects",
        "recover",
        "reset_password",
        "restore",
        "roles",
        "snapshot",
        "snapshots",
        "suspend",
        "transfer",
        "v2",
    }
)


def of_statement(step: Span, result: Result) -> None:
    """Its kind by the command tag, which is Postgres's own word, and how many rows it gave."""
    operation = result.command_tag.rstrip("0123456789 ")
    if operation:
        step.rename(operation)
        step.set({"db.operation.name": operation})
    step.set({"db.response.returned_rows": len(result.rows)})


def of_facts(step: Span, facts: StatementFacts) -> None:
    """What the gate found: kinds, never names."""
    kinds = tuple(sorted(kind.value for kind in facts.kinds))
    step.set({"agentdb.statement.kinds": kinds, "agentdb.statement.certain": facts.certain})


def neon_request(method: str, path: str) -> tuple[str, Kind, Attributes]:
    """The span's name, its kind, and what is known of a request before it is sent."""
    words = ["" if not word else word if word in _NEON_WORDS else "{id}" for word in path.split("/")]
    template = "/".join(words)
    return f"{method} {template}", "client", {"http.request.method": method, "url.template": template}


def of_status(step: Span, status: int) -> None:
    """An HTTP status that a client was answered; a client's own mistakes are failures to it."""
    step.set({"http.response.status_code": status})
    if status >= 400:
        step.fail(str(status))
