"""`policy check` and `policy explain`: what a policy file says, and what it says to one statement."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from agentdb_mcp.models import AccessMode, BudgetState

policy = typer.Typer(help="Check policy files and see what they decide.", no_args_is_help=True)

Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]
File = Annotated[Path | None, typer.Option(help="A policy file; the shipped default unless given.")]


@policy.command("check")
def check(file: Path) -> None:
    """Validate a policy file; what is wrong names file and key, with exit code 2."""
    from agentdb_mcp.policy import load_policy

    found = load_policy(file)
    print(f"{file}: policy {found.name}, version {found.version}, prices {found.prices.version}, is valid.")


@policy.command("explain")
def explain(
    sql: Annotated[str, typer.Option(help="The statement to judge; it is not run.")],
    file: File = None,
    state: Annotated[BudgetState, typer.Option(help="The budget's state.")] = BudgetState.OK,
    mode: Annotated[AccessMode, typer.Option(help="The database's access mode.")] = AccessMode.UNRESTRICTED,
    transaction: Annotated[bool, typer.Option(help="As part of an execute_transaction.")] = False,
    as_json: Json = False,
) -> None:
    """Print what the gate finds in a statement and what the policy decides."""
    from agentdb_mcp import gate
    from agentdb_mcp.policy import load_policy

    rules = load_policy(file)
    facts = gate.classify(sql, gate.TextLimits.of(rules.limits))
    decision = gate.decide(facts, policy=rules, mode=mode, budget=state, in_transaction=transaction)
    fields = {
        "policy": rules.name,
        "kinds": sorted(facts.kinds),
        "certain": facts.certain,
        "why": facts.why,
        "objects": list(facts.objects),
        "functions": list(facts.functions),
        "allowed": decision.allowed,
        "read_only": decision.read_only if decision.allowed else None,
        "code": decision.code,
        "message": decision.message,
        "hint": decision.hint,
    }
    lines = [f"{name:9} {_shown(value)}" for name, value in fields.items() if value not in (None, [])]
    print(json.dumps(fields) if as_json else "\n".join(lines))


def _shown(value: object) -> str:
    if isinstance(value, list):
        return ", ".join(map(str, value))
    return {True: "yes", False: "no"}.get(value, str(value)) if isinstance(value, bool) else str(value)
