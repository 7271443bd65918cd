"""A text as Postgres' own lexer cuts it: words, quoted parts, brackets; comments are left out.

The parser that reads queries was made for many dialects and cuts some texts otherwise. What could be cut in two
ways is reported in `Scan.odd`, and then nothing about the text counts as certain.
"""

from __future__ import annotations

import re
from typing import Literal, NamedTuple

TokenKind = Literal["word", "name", "string", "punct", "other"]


class Token(NamedTuple):
    """`text` is in lower case for words and without its quotes for quoted names."""

    kind: TokenKind
    text: str
    start: int
    end: int


class Scan(NamedTuple):
    """Tokens, and the first reason for which another lexer might cut this text otherwise."""

    tokens: list[Token]
    odd: str | None


# Possessive repeats (*+) never step back, so a text is read once whatever it holds.
_PLAIN = r"'[^']*+(?:''[^']*+)*+'"
_QUOTED = r'"[^"]*+(?:""[^"]*+)*+"'
_WIDE = r"\u0080-\U0010ffff"
_TOKEN = re.compile(
    rf"""
      (?P<space> [ \t\n\r\f\v]++ )
    | (?P<punct> [()\[\];,.] )
    | (?P<word> (?![eEbBnNxX]'|[uU]&['"]) [A-Za-z_][A-Za-z0-9_$]*+ (?![{_WIDE}]) )
    | (?P<number> \$?[0-9][A-Za-z0-9_]*+ (?:\.(?!\.)[A-Za-z0-9_]*+)? )
    | (?P<string> {_PLAIN} )
    | (?P<name> {_QUOTED} )
    | (?P<line> --[^\n\r]*+ )
    | (?P<block> /\* )
    | (?P<operator> (?: (?!--|/\*) [-+*/<>=~!@#%^&|?:] )++ )
    | (?P<dollar> \$ (?:[A-Za-z_{_WIDE}][A-Za-z0-9_{_WIDE}]*+)? \$ )
    | (?P<escaped> [eE]'[^'\\]*+ (?:(?:\\.|'')[^'\\]*+)*+ ' )
    | (?P<prefixed> [bBnNxX]{_PLAIN} )
    | (?P<coded> [uU]& (?:{_PLAIN}|{_QUOTED}) )
    | (?P<wide> [A-Za-z_{_WIDE}][A-Za-z0-9_${_WIDE}]*+ )
    | (?P<strange> . )
    """,
    re.VERBOSE | re.DOTALL,
)
_QUOTES = frozenset({"'", '"'})
_COMMENT_EDGE = re.compile(r"/\*|\*/")
_PLAIN_KINDS: dict[str, TokenKind] = {"punct": "punct", "number": "other", "operator": "other"}


def scan(sql: str) -> Scan:
    """Cut a text into tokens. Never raises; takes time in proportion to the text's length."""
    tokens: list[Token] = []
    odd: str | None = None
    at = 0
    while (found := _TOKEN.match(sql, at)) is not None:
        group, end = found.lastgroup or "", found.end()
        if group == "word":
            tokens.append(Token("word", found[0].lower(), at, end))
        elif group in _PLAIN_KINDS:
            tokens.append(Token(_PLAIN_KINDS[group], found[0], at, end))
        elif group != "space":
            end, doubt = _rarer(sql, found, tokens)
            odd = odd or doubt
        at = end
    return Scan(tokens, odd)


def _rarer(sql: str, found: re.Match[str], tokens: list[Token]) -> tuple[int, str | None]:
    """Take in quoted parts, comments and letters beyond ASCII; returns where they end and what is odd."""
    group, text, start, end = found.lastgroup, found[0], found.start(), found.end()
    if group == "block":
        return _skip_comment(sql, end)
    if group == "line":
        return end, _line_doubt(sql, end)
    if group == "name":
        tokens.append(Token("name", text[1:-1].replace('""', '"'), start, end))
        return end, None
    if group in ("wide", "strange"):
        if text in _QUOTES or (text in "eEbBnNxX" and sql.startswith("'", end)):
            return len(sql), "a quote is not closed"
        # Postgres folds ASCII only: a Kelvin sign must not become a k.
        tokens.append(Token("word" if group == "wide" else "other", text, start, end))
        letters = group == "wide" and all(c.isascii() or c.isalnum() for c in text)
        return end, None if letters else "it holds unusual characters outside quotes"
    doubt = "it uses U&" if group == "coded" else None
    if tokens and tokens[-1].kind == "string":
        doubt = "it joins adjacent strings"
    if group == "dollar":
        close = sql.find(text, end)
        end = close + len(text) if close >= 0 else len(sql)
        doubt = doubt if close >= 0 else "a dollar quote is not closed"
    tokens.append(Token("string", "", start, end))
    return end, doubt


def _line_doubt(sql: str, end: int) -> str | None:
    lone_return = sql.startswith("\r", end) and not sql.startswith("\r\n", end)
    return "a comment ends with a bare carriage return" if lone_return else None


def _skip_comment(sql: str, at: int) -> tuple[int, str | None]:
    """The end of a block comment. Postgres nests them, and not everybody does."""
    depth, doubt = 1, None
    for edge in _COMMENT_EDGE.finditer(sql, at):
        if edge.group() == "/*":
            depth, doubt = depth + 1, "it nests comments"
        else:
            depth -= 1
        if not depth:
            return edge.end(), doubt
    return len(sql), "a comment is not closed"
