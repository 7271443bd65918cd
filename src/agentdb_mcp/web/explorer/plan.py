"""A plan of EXPLAIN (FORMAT JSON) as a list of steps, each with its depth, its own share and what it is about. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

_DETAILS = (
    "Index Cond", "Recheck Cond", "Filter", "Hash Cond", "Merge Cond", "Join Filter", "Sort Key", "Group Key",
    "Rows Removed by Filter", "Sort Method", "Workers Planned",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Step:
    """`share` is what the step itself takes of the whole, 0 to 1: of the time where it ran, else of the cost.

    `misjudged` is by which factor the rows differ from what was expected, where it ran.
    """

    depth: int
    title: str
    subject: str
    details: tuple[str, ...]
    cost: float
    rows: int
    actual_rows: int | None
    milliseconds: float | None
    share: float
    misjudged: float | None


@dataclass(frozen=True, slots=True)
class Plan:
    steps: tuple[Step, ...]
    total_cost: float
    planning_ms: float | None
    execution_ms: float | None


def read_plan(explained: object) -> Plan:
    """`explained` is the answer's one value. Raises ValueError where it is no plan."""
    head = explained[0] if isinstance(explained, list) and explained else explained
    if not isinstance(head, Mapping) or not isinstance(head.get("Plan"), Mapping):
        raise ValueError("not a plan")
    root = head["Plan"]
    whole = _weight(root) or 1.0
    steps: list[Step] = []
    pending = [(root, 0)]
    while pending:
        node, depth = pending.pop()
        children = [child for child in node.get("Plans", ()) if isinstance(child, Mapping)]
        steps.append(_step(node, depth, children, whole))
        pending += [(child, depth + 1) for child in reversed(children)]
    return Plan(tuple(steps), float(root.get("Total Cost", 0)), head.get("Planning Time"), head.get("Execution Time"))


def _step(node: Mapping[str, Any], depth: int, children: list[Mapping[str, Any]], whole: float) -> Step:
    own = max(0.0, _weight(node) - sum(_weight(child) for child in children))
    expected, actual = int(node.get("Plan Rows", 0)), node.get("Actual Rows")
    loops = float(node.get("Actual Loops", 1) or 1)
    rows = None if actual is None else int(float(actual) * loops)
    time = node.get("Actual Total Time")
    misjudged = None
    if actual is not None:
        larger, smaller = max(float(actual), float(expected), 1.0), max(min(float(actual), float(expected)), 1.0)
        misjudged = larger / smaller
    return Step(
        depth,
        " ".join(
            part
            for part in (
                node.get("Join Type") if "Join" in str(node.get("Node Type")) else None,
                str(node.get("Node Type", "?")),
            )
            if part and part != "Inner"
        ),
        _subject(node),
        tuple(f"{name}: {_text(node[name])}" for name in _DETAILS if name in node),
        float(node.get("Total Cost", 0)),
        expected,
        rows,
        None if time is None else float(time) * loops,
        min(1.0, own / whole),
        misjudged,
    )


def _weight(node: Mapping[str, Any]) -> float:
    time = node.get("Actual Total Time")
    if time is not None:
        return float(time) * float(node.get("Actual Loops", 1) or 1)
    return float(node.get("Total Cost", 0))


def _subject(node: Mapping[str, Any]) -> str:
    name = node.get("Relation Name") or node.get("CTE Name") or node.get("Function Name") or ""
    alias = node.get("Alias")
    parts = [str(name) + (f" as {alias}" if name and alias and alias != name else "")] if name else []
    if index := node.get("Index Name"):
        parts.append(f"by {index}")
    return " ".join(parts)


def _text(value: object) -> str:
    return ", ".join(str(each) for each in value) if isinstance(value, list) else str(value)
