"""Names as SQL writes them, and which of many was probably meant."""

from __future__ import annotations

import difflib
import heapq
import re
from collections.abc import Iterable, Sequence

MOST, LIKELY, CUTOFF = 3, 50, 0.6
_PLAIN = re.compile(r"[a-z_][a-z0-9_$]*")
# Words that are no names of tables or columns without quotes (Postgres: reserved keywords).
_RESERVED = """
    all analyse analyze and any array as asc asymmetric authorization binary both case cast check collate collation
    column concurrently constraint create cross current_catalog current_date current_role current_schema current_time
    current_timestamp current_user default deferrable desc distinct do else end except false fetch for foreign freeze
    from full grant group having ilike in initially inner intersect into is isnull join lateral leading left like limit
    localtime localtimestamp natural not notnull null offset on only or order outer overlaps placing primary references
    returning right select session_user similar some symmetric system_user table tablesample then to trailing true
    union unique user using variadic verbose when where window with
"""
RESERVED = frozenset(_RESERVED.split())


def written(*parts: str) -> str:
    """A name with its schema or table, quoted where SQL needs that; characters that cannot be seen are escaped."""
    return ".".join(_identifier(part) for part in parts)


def _identifier(name: str) -> str:
    if _PLAIN.fullmatch(name) and name not in RESERVED:
        return name
    if name.isprintable():
        return '"' + name.replace('"', '""') + '"'
    escaped = (each if each.isprintable() else f"\\+{ord(each):06X}" for each in name.replace("\\", "\\\\"))
    return 'U&"' + "".join(escaped).replace('"', '""') + '"'


def closest(name: str, known: Iterable[str], most: int = MOST) -> list[str]:
    """Those that differ in capitals or underscores alone, else the nearest; the best first."""
    by_key: dict[str, list[str]] = {}
    for each in known:
        if each not in (same := by_key.setdefault(_key(each), [])):
            same.append(each)
    key = _key(name)
    keys = [key] if key in by_key else difflib.get_close_matches(key, _likely(key, by_key), n=most, cutoff=CUTOFF)
    return [each for found in keys for each in by_key[found]][:most]


def _likely(key: str, known: Iterable[str]) -> list[str]:
    """Those with the most letters in common: comparing their order as well takes a millisecond a pair at worst."""
    matcher = difflib.SequenceMatcher(b=key)
    shares: dict[str, float] = {}
    for each in known:
        matcher.set_seq1(each)
        if matcher.real_quick_ratio() >= CUTOFF and (share := matcher.quick_ratio()) >= CUTOFF:
            shares[each] = share
    return heapq.nlargest(LIKELY, shares, key=shares.__getitem__)


def one_of(names: Sequence[str]) -> str:
    *others, last = names
    return f"{', '.join(others)} or {last}" if others else last


def visible(text: str, most: int = 300) -> str:
    """One line of that many characters at most, without what cannot be seen."""
    line = " ".join("".join(each if each.isprintable() else " " for each in text).split())
    return line if len(line) <= most else line[:most] + " …"


def _key(name: str) -> str:
    return name.casefold().replace("_", "")
