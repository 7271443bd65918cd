"""What a statement does by its first words, where those settle it. Queries are not settled by them."""

from __future__ import annotations

from dataclasses import dataclass

from agentdb_mcp.gate.text import Statement
from agentdb_mcp.models import Kind


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


NO_TRANSACTION = "cannot run inside a transaction, and every call is one"

QUERIES = _words("select with values table")

_BY_VERB: dict[str, frozenset[Kind]] = {
    verb: frozenset(kinds)
    for verbs, kinds in (
        ("insert update delete merge truncate lock refresh", [Kind.WRITE]),
        ("comment analyze analyse reindex cluster", [Kind.SCHEMA]),
        ("show", [Kind.READ]),
        ("set reset discard listen unlisten prepare execute deallocate declare fetch move close", [Kind.SESSION]),
        ("notify", [Kind.SESSION, Kind.WRITE]),
        ("begin start commit end rollback abort savepoint release", [Kind.TRANSACTION]),
        ("grant revoke reassign", [Kind.PRIVILEGE]),
        ("copy checkpoint load vacuum security import", [Kind.SERVER]),
        ("do call", [Kind.UNKNOWN]),
    )
    for verb in verbs.split()
}
_MODIFIERS = _words("or replace temp temporary unlogged global local recursive unique constraint trusted procedural")
_SERVER_OBJECTS = _words(
    "database tablespace subscription publication event server foreign mapping language access system"
)
_PRIVILEGE_OBJECTS = _words("role user group default owned")
# Dropping one of these runs no code of the agent's and frees what it took.
_RECLAIMABLE = _words(
    "aggregate collation conversion domain extension function index materialized procedure routine rule schema"
    " sequence table trigger type view"
)
_PLAIN_OBJECTS = _RECLAIMABLE | _words("cast large operator policy statistics text transform")
_TWO_WORDS = _words("access default event foreign large materialized text")
_BEFORE_NAME = _words("if not exists only concurrently into from table index materialized view on")
_DROP_WORDS = 2_000


@dataclass(frozen=True, slots=True)
class Verdict:
    """`because` begins with the words of the statement that it is about."""

    kinds: frozenset[Kind]
    because: str


def judge(statement: Statement) -> Verdict | None:
    """The kinds of anything but a query or EXPLAIN; None where the first word is not known."""
    verb = statement.word(0)
    if verb in ("create", "alter", "drop"):
        return _judge_object(statement, verb)
    kinds = _BY_VERB.get(verb)
    if kinds is None:
        return None
    return _special(statement, verb) or Verdict(kinds, _because(verb, kinds))


def _because(verb: str, kinds: frozenset[Kind]) -> str:
    if verb == "vacuum":
        return f"VACUUM {NO_TRANSACTION}"
    if Kind.UNKNOWN in kinds:
        return f"{verb.upper()} runs code that the gate does not see"
    return verb.upper()


def _special(statement: Statement, verb: str) -> Verdict | None:
    """Where the first word alone would mislead."""
    words = [statement.word(at) for at in range(min(len(statement.tokens), 12))]
    if verb in ("prepare", "commit", "rollback") and words[1:2] in (["transaction"], ["prepared"]):
        return Verdict(frozenset({Kind.TRANSACTION}), f"{verb.upper()} {words[1].upper()}")
    if verb == "declare" and "hold" in words and "without" not in words:
        return Verdict(frozenset({Kind.TRANSACTION}), "DECLARE … WITH HOLD")
    if verb in ("set", "reset"):
        return _judge_setting(words, verb)
    if verb == "reindex" and {"concurrently", "database", "system"} & set(words):
        return Verdict(frozenset({Kind.SERVER}), f"REINDEX of that kind {NO_TRANSACTION}")
    return None


def _judge_setting(words: list[str], verb: str) -> Verdict | None:
    rest = [word for word in words[1:4] if word not in ("local", "session")]
    name = rest[0] if rest else ""
    if name in ("role", "authorization"):
        return Verdict(frozenset({Kind.PRIVILEGE}), f"{verb.upper()} {name.upper()}")
    if name in ("transaction", "characteristics") or name.startswith(("transaction_", "default_transaction_")):
        return Verdict(frozenset({Kind.TRANSACTION}), f"{verb.upper()} {name.upper()}")
    return None


def _judge_object(statement: Statement, verb: str) -> Verdict:
    at = 1
    while statement.word(at) in _MODIFIERS:
        at += 1
    what = statement.word(at)
    then = statement.word(at + 1)
    mapping = (what, then) == ("user", "mapping")
    named = f"{what} {then}" if what in _TWO_WORDS or mapping else what
    label = f"{verb} {named}".upper()
    if what in _SERVER_OBJECTS or mapping:
        return Verdict(frozenset({Kind.SERVER}), label)
    if what in _PRIVILEGE_OBJECTS:
        return Verdict(frozenset({Kind.PRIVILEGE}), label)
    if _concurrently(statement, what):
        return Verdict(frozenset({Kind.SERVER}), f"{label} CONCURRENTLY {NO_TRANSACTION}")
    if what not in _PLAIN_OBJECTS:
        return Verdict(frozenset({Kind.SCHEMA, Kind.UNKNOWN}), f"{verb.upper()} of something unknown")
    if verb == "drop" and what in _RECLAIMABLE and _plain_drop(statement):
        return Verdict(frozenset({Kind.SCHEMA, Kind.RECLAIM}), label)
    return Verdict(frozenset({Kind.SCHEMA}), label)


def _concurrently(statement: Statement, what: str) -> bool:
    if what not in ("index", "table"):
        return False
    words = [token.text for token in statement.tokens[:40] if token.kind == "word"]
    return "concurrently" in words and (what == "index" or "detach" in words)


def _plain_drop(statement: Statement) -> bool:
    """Names, commas, dots and argument types only: a DROP runs read-write when the budget is spent."""
    tokens = statement.tokens
    plain = all(token.kind in ("word", "name", "punct") and token.text != ";" for token in tokens)
    return plain and len(tokens) <= _DROP_WORDS and statement.odd is None


def named_objects(statement: Statement) -> tuple[str, ...]:
    """The object that a statement is about, as it is written; best effort, for the audit."""
    tokens = statement.tokens
    at = 1
    if statement.word(0) in ("create", "alter", "drop", "comment"):
        while statement.word(at) in _MODIFIERS or statement.word(at) == "on":
            at += 1
        at += 1
    while statement.word(at) in _BEFORE_NAME:
        at += 1
    parts: list[str] = []
    while at < len(tokens) and tokens[at].kind in ("word", "name"):
        parts.append(tokens[at].text)
        if at + 1 >= len(tokens) or tokens[at + 1].text != ".":
            break
        at += 2
    return (".".join(parts),) if parts else ()
