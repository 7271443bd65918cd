"""Whether the parser may be asked about a text, and whether it cut the text as Postgres does."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from agentdb_mcp.gate.tokens import Token

_DEEPEST_WEIGHT = 14
_WEIGHING = frozenset({"(", "[", ")", "]", "join", "on", "using"})


def parser_steps(tokens: Iterable[Token]) -> int:
    """An upper guess of the work: it tries some brackets and joins both ways, twice as much a level."""
    steps = depth = joins = subscripts = 0
    each = 1
    for kind, text, _, _ in tokens:
        if text in _WEIGHING:
            if text in ("(", "["):
                depth += 1
                subscripts += text == "["
                steps += subscripts
            elif text in (")", "]"):
                depth -= 1
            elif kind == "word":
                joins = max(0, joins + (1 if text == "join" else -1))
            each = 1 << max(0, min(depth + joins - 1, _DEEPEST_WEIGHT))
        steps += each
    return steps


def same_cut(sql: str, ours: Sequence[Token], theirs: Sequence[tuple[int, int]]) -> bool:
    """Whether both lexers see the same quoted parts and nothing but space and comments between tokens."""
    at = reached = 0
    for start, end in theirs:
        while at < len(ours) and ours[at].end <= start:
            if ours[at].end > reached:
                return False
            at += 1
        if at == len(ours) or not _same_token(sql, ours[at], start, end):
            return False
        reached = end
    return ours[-1].end <= reached


def _same_token(sql: str, mine: Token, start: int, end: int) -> bool:
    if mine.kind in ("string", "name"):
        return (start, end) == (mine.start, mine.end)
    # Operators and $1 may be cut in pieces, words may not; a merged ORDER BY spans several of ours.
    begins = start == mine.start or (mine.kind == "other" and start > mine.start)
    return begins and sql.find("'", start, end) < 0 and sql.find('"', start, end) < 0
