"""Facts + access mode + budget state → decision, in words that say what to do instead."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace

from agentdb_mcp.errors import BudgetExceeded, StatementRefused
from agentdb_mcp.gate.verbs import NO_TRANSACTION
from agentdb_mcp.models import AccessMode, BudgetState, Decision, Kind, StatementFacts
from agentdb_mcp.policy import Policy, StateRules, UnknownRule

_OVER_BUDGET = frozenset({BudgetState.EXCEEDED, BudgetState.PAUSED})
_READ_ONLY_KINDS = frozenset({Kind.READ, Kind.SESSION, Kind.UNKNOWN})

# The kind that is named where several are refused: the one that no other wording would mend comes first.
_WORST_FIRST = (
    Kind.SERVER,
    Kind.PRIVILEGE,
    Kind.TRANSACTION,
    Kind.SESSION,
    Kind.SCHEMA,
    Kind.WRITE,
    Kind.RECLAIM,
    Kind.UNKNOWN,
    Kind.READ,
)
_DOES = {
    Kind.SERVER: "is a server command",
    Kind.PRIVILEGE: "changes roles or privileges",
    Kind.TRANSACTION: "controls the transaction",
    Kind.SESSION: "changes only its own session",
    Kind.SCHEMA: "changes the schema",
    Kind.WRITE: "writes data",
    Kind.RECLAIM: "drops objects",
    Kind.UNKNOWN: "cannot be read with certainty",
    Kind.READ: "reads data",
}
_BECAUSE = {
    Kind.SERVER: "which is not available to agents",
    Kind.PRIVILEGE: "which is not available to agents",
    Kind.TRANSACTION: "which is not possible: every call is a transaction of its own",
    Kind.SESSION: "which would have no effect: every call starts from a fresh session",
}
_HINTS = {
    Kind.SERVER: "Work with schemas, tables, views, functions and rows of this database.",
    Kind.PRIVILEGE: "Nobody else logs in to this database; no role or grant is needed to use your own objects.",
    Kind.TRANSACTION: "Leave it out. Send statements that belong together, all or nothing, with execute_transaction.",
    Kind.SESSION: "Send it together with the statements that need it with execute_transaction.",
    Kind.UNKNOWN: "Write it as a plain query without functions of your own.",
}
_HINTS_BY_WORDS = {
    "COPY": "Insert many rows with one INSERT … VALUES (…), (…).",
    "VACUUM": "Leave it out: autovacuum does it. ANALYZE and REINDEX TABLE are possible.",
    "SET": "Qualify names with their schema, or send SET LOCAL … with the statements that need it"
    " with execute_transaction.",
    "the function set_config": "Send SET LOCAL … with the statements that need it with execute_transaction.",
    "DECLARE … WITH HOLD": "Declare the cursor without HOLD and fetch from it in one execute_transaction,"
    " or page with LIMIT and OFFSET.",
    "LISTEN": "Notifications cannot reach you through calls; poll a table instead.",
    "NOTIFY": "Nobody can listen to this database; write a row to a table instead.",
}
_SESSION = frozenset({Kind.SESSION})
_RESTRICTED = StateRules(allow=frozenset({Kind.READ, Kind.SESSION}), unknown=UnknownRule.READ_ONLY)


def decide(
    facts: StatementFacts,
    *,
    policy: Policy,
    mode: AccessMode,
    budget: BudgetState,
    in_transaction: bool = False,
) -> Decision:
    """Allow or refuse one statement; the stricter of `mode` and the policy's own mode counts."""
    restricted = AccessMode.RESTRICTED in (mode, policy.access.mode)
    if facts.why == "CREATE EXTENSION" and not (facts.objects and policy.extensions.allow.issuperset(facts.objects)):
        return _refuse_extension(facts, policy)
    never = _refused(facts.kinds, policy.statements.of(BudgetState.OK), in_transaction)
    if never is not None:
        by_policy = never not in _BECAUSE or (never is Kind.SESSION and in_transaction)
        return _refuse(facts, never, "which the policy does not allow" if by_policy else _BECAUSE[never])
    beyond = _refused(facts.kinds, _RESTRICTED, in_transaction) if restricted else None
    if beyond is not None:
        return _refuse(facts, beyond, "which is not possible: access is read-only")
    rules = policy.statements.of(budget)
    unpaid = _refused(facts.kinds, rules, in_transaction)
    if unpaid is not None:
        return _refuse_unpaid(facts, unpaid, rules)
    return Decision(allowed=True, read_only=restricted or _read_only(facts, rules, budget))


