"""SQL text → facts. The first words settle most statements; a query is certainly a read only if two readers agree.

The first reader is `tokens`, which cuts the text as Postgres does: without a write keyword, a locking clause or a
function that is not known to be harmless, Postgres' grammar leaves a query nothing but reading. The second is
sqlglot's tree. Where they differ, or the parser would have to work too hard, the answer is `unknown`.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass, field
from functools import lru_cache
from itertools import pairwise
from typing import TYPE_CHECKING

from agentdb_mcp.gate.agreement import parser_steps, same_cut
from agentdb_mcp.gate.functions import called_functions, effect_of
from agentdb_mcp.gate.text import Statement, TextLimits, read_statement
from agentdb_mcp.gate.verbs import QUERIES, judge, named_objects
from agentdb_mcp.models import Kind, StatementFacts

if TYPE_CHECKING:
    from sqlglot import exp

# sqlglot logs the text of what it cannot parse.
logging.getLogger("sqlglot").disabled = True

_CACHED_CHARACTERS = 2_048
_MOST_NAMES = 64
_MOST_PARSER_STEPS = 8_000

# What a parser in trouble raises besides its own errors, RecursionError among them.
_PARSER_FAULTS = (
    RuntimeError,
    ValueError,
    TypeError,
    AttributeError,
    LookupError,
    ArithmeticError,
    AssertionError,
)
_WRITE_WORDS = frozenset({"insert", "update", "delete", "merge", "into"})
_LOCK_WORDS = frozenset({"update", "share", "no", "key"})
_LOCKING = "FOR UPDATE or FOR SHARE"
_EXPLAINABLE = QUERIES | {"insert", "update", "delete", "merge", "declare", "execute", "create", "refresh"}
_REASONS_FIRST = (
    Kind.SERVER,
    Kind.PRIVILEGE,
    Kind.TRANSACTION,
    Kind.SESSION,
    Kind.SCHEMA,
    Kind.WRITE,
    Kind.UNKNOWN,
)


@dataclass(slots=True)
class _Findings:
    """Kinds with the first reason for each, while a statement is looked at."""

    reasons: dict[Kind, str] = field(default_factory=dict)
    objects: tuple[str, ...] = ()
    functions: tuple[str, ...] = ()
    doubtful: bool = False

    def add(self, kind: Kind, because: str) -> None:
        self.reasons.setdefault(kind, because)

    def doubt(self, because: str) -> None:
        self.add(Kind.UNKNOWN, because)

    def facts(self) -> StatementFacts:
        return StatementFacts(
            kinds=frozenset(self.reasons),
            certain=Kind.UNKNOWN not in self.reasons and not self.doubtful,
            objects=self.objects[:_MOST_NAMES],
            functions=self.functions[:_MOST_NAMES],
            why=next((self.reasons[kind] for kind in _REASONS_FIRST if kind in self.reasons), None),
        )


def classify(sql: str, limits: TextLimits) -> StatementFacts:
    """The facts about one statement; raises only for a text that must not be parsed."""
    return _remembered(sql, limits) if len(sql) <= _CACHED_CHARACTERS else _classify(sql, limits)


def _classify(sql: str, limits: TextLimits) -> StatementFacts:
    statement = read_statement(sql, limits)
    found = _Findings()
    if statement.odd is not None:
        found.doubt(f"the text can be read in two ways: {statement.odd}")
    if statement.word(0) == "explain":
        _explain(statement, found)
    else:
        _look(statement, found)
    return found.facts()


_remembered = lru_cache(maxsize=512)(_classify)


def _look(statement: Statement, found: _Findings) -> None:
    if statement.word(0) in QUERIES or statement.begins("("):
        _query(statement, found)
        return
    verdict = judge(statement)
    if verdict is None:
        found.doubt("the gate does not know how it begins")
        return
    for kind in verdict.kinds:
        found.add(kind, verdict.because)
    if verdict.kinds & {Kind.WRITE, Kind.SCHEMA} and Kind.SESSION not in verdict.kinds:
        found.objects = named_objects(statement)
    if verdict.kinds == {Kind.WRITE}:
        _calls(statement, found, strict=False)


def _explain(statement: Statement, found: _Findings) -> None:
    """Without ANALYZE a plan only reads, but makes it by running immutable functions."""
    at, analyze = _explain_options(statement)
    inner = statement.after(at)
    if inner.word(0) not in _EXPLAINABLE and not inner.begins("("):
        found.doubt("EXPLAIN of something unknown")
        return
    found.add(Kind.READ, "EXPLAIN")
    if analyze:
        _look(inner, found)
        return
    found.functions, unknown = called_functions(inner)
    if unknown:
        found.doubt(f"planning may run the function {unknown[0]}")


def _explain_options(statement: Statement) -> tuple[int, bool]:
    """Where the explained statement begins, and whether it is run."""
    at = 1
    analyze = False
    if statement.after(at).begins("(") and statement.word(at + 1) not in QUERIES:
        while at < len(statement.tokens) and statement.tokens[at].text != ")":
            analyze = analyze or statement.word(at) in ("analyze", "analyse")
            at += 1
        return at + 1, analyze
    while (word := statement.word(at)) in ("analyze", "analyse", "verbose"):
        analyze = analyze or word != "verbose"
        at += 1
    return at, analyze


def _query(statement: Statement, found: _Findings) -> None:
    found.add(Kind.READ, "a query")
    _calls(statement, found, strict=True)
    words = [token.text if token.kind == "word" else "" for token in statement.tokens]
    if any(word == "for" and after in _LOCK_WORDS for word, after in pairwise(words)):
        found.add(Kind.WRITE, _LOCKING)
    if statement.odd is None:
        _ask_parser(statement, found)
    if not {Kind.WRITE, Kind.SCHEMA} & set(found.reasons):
        written = next((word for word in words if word in _WRITE_WORDS), None)
        if written:
            found.doubt(f"it holds the word {written.upper()}")


def _calls(statement: Statement, found: _Findings, *, strict: bool) -> None:
    """Kinds that follow from the functions; when strict, every one has to be known as harmless."""
    found.functions, unknown = called_functions(statement)
    for name in unknown:
        kind = effect_of(name)
        if kind is not None:
            found.doubtful = True
            found.add(kind, f"the function {name}")
        elif strict:
            found.doubt(f"it calls {name}, which the gate does not know to be a read")


def _ask_parser(statement: Statement, found: _Findings) -> None:
    tokens = statement.tokens
    if len(tokens) > _MOST_PARSER_STEPS or parser_steps(tokens) > _MOST_PARSER_STEPS:
        found.doubt("it is too long or too deep to be read with certainty")
        return
    tree = _parse(statement)
    if tree is None:
        found.doubt("the parser does not read it as Postgres does")
        return
    _read_tree(tree, found)


def _parse(statement: Statement) -> exp.Expr | None:
    """The tree of one statement, or None where the parser fails or cuts the text in another way."""
    from sqlglot.dialects.postgres import Postgres
    from sqlglot.errors import SqlglotError

    dialect = Postgres()
    text = statement.text
    try:
        cut = dialect.tokenize(text)
        start = statement.tokens[0].start
        if not same_cut(statement.sql, statement.tokens, [(t.start + start, t.end + 1 + start) for t in cut]):
            return None
        trees = dialect.parser().parse(cut, text)
    except (SqlglotError, *_PARSER_FAULTS):
        return None
    return trees[0] if len(trees) == 1 else None


def _read_tree(tree: exp.Expr, found: _Findings) -> None:
    from sqlglot import exp

    if not isinstance(tree, (exp.Query, exp.Values, exp.DML)):
        found.doubt("the parser does not read it as a query")
    tables: dict[str, None] = {}
    defined: set[str] = set()
    telling = (exp.Table, exp.CTE, exp.Into, exp.DML, exp.Lock, exp.Command, exp.DDL, exp.Drop, exp.Alter)
    for node in tree.walk():
        if not isinstance(node, telling):  # most are not
            continue
        if isinstance(node, exp.Table):
            # Of a function in FROM, a part is the call, and its name may be its first argument.
            tables[".".join(part.name for part in node.parts if isinstance(part, exp.Identifier))] = None
        elif isinstance(node, exp.CTE):
            defined.add(node.alias)
        elif isinstance(node, exp.Into):
            found.add(Kind.SCHEMA, "SELECT INTO")
        elif isinstance(node, exp.DML):
            found.add(Kind.WRITE, f"{node.key.upper()} inside a query")
        elif isinstance(node, exp.Lock):
            found.add(Kind.WRITE, _LOCKING)
        else:
            found.doubt("the parser sees more than a query in it")
    found.objects = tuple(name for name in tables if name and name not in defined)
