"""`serve` with the gate taken away: every statement runs, and only the walls stand. For tests alone."""

from __future__ import annotations

import sys

from agentdb_mcp import gate
from agentdb_mcp.cli import main
from agentdb_mcp.models import AccessMode, BudgetState, Decision, Kind, StatementFacts

OVER = {BudgetState.EXCEEDED, BudgetState.PAUSED}


def classify(_sql: str, _limits: object) -> StatementFacts:
    return StatementFacts(frozenset({Kind.UNKNOWN}), certain=False)


def decide(
    _facts: object, *, policy: object, mode: AccessMode, budget: BudgetState, in_transaction: bool = False
) -> Decision:
    restricted = AccessMode.RESTRICTED in (mode, policy.access.mode)  # type: ignore[attr-defined]
    return Decision(allowed=True, read_only=restricted or budget in OVER)


gate.classify = classify  # type: ignore[assignment]
gate.decide = decide  # type: ignore[assignment]
gate.decide_transaction = decide  # type: ignore[assignment]
sys.argv = ["agentdb-mcp", "serve"]
main()
