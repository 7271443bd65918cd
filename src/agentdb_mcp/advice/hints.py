"""What a plan tells in words, and what to do about it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

from agentdb_mcp.advice.candidates import Need, Relation, candidates, needs
from agentdb_mcp.advice.indexes import Table
from agentdb_mcp.advice.plans import Node, Plan, children, subject

# Below these a remark is not worth its place.
DROPPED_SHARE = 0.9
MANY_ROWS = 1_000
MISJUDGED = 100
MANY_LOOPS = 1_000
MOST_HINTS = 12


def hints(plan: Plan, tables: Mapping[Relation, Table]) -> list[str]:
    """At most MOST_HINTS sentences, each once, in the order of the plan; `tables` are those that are known.

    Takes up to a second for a large plan.
    """
    said: dict[str, None] = {}
    look = _Look(tables, needs(plan))
    for node, _ in plan.nodes():
        for sentence in _of(node, look):
            said[sentence] = None
        if len(said) >= MOST_HINTS:
            break
    for relation in plan.relations().values():
        table = tables.get(relation)
        if table is not None and table.indexable and not table.analyzed:
            said[f"{_name(table)} was never analyzed, so the estimates are guesses: run ANALYZE {_name(table)}."] = None
    return list(said)[:MOST_HINTS]


@dataclass(frozen=True, slots=True)
class _Look:
    tables: Mapping[Relation, Table]
    wanted: Sequence[Need]
    _said: dict[Relation, str] = field(default_factory=dict)

    def index_words(self, relation: Relation) -> str:
        """The first index that might help to find the table's rows, of those that there are not yet."""
        if relation not in self._said:
            self._said[relation] = self._index_words(relation)
        return self._said[relation]

    def _index_words(self, relation: Relation) -> str:
        wanted = [replace(need, sorts={}, groups={}) for need in self.wanted if need.relation == relation]
        found = candidates(wanted, self.tables)
        if not found:
            return ""
        keys = ", ".join(key.name for key in found[0].keys)
        return f" An index on ({keys}) may help: analyze_query_indexes measures it."


def _of(node: Node, look: _Look) -> Iterator[str]:
    yield from _dropped(node, look)
    yield from _misjudged(node)
    yield from _spilled(node)
    yield from _nested(node, look)


def _dropped(node: Node, look: _Look) -> Iterator[str]:
    if node.get("Node Type") not in ("Seq Scan", "Index Scan", "Bitmap Heap Scan") or "Filter" not in node:
        return
    relation = (str(node.get("Schema")), str(node.get("Relation Name")))
    read, kept, seen = _read_and_kept(node, look.tables.get(relation))
    if read < MANY_ROWS or kept > read * (1 - DROPPED_SHARE):
        return
    share = 100 * (1 - kept / read)
    how = "reads every row" if node["Node Type"] == "Seq Scan" else "reads more rows than it keeps"
    sentence = (
        f"{node['Node Type']} on {subject(node)} {how}: of {'' if seen else 'about '}{read:,.0f} it drops"
        f" {share:.4g} % by {_shortened(str(node['Filter']))}."
    )
    yield sentence + look.index_words(relation)


def _read_and_kept(node: Node, table: Table | None) -> tuple[float, float, bool]:
    """Rows, and whether they were counted; of a plan that did not run by what the catalog estimates."""
    if "Actual Rows" in node:
        kept = float(node["Actual Rows"])
        return kept + float(node.get("Rows Removed by Filter", 0)), kept, True
    if node.get("Node Type") != "Seq Scan" or table is None:
        return 0.0, 0.0, False
    return max(table.rows, 0.0), float(node.get("Plan Rows", 0)), False


def _misjudged(node: Node) -> Iterator[str]:
    if "Actual Rows" not in node or not node.get("Actual Loops"):
        return
    expected, actual = max(float(node.get("Plan Rows", 0)), 1.0), max(float(node["Actual Rows"]), 1.0)
    factor = max(expected, actual) / min(expected, actual)
    if factor < MISJUDGED:
        return
    said = (
        f"{node['Node Type']}{' on ' + subject(node) if subject(node) else ''}: {expected:,.0f} rows were expected and"
        f" {float(node['Actual Rows']):,.0f} came, {factor:,.0f} times {'more' if actual > expected else 'fewer'}."
    )
    if subject(node):
        yield f"{said} Run ANALYZE {subject(node)}; for columns that depend on each other, CREATE STATISTICS."
    elif not any("Actual Rows" in child and _off(child) for child in children(node)):
        yield f"{said} CREATE STATISTICS on the columns that it joins or groups by may help."


def _off(node: Node) -> bool:
    return any(True for _ in _misjudged(node))


def _spilled(node: Node) -> Iterator[str]:
    if node.get("Sort Space Type") == "Disk":
        keys = ", ".join(map(str, node.get("Sort Key", ())))
        yield (
            f"The sort by {_shortened(keys)} spilled {node.get('Sort Space Used', 0):,} kB to disk. Sort fewer rows or"
            " columns, add an index in that order, or SET LOCAL work_mem higher with execute_transaction."
        )
    if node.get("Hash Batches", 1) > 1:
        yield f"A hash table did not fit into memory ({node['Hash Batches']} batches). Join fewer rows or columns."
    if node.get("Disk Usage"):
        yield f"Grouping spilled {node['Disk Usage']:,} kB to disk. Filter earlier, or group by fewer values."


def _nested(node: Node, look: _Look) -> Iterator[str]:
    if node.get("Node Type") != "Nested Loop" or len(children(node)) < 2:
        return
    outer, inner = children(node)[:2]
    loops = float(outer.get("Actual Rows", outer.get("Plan Rows", 0)))
    scanned = inner
    while scanned.get("Node Type") in ("Materialize", "Memoize") and children(scanned):
        scanned = children(scanned)[0]
    if loops < MANY_LOOPS or scanned.get("Node Type") != "Seq Scan":
        return
    relation = (str(scanned.get("Schema")), str(scanned.get("Relation Name")))
    table = look.tables.get(relation)
    if table is not None and 0 <= table.rows < MANY_ROWS / 10:
        return
    yield (
        f"A nested loop goes through {subject(scanned)} {loops:,.0f} times, each time through all of it."
        + (look.index_words(relation) or " Join by equality, so that it can be hashed.")
    )


def _name(table: Table) -> str:
    return f"{table.schema}.{table.name}"


def _shortened(text: str) -> str:
    return text if len(text) <= 200 else text[:200] + " …"
