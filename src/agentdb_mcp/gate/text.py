"""What a text must be before anything parses it: sound characters, bounded size, one statement."""

from __future__ import annotations

from dataclasses import dataclass

from agentdb_mcp.errors import InvalidArgument, StatementRefused
from agentdb_mcp.gate.tokens import Scan, Token, scan
from agentdb_mcp.policy import LimitRules

_OPENERS = "(["
_CLOSERS = ")]"


@dataclass(frozen=True, slots=True)
class TextLimits:
    """How long and how deep a text may be. The defaults are the shipped policy's."""

    max_sql_bytes: int = 131_072
    max_nesting: int = 100
    max_comment_openers: int = 1_000

    @classmethod
    def of(cls, limits: LimitRules) -> TextLimits:
        return cls(limits.max_sql_bytes, limits.max_nesting, limits.max_comment_openers)


@dataclass(frozen=True, slots=True)
class Statement:
    """One statement: its tokens, the text they are in, and what two lexers might read differently."""

    sql: str
    tokens: list[Token]
    odd: str | None = None

    def word(self, at: int) -> str:
        """The unquoted word at a place, or an empty string."""
        token = self.tokens[at] if at < len(self.tokens) else None
        return token.text if token is not None and token.kind == "word" else ""

    def begins(self, sign: str) -> bool:
        return bool(self.tokens) and self.tokens[0].kind == "punct" and self.tokens[0].text == sign

    def after(self, at: int) -> Statement:
        """The statement that begins at a token of this one, as in EXPLAIN."""
        return Statement(self.sql, self.tokens[at:], self.odd)

    @property
    def text(self) -> str:
        """From the first token to the last: no comments before it, no semicolon after it."""
        return self.sql[self.tokens[0].start : self.tokens[-1].end]


def read_statement(sql: str, limits: TextLimits) -> Statement:
    """The one statement of a text; refuses what must not be parsed and several statements."""
    _check_size(sql, _encoded_size(sql), limits)
    found = scan(sql)
    _check_nesting(found, limits.max_nesting)
    statements = _split(found.tokens)
    if not statements:
        raise InvalidArgument("The SQL is empty.", hint="Send one SQL statement.")
    if len(statements) > 1:
        raise StatementRefused(
            f"The text holds {len(statements)} statements; a call runs one.",
            hint="Send them one by one, or all or nothing with execute_transaction.",
        )
    return Statement(sql, statements[0], found.odd)


def _encoded_size(sql: str) -> int:
    """The length in bytes; NUL and lone surrogates cannot be sent to Postgres."""
    if "\0" in sql:
        raise InvalidArgument(
            "The SQL contains a NUL byte, which Postgres cannot store in text.",
            hint="Remove it, or pass binary data as a bytea parameter.",
        )
    try:
        return len(sql.encode("utf-8"))
    except UnicodeEncodeError:
        raise InvalidArgument(
            "The SQL contains half of a surrogate pair, which is not a character.",
            hint="Send whole characters; the text must be valid UTF-8.",
        ) from None


def _check_size(sql: str, size: int, limits: TextLimits) -> None:
    if size > limits.max_sql_bytes:
        raise StatementRefused(
            f"The SQL is {size} bytes long; at most {limits.max_sql_bytes} are allowed.",
            hint="Pass values as parameters, or split the work into several statements.",
        )
    # Counted inside strings too: code that is run from a string meets Postgres' lexer as well.
    if sql.count("/*") > limits.max_comment_openers:
        raise StatementRefused(
            f"The SQL opens more than {limits.max_comment_openers} comments.",
            hint="Send the statement without its comments.",
        )


def _check_nesting(found: Scan, most: int) -> None:
    depth = cases = 0
    previous = ""
    for token in found.tokens:
        if token.kind == "punct":
            if token.text in _OPENERS:
                depth += 1
            elif token.text in _CLOSERS:
                depth = max(0, depth - 1)
        elif token.kind == "word" and previous not in (".", "as"):
            cases += (token.text == "case") - (token.text == "end" and cases > 0)
        previous = token.text
        if depth + cases > most:
            raise StatementRefused(
                f"The SQL is nested more than {most} levels deep.",
                hint="Flatten the brackets, or name parts of the query in a WITH clause.",
            )


def _split(tokens: list[Token]) -> list[list[Token]]:
    """Statements between semicolons, as Postgres counts them; empty ones do not count."""
    statements: list[list[Token]] = [[]]
    depth = body = 0
    previous = ""
    for token in tokens:
        word = token.text if token.kind == "word" else ""
        if token.kind == "punct":
            depth = max(0, depth + (token.text in _OPENERS) - (token.text in _CLOSERS))
        # The body of a function in standard SQL, BEGIN ATOMIC … END, holds semicolons of its own.
        if (word == "atomic" and previous == "begin") or (body and word == "case"):
            body += 1
        elif body and word == "end":
            body -= 1
        if token.text == ";" and token.kind == "punct" and not depth and not body:
            statements.append([])
        else:
            statements[-1].append(token)
        previous = word
    return [one for one in statements if one]
