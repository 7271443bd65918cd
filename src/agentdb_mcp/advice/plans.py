"""A plan of EXPLAIN (FORMAT JSON, VERBOSE): its parts, its tables, its text."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

Node = Mapping[str, Any]

CONDITIONS = ("Index Cond", "Recheck Cond", "Filter", "Hash Cond", "Merge Cond", "Join Filter")
# What a text plan shows under a node, in this order.
_SHOWN = (
    "Index Cond", "Recheck Cond", "Hash Cond", "Merge Cond", "Join Filter", "Filter", "One-Time Filter", "Sort Key",
    "Presorted Key", "Group Key", "Rows Removed by Filter", "Rows Removed by Join Filter",
    "Rows Removed by Index Recheck", "Sort Method", "Sort Space Used", "Sort Space Type", "Hash Batches",
    "HashAgg Batches", "Disk Usage", "Heap Fetches", "Workers Planned", "Workers Launched", "Shared Hit Blocks",
    "Shared Read Blocks", "Temp Written Blocks",
)  # fmt: skip
# Every column of every step, and what is null of a step that did no input or output.
_LEFT_OUT = frozenset({"Output"})


@dataclass(frozen=True, slots=True)
class Plan:
    """`document` is what Postgres answered, without the columns that each step passes on."""

    document: Mapping[str, Any]

    @classmethod
    def of(cls, explained: object) -> Plan:
        """Of the one value that EXPLAIN answers. Raises ValueError where it is no plan."""
        head = explained[0] if isinstance(explained, list) and explained else explained
        if not isinstance(head, Mapping) or not isinstance(head.get("Plan"), Mapping):
            raise ValueError("not a plan")
        return cls({**head, "Plan": _tidy(head["Plan"])})

    @property
    def root(self) -> Node:
        node: Node = self.document["Plan"]
        return node

    @property
    def total_cost(self) -> float:
        return float(self.root.get("Total Cost", 0))

    def nodes(self) -> Iterator[tuple[Node, int]]:
        """Every step with its depth, from the top."""
        pending = [(self.root, 0)]
        while pending:
            node, depth = pending.pop()
            yield node, depth
            pending += [(child, depth + 1) for child in reversed(children(node))]

    def relations(self) -> dict[str, tuple[str, str]]:
        """Schema and name of each table, by what the plan calls it."""
        return {
            str(node["Alias"]): (str(node["Schema"]), str(node["Relation Name"]))
            for node, _ in self.nodes()
            if "Relation Name" in node and "Alias" in node and "Schema" in node
        }

    def used_indexes(self) -> set[str]:
        return {str(node["Index Name"]) for node, _ in self.nodes() if "Index Name" in node}

    def text(self) -> str:
        """As people read plans."""
        lines = [line for node, depth in self.nodes() for line in _lines(node, depth)]
        times = [name for name in ("Planning Time", "Execution Time") if name in self.document]
        return "\n".join([*lines, *(f"{name}: {self.document[name]:.3f} ms" for name in times)])


def children(node: Node) -> list[Node]:
    return [child for child in node.get("Plans", ()) if isinstance(child, Mapping)]


def subject(node: Node) -> str:
    """The table that a step reads, with its schema."""
    name = node.get("Relation Name")
    return f"{node['Schema']}.{name}" if name and "Schema" in node else str(name or "")


def _tidy(node: Node) -> dict[str, Any]:
    tidied = {key: value for key, value in node.items() if key not in _LEFT_OUT}
    if "Plans" in node:
        tidied["Plans"] = [_tidy(child) for child in children(node)]
    return tidied


def _lines(node: Node, depth: int) -> Iterator[str]:
    about = [_title(node)]
    if index := node.get("Index Name"):
        about.append(f"using {index}")
    if table := subject(node) or node.get("CTE Name") or node.get("Function Name"):
        alias = node.get("Alias")
        about.append(f"on {table}" + (f" {alias}" if alias and alias != node.get("Relation Name", table) else ""))
    indent = "      " * depth
    arrow = "->  " if depth else ""
    if name := node.get("Subplan Name"):
        yield f"{indent}{name}"
    yield f"{indent}{arrow}{' '.join(about)}  {_figures(node)}"
    for key in _SHOWN:
        value = node.get(key)
        if value not in (None, 0, [], ""):
            yield f"{indent}      {key}: {', '.join(map(str, value)) if isinstance(value, list) else value}"


def _title(node: Node) -> str:
    kind, join = str(node.get("Node Type", "?")), node.get("Join Type")
    if join and join != "Inner":
        kind = f"{kind} {join}"
    if node.get("Node Type") == "Aggregate" and node.get("Strategy") in ("Hashed", "Sorted", "Mixed"):
        kind = f"{node['Strategy']} {kind}"
    if node.get("Operation"):
        kind = f"{node['Operation']} by {kind}"
    return ("Parallel " if node.get("Parallel Aware") else "") + kind


def _figures(node: Node) -> str:
    cost = (
        f"(cost={node.get('Startup Cost', 0):.2f}..{node.get('Total Cost', 0):.2f}"
        f" rows={node.get('Plan Rows', 0)} width={node.get('Plan Width', 0)})"
    )
    if "Actual Rows" not in node:
        return cost
    if not node.get("Actual Loops"):
        return f"{cost} (never executed)"
    time = f"time={node['Actual Total Time']:.3f} " if "Actual Total Time" in node else ""
    return f"{cost} (actual {time}rows={node['Actual Rows']:g} loops={node['Actual Loops']:g})"
