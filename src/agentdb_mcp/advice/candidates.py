"""Plans → indexes that might help: equality first, then a range or the order that is asked for, up to three columns."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import combinations

from agentdb_mcp.advice.expressions import Role, sort_key, uses
from agentdb_mcp.advice.indexes import MAX_COLUMNS, Index, Key, Table, covered
from agentdb_mcp.advice.plans import CONDITIONS, Node, Plan

Relation = tuple[str, str]
# Of all conditions of one plan, which of thousands of partitions has thousands.
MOST_CHARACTERS = 50_000
# Columns of one kind that are combined, for one table in one query.
_MOST_COMBINED = 4
_FORWARD = {" DESC": "", " DESC NULLS LAST": " NULLS FIRST"}


@dataclass(slots=True)
class Need:
    """What one query asks of one table: names of columns, in the order in which they were met."""

    relation: Relation
    equal: dict[str, None] = field(default_factory=dict)
    joins: dict[frozenset[str], dict[str, None]] = field(default_factory=dict)
    ranges: dict[str, None] = field(default_factory=dict)
    any: dict[str, None] = field(default_factory=dict)
    sorts: dict[tuple[Key, ...], None] = field(default_factory=dict)
    groups: dict[tuple[str, ...], None] = field(default_factory=dict)


def needs(plan: Plan) -> list[Need]:
    """Of each table that the plan names; a table that is named twice has two. Takes up to a second."""
    found = {alias: Need(relation) for alias, relation in plan.relations().items()}
    left = MOST_CHARACTERS
    for node, _ in plan.nodes():
        for text in (node.get(condition) for condition in CONDITIONS):
            if isinstance(text, str) and len(text) <= left:
                left -= len(text)
                _read_condition(text, found)
        if "Sort Key" in node or "Group Key" in node:
            left -= sum(len(str(text)) for key in ("Sort Key", "Group Key") for text in node.get(key, ()))
            if left >= 0:
                _read_order(node, found)
    return list(found.values())


def candidates(wanted: Sequence[Need], tables: Mapping[Relation, Table]) -> list[Index]:
    """Indexes that there are not yet, each once; `wanted` is of one query or many, which share what they can."""
    popular = Counter((need.relation, name) for need in wanted for name in _looked_up(need))
    found: dict[Index, None] = {}
    for need in wanted:
        table = tables.get(need.relation)
        if table is None or not table.indexable:
            continue

        def place(name: str, table: Table = table) -> tuple[float, ...]:
            return -popular[table.relation, name], -table.distinct(name)

        for keys in _lists(need, place):
            index = Index(*need.relation, keys)
            known = all(key.name in table.columns for key in keys)
            if known and not covered(index, table.indexes):
                found[index] = None
    return list(found)


def _looked_up(need: Need) -> set[str]:
    return set(need.equal).union(*need.joins.values())


def _read_condition(text: str, found: Mapping[str, Need]) -> None:
    for use in uses(text):
        need = found.get(use.alias)
        if need is None:
            continue
        if use.role is Role.ANY:
            need.any[use.column] = None
        elif use.role is Role.RANGE:
            need.ranges[use.column] = None
        elif use.others:
            need.joins.setdefault(use.others, {})[use.column] = None
        else:
            need.equal[use.column] = None


def _read_order(node: Node, found: Mapping[str, Need]) -> None:
    if (sorted_by := _leading(node.get("Sort Key", ()), found)) is not None:
        found[sorted_by[0]].sorts[_forward(sorted_by[1])] = None
    if (grouped_by := _leading(node.get("Group Key", ()), found)) is not None:
        found[grouped_by[0]].groups[tuple(key.name for key in grouped_by[1])] = None


def _leading(texts: Iterable[object], found: Mapping[str, Need]) -> tuple[str, tuple[Key, ...]] | None:
    """The first keys, as far as they are columns of one table."""
    alias, keys = "", list[Key]()
    for text in texts:
        key = sort_key(str(text))
        if key is None or key[0] not in found or (alias and key[0] != alias):
            break
        alias = key[0]
        keys.append(Key(key[1], key[2]))
    return (alias, tuple(keys)) if keys else None


def _forward(keys: tuple[Key, ...]) -> tuple[Key, ...]:
    """An index is read in both directions: where every key goes backward, one that goes forward does."""
    if all(key.suffix in _FORWARD for key in keys):
        return tuple(Key(key.name, _FORWARD[key.suffix]) for key in keys)
    return keys


def _lists(need: Need, place: Callable[[str], tuple[float, ...]]) -> Iterator[tuple[Key, ...]]:
    """Lists of keys, the most promising first; repeated ones and such of too many columns are left out."""
    seen: set[tuple[Key, ...]] = set()
    for keys in _combined(need, place):
        short = keys[:MAX_COLUMNS]
        if short and short not in seen and len({key.name for key in short}) == len(short):
            seen.add(short)
            yield short


def _combined(need: Need, place: Callable[[str], tuple[float, ...]]) -> Iterator[tuple[Key, ...]]:
    equal = sorted(need.equal, key=place)[:_MOST_COMBINED]
    joins = [tuple(sorted(names, key=place)[:MAX_COLUMNS]) for names in need.joins.values()]
    ranges = list(need.ranges)[:_MOST_COMBINED]
    for size in range(min(len(equal), MAX_COLUMNS), 0, -1):
        for chosen in combinations(equal, size):
            yield from _extended(chosen, need, ranges)
            for join in joins:
                yield _plain(chosen + join)
    for join in joins:
        yield from _extended(join, need, ranges)
        for name in equal:
            yield _plain((*join, name))
        for name in join:
            yield _plain((name,))
    yield from _extended((), need, ranges)
    for name in need.any:
        yield _plain((name,))
    for keys in need.sorts:
        yield from (keys + _plain((name,)) for name in ranges)


def _extended(names: tuple[str, ...], need: Need, ranges: Sequence[str]) -> Iterator[tuple[Key, ...]]:
    """Columns that are looked for, alone and with a range, an order or a grouping after them."""
    start = _plain(names)
    yield start
    for name in ranges:
        yield start + _plain((name,))
    for keys in need.sorts:
        yield start + keys
    for group in need.groups:
        yield start + _plain(group)


def _plain(names: Iterable[str]) -> tuple[Key, ...]:
    return tuple(Key(name) for name in names)