def decide_transaction(
    statements: Sequence[StatementFacts], *, policy: Policy, mode: AccessMode, budget: BudgetState
) -> Decision:
    """One decision for all statements of a transaction: the first refusal, or one mode that suits each."""
    most = policy.limits.max_statements
    if len(statements) > most:
        return Decision(
            allowed=False,
            code=StatementRefused.code,
            message=f"The transaction holds {len(statements)} statements; at most {most} are allowed.",
            hint="Write many rows with one INSERT, or send several transactions.",
        )
    decisions: list[Decision] = []
    for number, facts in enumerate(statements, 1):
        decision = decide(facts, policy=policy, mode=mode, budget=budget, in_transaction=True)
        if not decision.allowed:
            return replace(decision, message=f"Statement {number}: {decision.message}")
        decisions.append(decision)
    return _one_mode(statements, decisions, budget)


def _one_mode(statements: Iterable[StatementFacts], decisions: Iterable[Decision], budget: BudgetState) -> Decision:
    """Read-write as soon as one statement needs it, unless another was only allowed because it is read-only."""
    pairs = list(zip(statements, decisions, strict=True))
    if all(decision.read_only for _, decision in pairs):
        return Decision(allowed=True, read_only=True)
    over = budget in _OVER_BUDGET
    if any(decision.read_only and (over or Kind.UNKNOWN in facts.kinds) for facts, decision in pairs):
        return Decision(
            allowed=False,
            code=BudgetExceeded.code if over else StatementRefused.code,
            message="The transaction mixes statements that may only run read-only with others that change data.",
            hint="Send the reads and the changes (DROP) in calls of their own.",
        )
    return Decision(allowed=True, read_only=False)


def _refused(kinds: frozenset[Kind], rules: StateRules, in_transaction: bool) -> Kind | None:
    """The worst kind that the rules do not allow; a DROP is a schema change only where RECLAIM is not allowed."""
    if kinds <= rules.allow and kinds.isdisjoint(_SESSION):
        return None
    left = set(kinds)
    if Kind.RECLAIM in rules.allow & left:
        left -= {Kind.SCHEMA, Kind.RECLAIM}
    elif Kind.SCHEMA in left:
        left.discard(Kind.RECLAIM)
    if rules.unknown is not UnknownRule.REFUSE:
        left.discard(Kind.UNKNOWN)
    left -= rules.allow if in_transaction else rules.allow - {Kind.SESSION}
    return next((kind for kind in _WORST_FIRST if kind in left), None)


def _read_only(facts: StatementFacts, rules: StateRules, budget: BudgetState) -> bool:
    if Kind.UNKNOWN in facts.kinds and rules.unknown is UnknownRule.READ_ONLY:
        return True
    if facts.kinds == {Kind.READ}:
        return facts.certain or budget in _OVER_BUDGET
    return budget in _OVER_BUDGET and facts.kinds <= _READ_ONLY_KINDS


def _refuse(facts: StatementFacts, kind: Kind, reason: str) -> Decision:
    return Decision(
        allowed=False,
        code=StatementRefused.code,
        message=f"The statement {_what(facts, kind)}, {reason}.",
        hint=_hint(facts, kind),
    )


def _refuse_extension(facts: StatementFacts, policy: Policy) -> Decision:
    return Decision(
        allowed=False,
        code=StatementRefused.code,
        message=f"The extension {', '.join(facts.objects) or 'named'} is not one that the policy allows.",
        hint=f"Allowed are {', '.join(sorted(policy.extensions.allow)) or 'none'}.",
    )


def _refuse_unpaid(facts: StatementFacts, kind: Kind, rules: StateRules) -> Decision:
    return Decision(
        allowed=False,
        code=BudgetExceeded.code,
        message=f"The budget of this period is used up, and the statement {_what(facts, kind)}.",
        hint=f"{_still_works(rules)} get_budget shows the cost by database and when the period ends.",
    )


def _still_works(rules: StateRules) -> str:
    reads, drops = Kind.READ in rules.allow, Kind.RECLAIM in rules.allow
    if reads and drops:
        return "Reads still work, and DROP (of tables, indexes, views, schemas …) still frees space."
    if reads:
        return "Reads still work."
    return "DROP still works." if drops else "No statement runs until the budget is raised or a new period begins."


def _what(facts: StatementFacts, kind: Kind) -> str:
    """What the statement does, with what it was seen by."""
    return f"{_DOES[kind]} ({facts.why})" if facts.why else _DOES[kind]


def _hint(facts: StatementFacts, kind: Kind) -> str:
    why = facts.why or ""
    if kind in (Kind.SERVER, Kind.TRANSACTION, Kind.SESSION):
        named = _HINTS_BY_WORDS.get(why.partition(" cannot ")[0])
        if named is None and why.endswith(NO_TRANSACTION):
            named = "Leave out CONCURRENTLY, and name the table or index."
        if named is not None:
            return named
    return _HINTS.get(kind, "Send a query that only reads, or ask for read-write access.")
