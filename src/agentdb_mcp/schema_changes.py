"""What a migration does to a schema, from what was read before, in between and after. Pure: no I/O, no clock."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

BLOCKS = {
    "AccessExclusiveLock": "reads and writes",
    "ExclusiveLock": "writes",
    "ShareRowExclusiveLock": "writes",
    "ShareLock": "writes",
}
# What of a table goes or comes with it is not named one by one.
_OF_TABLES = frozenset({"column", "constraint", "trigger", "policy"})


@dataclass(frozen=True, slots=True)
class Part:
    """A table, column, index, …: `name` is qualified, and unique for its kind."""

    kind: str
    name: str
    definition: str = ""


@dataclass(frozen=True, slots=True)
class Change:
    """`before` and `after` are definitions; None where there was, or is, no such part."""

    kind: str
    name: str
    before: str | None = None
    after: str | None = None


@dataclass(frozen=True, slots=True)
class Changes:
    added: tuple[Change, ...] = ()
    removed: tuple[Change, ...] = ()
    changed: tuple[Change, ...] = ()


@dataclass(frozen=True, slots=True)
class Relation:
    """A table or index before the trial: its file tells whether it was written anew; `rows` of tables, estimated."""

    name: str
    file: int
    rows: int | None = None


@dataclass(frozen=True, slots=True)
class Lock:
    """What others would wait for: `blocks` is "reads and writes" or "writes"."""

    name: str
    blocks: str
    rows: int | None = None


@dataclass(frozen=True, slots=True)
class Held:
    """What the transaction holds at some moment: by the relation's oid, the lock's mode and the file's number."""

    locks: frozenset[tuple[int, str]] = frozenset()
    files: Mapping[int, int | None] = field(default_factory=dict)


def compare(before: Iterable[Part], after: Iterable[Part]) -> Changes:
    """What differs, by kind and name; a table that comes or goes stands for its columns and constraints."""
    old = {(part.kind, part.name): part.definition for part in before}
    new = {(part.kind, part.name): part.definition for part in after}
    gone, come = old.keys() - new.keys(), new.keys() - old.keys()
    return Changes(
        added=tuple(Change(*key, after=new[key]) for key in sorted(come) if not _within(key, new[key], come)),
        removed=tuple(Change(*key, before=old[key]) for key in sorted(gone) if not _within(key, old[key], gone)),
        changed=tuple(
            Change(*key, old[key], new[key]) for key in sorted(old.keys() & new.keys()) if old[key] != new[key]
        ),
    )


def _within(key: tuple[str, str], definition: str, others: Iterable[tuple[str, str]]) -> bool:
    """Whether it belongs to a table, view or type that came or went with it."""
    kind, name = key
    owners = [other for of, other in others if of not in _OF_TABLES | {"index", "function"}]
    if kind == "index":
        return any(f" ON {owner} USING " in definition for owner in owners)
    return kind in _OF_TABLES and any(name.startswith(f"{owner}.") for owner in owners)


def locked(before: Held, after: Held, relations: Mapping[int, Relation]) -> list[Lock]:
    """What was locked in between of the relations that there were at first, the strongest lock of each."""
    found: dict[int, str] = {}
    for oid, mode in sorted(after.locks - before.locks):
        if oid in relations and (oid not in found or BLOCKS.get(mode) == "reads and writes"):
            found[oid] = mode
    held = {oid for oid, mode in before.locks if mode == "AccessExclusiveLock"}
    return [
        Lock(relations[oid].name, BLOCKS.get(mode, mode), relations[oid].rows)
        for oid, mode in found.items()
        if oid not in held
    ]


def rewritten(before: Held, after: Held, relations: Mapping[int, Relation]) -> list[str]:
    """Relations whose file is another one since: all of it was written anew, or it was emptied."""
    names = []
    for oid, now in after.files.items():
        relation = relations.get(oid)
        if relation is not None and now is not None and now != (before.files.get(oid) or relation.file):
            names.append(relation.name)
    return sorted(names)


def taken_along(removed: Sequence[Change], statements: Sequence[str]) -> list[Change]:
    """Of what went, what no statement names by its own name: CASCADE took it along, or a column did."""
    text = " ".join(statements).lower()
    return [change for change in removed if _own_name(change.name) not in text]


def _own_name(name: str) -> str:
    """The last part of a qualified name, without arguments and quotes."""
    return name.partition("(")[0].rpartition(".")[2].strip('"').lower()
