from __future__ import annotations

from dataclasses import replace
from itertools import product
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentdb_mcp import gate
from agentdb_mcp.advice import health
from agentdb_mcp.advice.health import Finding, ForeignKey, Index, Sequence, Severity, Table, Thresholds, Unchecked
from agentdb_mcp.advice.health.findings import bytes_text
from agentdb_mcp.advice.health.indexes import covers, duplicates, ideal_bytes, supports
from agentdb_mcp.advice.health.tables import usage
from agentdb_mcp.errors import NotAllowed
from agentdb_mcp.models import AccessMode, BudgetState
from agentdb_mcp.policy import default_path, load_policy
from agentdb_mcp.services import Health

LIMITS = Thresholds()
NO_QUERIES: Any = None
ODD = 'public."Odd ""table"" — with; spaces"'


def index(name: str, columns: str, **fields: object) -> Index:
    count = len(columns.split())
    given: dict[str, object] = {
        "name": name,
        "bare_name": name,
        "table": "t",
        "method": "btree",
        "columns": columns,
        "classes": "1 " * count,
        "collations": "0 " * count,
        "options": "0 " * count,
        "key_count": count,
        "definition": f"CREATE INDEX {name} …",
    }
    return Index(**(given | fields))


def checks(findings: list[Finding]) -> list[tuple[str, str]]:
    return [(each.check, each.object) for each in findings]


# --- indexes --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("one", "other", "covered"),
    [
        (index("a", "1 2"), index("b", "1"), True),
        (index("a", "1 2"), index("b", "2"), False),
        (index("a", "1"), index("b", "1 2"), False),
        (index("a", "1"), index("b", "1"), True),
        (index("a", "1", table="other"), index("b", "1"), False),
        (index("a", "1", valid=False), index("b", "1"), False),
        (index("a", "1 2", method="gin"), index("b", "1", method="gin"), False),
        (index("a", "1 2", method="gin"), index("b", "1 2", method="gin"), True),
        (index("a", "1", method="hash"), index("b", "1"), False),
        (index("a", "1", predicate="n > 0"), index("b", "1"), False),
        (index("a", "1", predicate="n > 0"), index("b", "1", predicate="n > 0"), True),
        (index("a", "1", options="3"), index("b", "1"), False),
        (index("a", "1", collations="100"), index("b", "1"), False),
        (index("a", "1", classes="2"), index("b", "1"), False),
        (index("a", "0", expressions="lower(x)"), index("b", "0", expressions="lower(x)"), True),
        (index("a", "0", expressions="lower(x)"), index("b", "0", expressions="upper(x)"), False),
        (index("a", "1 0", expressions="lower(x)"), index("b", "1"), True),
        (index("a", "0 1", expressions="lower(x)"), index("b", "0", expressions="lower(x)"), False),
        (index("a", "1 2", key_count=1), index("b", "1 3", key_count=1), False),
        (index("a", "1 2", key_count=1), index("b", "1"), True),
        (index("a", "1"), index("b", "1", unique=True), False),
        (index("a", "1", unique=True), index("b", "1", unique=True), True),
        (index("a", "1", unique=True, nulls_equal=True), index("b", "1", unique=True), False),
        (index("a", "1", unique=True, immediate=False), index("b", "1", unique=True), False),
        (index("a", "1 2", unique=True), index("b", "1", unique=True), False),
        (index("a", "1", unique=True), index("b", "1"), True),
    ],
)
def test_an_index_covers_what_it_does_as_well(one: Index, other: Index, covered: bool) -> None:
    assert covers(one, other) is covered


flags = st.booleans()
indexes = st.builds(
    lambda columns, unique, primary, constraint, valid, referenced, attached: (
        " ".join(columns),
        {
            "unique": unique or primary,
            "primary": primary,
            "constraint": "c" if constraint or primary else None,
            "valid": valid,
            "referenced": referenced,
            "attached": attached,
        },
    ),
    st.permutations(["1", "2", "3"]).flatmap(lambda order: st.integers(1, 3).map(lambda count: order[:count])),
    *[flags] * 6,
)


@given(st.lists(indexes, max_size=7))
def test_what_remains_covers_all_that_duplicates_would_drop(made: list[tuple[str, dict[str, object]]]) -> None:
    table = [index(f"i{number}", columns, **fields) for number, (columns, fields) in enumerate(made)]
    dropped = duplicates(table)
    remaining = [each for each in table if each.name not in dropped]
    for each in table:
        if each.name in dropped:
            assert each.removable
            assert each.valid
            assert any(covers(other, each) for other in remaining)


@pytest.mark.parametrize(
    ("columns", "fields", "supported"),
    [
        ("1 2", {}, True),
        ("2 1", {}, True),
        ("2 1 3", {}, True),
        ("1 3 2", {}, False),
        ("1", {}, False),
        ("1 2", {"key_count": 1}, False),
        ("1 2", {"predicate": "x"}, False),
        ("1 2", {"valid": False}, False),
        ("1 2", {"table": "other"}, False),
    ],
)
def test_an_index_supports_a_foreign_key_whose_columns_it_begins_with(
    columns: str, fields: dict[str, object], supported: bool
) -> None:
    assert supports(index("i", columns, **fields), ForeignKey("k", "t", "1 2", "a, b", "u", 5)) is supported


@pytest.mark.parametrize(("rows", "severity"), [(9_999, Severity.INFO), (10_000, Severity.WARNING)])
def test_a_foreign_key_without_an_index_weighs_with_its_rows(rows: int, severity: Severity) -> None:
    (finding,) = health.judge_foreign_keys([ForeignKey("k", "t", "1", "a", "u", rows)], [], LIMITS)
    assert (finding.severity, finding.sql) == (severity, ("CREATE INDEX ON t (a)",))


@pytest.mark.parametrize(
    ("changed", "found"),
    [
        ({}, True),
        ({"scans": 1}, False),
        ({"size_bytes": 999_999}, False),
        ({"table_scans": 99}, False),
        ({"unique": True}, False),
        ({"constraint": "c"}, False),
        ({"identity": True}, False),
        ({"attached": True}, False),
    ],
)
def test_an_index_is_unused_from_a_size_and_a_use_of_its_table_on(changed: dict[str, object], found: bool) -> None:
    each = index("i", "1", **({"size_bytes": 1_000_000, "table_scans": 100} | changed))
    assert checks(health.judge_indexes([each], [], LIMITS)) == ([("unused_index", "i")] if found else [])


def test_the_only_index_of_a_foreign_key_is_not_unused() -> None:
    each = index("i", "1", size_bytes=1_000_000, table_scans=100)
    key = ForeignKey("k", "t", "1", "a", "u", 5)
    assert health.judge_indexes([each], [key], LIMITS) == []
    other = index("j", "1 2", scans=5)
    assert checks(health.judge_indexes([each, other], [key], LIMITS)) == [("duplicate_index", "i")]


@given(st.integers(0, 10**9), st.integers(1, 2000))
def test_a_fresh_index_is_never_bloated_and_grows_with_its_entries(entries: int, width: int) -> None:
    size = ideal_bytes(entries, width)
    assert size % 8192 == 0
    assert size >= entries * width
    assert ideal_bytes(entries + 1, width) >= size
    assert ideal_bytes(entries, width + 1) >= size
    fresh = index("i", "1", size_bytes=size, entries=entries, entry_bytes=width, scans=1)
    assert health.judge_indexes([fresh], [], replace(LIMITS, bloated_bytes=0)) == []


def test_an_index_is_bloated_from_half_on() -> None:
    ideal = ideal_bytes(1_000_000, 8)
    half = index("i", "1", size_bytes=2 * ideal, entries=1_000_000, entry_bytes=8, scans=1)
    assert checks(health.judge_indexes([half], [], LIMITS)) == [("bloated_index", "i")]
    assert health.judge_indexes([replace(half, size_bytes=2 * ideal - 1)], [], LIMITS) == []
    assert health.judge_indexes([replace(half, entry_bytes=None)], [], LIMITS) == []


# --- tables, sequences, constraints ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("table", "found"),
    [
        (Table("t"), []),
        (Table("t", dead=1_000, autovacuum=False), ["autovacuum_off"]),
        (Table("t", dead=999, autovacuum=False), []),
        (Table("t", dead=1_000, autovacuum=False, vacuum_from=1_001), []),
        (Table("t", dead=9_999), []),
        (Table("t", dead=10_000), ["dead_rows"]),
        (Table("t", dead=10_000, vacuum_from=5_001), []),
        (Table("t", modified=1_000), ["stale_statistics"]),
        (Table("t", modified=999), []),
        (Table("t", modified=1_999, rows=10_000), []),
        (Table("t", modified=2_000, rows=10_000), ["stale_statistics"]),
        (Table("t", age=999_999_999), []),
        (Table("t", age=1_000_000_000), ["transaction_age"]),
        (Table("t", multixact_age=1_600_000_000), ["transaction_age"]),
    ],
)
def test_tables_are_told_of_from_their_thresholds_on(table: Table, found: list[str]) -> None:
    assert [each.check for each in health.judge_tables([table], LIMITS)] == found


def test_transaction_age_becomes_critical() -> None:
    severities = [
        health.judge_tables([Table("t", age=age)], LIMITS)[0].severity for age in (1_599_999_999, 1_600_000_000)
    ]
    assert severities == [Severity.WARNING, Severity.CRITICAL]


def sequence(last: int, **fields: str) -> Sequence:
    given = {"lowest": "1", "highest": str(2**31 - 1), "increment": "1", "type": "integer"} | fields
    return Sequence("s", last=str(last), **given)


@given(st.integers(1, 2**63 - 1), st.integers(1, 2**63 - 1), st.integers(1, 1000))
def test_the_used_part_of_a_sequence_and_what_is_left_agree(highest: int, last: int, step: int) -> None:
    last = min(highest, last)
    up = sequence(last, highest=str(highest), increment=str(step), type="bigint")
    used, left = usage(up)
    assert 0 <= used <= 1
    assert last + left * step <= highest < last + (left + 1) * step
    down = sequence(-last, lowest=str(-highest), highest="-1", increment=str(-step), type="bigint")
    assert usage(down) == (pytest.approx(used), left)


@pytest.mark.parametrize(
    ("last", "severity"), [(749, None), (751, Severity.WARNING), (900, Severity.WARNING), (901, Severity.CRITICAL)]
)
def test_a_sequence_is_told_of_from_three_quarters_on(last: int, severity: Severity | None) -> None:
    found = health.judge_sequences([sequence(last, highest="1000")], LIMITS)
    assert [each.severity for each in found] == ([severity] if severity else [])


def test_a_sequence_of_bigint_at_its_end_has_no_sql() -> None:
    (finding,) = health.judge_sequences([sequence(2**63 - 1, highest=str(2**63 - 1), type="bigint")], LIMITS)
    assert finding.sql == ()
    assert "0 are left" in finding.why


# --- activity -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("used", "severity"),
    [(0, None), (79, None), (80, Severity.WARNING), (95, Severity.CRITICAL), (100, Severity.CRITICAL)],
)
def test_connections_are_told_of_from_four_fifths_on(used: int, severity: Severity | None) -> None:
    found = health.judge_connections("The agent", used, 100, LIMITS)
    assert [each.severity for each in found] == ([severity] if severity else [])
    assert health.judge_connections("The agent", used, None, LIMITS) == []


@pytest.mark.parametrize(
    ("seconds", "severity"),
    [(59.9, None), (60, Severity.INFO), (300, Severity.WARNING), (3600, Severity.CRITICAL)],
)
def test_a_transaction_weighs_with_its_time(seconds: float, severity: Severity | None) -> None:
    found = health.judge_transactions([health.Transaction(7, "active", seconds, "SELECT 1")], LIMITS)
    assert [each.severity for each in found] == ([severity] if severity else [])


@pytest.mark.parametrize(
    ("hit", "read", "severity"),
    [
        (0, 0, None),
        (0, 9_999, None),
        (9_500, 500, None),
        (9_499, 501, Severity.INFO),
        (8_000, 2_000, Severity.INFO),
        (7_999, 2_001, Severity.WARNING),
    ],
)
def test_a_hit_rate_is_judged_once_enough_blocks_were_asked_for(hit: int, read: int, severity: Severity | None) -> None:
    found = health.judge_buffers("tables", hit, read, LIMITS)
    assert [each.severity for each in found] == ([severity] if severity else [])


def test_replication_is_told_of_where_something_stays_behind() -> None:
    slots = [health.Slot("kept", False, 10**9), health.Slot("read", True, 10**10), health.Slot("new", False, 10)]
    standbys = [health.Standby("late", "streaming", 60), health.Standby("near", "streaming", 1)]
    found = health.judge_replication([*slots], [*standbys, health.Standby("unknown", "startup")], LIMITS)
    assert checks(found) == [("replication_slot", "kept"), ("replication_lag", "late")]


@pytest.mark.parametrize(
    ("month", "budget", "severity"),
    [
        (24.9, 100, None),
        (25, 100, Severity.WARNING),
        (75, 100, Severity.CRITICAL),
        (None, 100, None),
        (25, None, None),
        (25, 0, None),
    ],
)
def test_storage_is_told_of_where_it_takes_much_of_the_budget(
    month: float | None, budget: float | None, severity: Severity | None
) -> None:
    found = health.judge_growth(10**9, month, budget, LIMITS)
    assert [each.severity for each in found] == ([severity] if severity else [])


# --- where there are no statistics of statements --------------------------------------------------------------------

THERE = {"schema": "public", "version": "1.12", "loaded": True, "available": True, "usable": True}


@pytest.mark.parametrize(
    ("differs", "allowed", "hint"),
    [
        ({"loaded": False}, True, "shared_preload_libraries"),
        ({"available": False, "schema": None}, True, "shared_preload_libraries"),
        ({"schema": None}, False, "or the database's owner runs: CREATE EXTENSION pg_stat_statements;"),
        ({"schema": None}, True, "Run it with execute_sql: CREATE EXTENSION pg_stat_statements;"),
        ({"version": "1.7"}, False, "ALTER EXTENSION pg_stat_statements UPDATE;"),
        ({"schema": 'a"b', "usable": False}, False, 'GRANT USAGE ON SCHEMA "a""b"'),
    ],
)
def test_a_hint_says_what_is_to_be_run_and_by_whom(differs: dict[str, object], allowed: bool, hint: str) -> None:
    policy = load_policy(default_path())
    extensions = policy.extensions.model_copy(update={"allow": {"pg_stat_statements"} if allowed else set()})
    policy = policy.model_copy(update={"extensions": extensions})
    with pytest.raises(NotAllowed) as missing:
        Health(NO_QUERIES, policy)._statements_schema(**(THERE | differs))
    assert hint in (missing.value.hint or "")
    assert Health(NO_QUERIES, policy)._statements_schema(**THERE) == "public"


# --- findings -------------------------------------------------------------------------------------------------------


def test_the_worst_come_first() -> None:
    given = [Finding(severity, "c", name, "") for severity, name in product(Severity, "ba")]
    shown = [(each.severity, each.object) for each in health.sorted_findings(given)]
    assert shown == [(severity, name) for severity in reversed(Severity) for name in "ab"]


@pytest.mark.parametrize(
    ("size", "text"),
    [(0, "0 B"), (999, "999 B"), (1_000, "1.0 kB"), (12_345_678, "12.3 MB"), (5 * 10**15, "5000.0 TB")],
)
def test_bytes_are_told_in_units(size: int, text: str) -> None:
    assert bytes_text(size) == text


def everything(name: str, mine: bool) -> list[Finding]:
    """One finding at least of each kind that has SQL."""
    fields = {"table": name, "mine": mine}
    twice = [index(f"{name}_{suffix}", "1", **fields) for suffix in "ab"]
    constraint = [
        index(name, "1", unique=True, primary=True, constraint="p", **fields),
        index(f"{name}_c", "1", unique=True, constraint='"C"', **fields),
    ]
    unused = index(name, "1", size_bytes=10**7, table_scans=100, **fields)
    airy = index(name, "1", size_bytes=10**8, entries=1, entry_bytes=8, scans=1, **fields)
    invalid = [index(name, "1", valid=False, unique=unique, **fields) for unique in (True, False)]
    found = [
        each
        for made in (twice, constraint, [unused], [airy], invalid)
        for each in health.judge_indexes(made, [], LIMITS)
    ]
    found += health.judge_foreign_keys([ForeignKey("k", name, "1", '"A", b', "u", 5, mine)], [], LIMITS)
    tables = [Table(name, dead=10**6, autovacuum=False, modified=10**6, mine=mine)]
    found += health.judge_tables(tables, LIMITS)
    last = 2**31 - 1
    owned = [
        sequence(last, table=name, column='"A"', column_type="integer"),
        sequence(-last, increment="-1", lowest=str(-last)),
    ]
    found += health.judge_sequences([replace(each, name=name, mine=mine) for each in owned], LIMITS)
    unchecked = [Unchecked('"K"', name, of_domain, "CHECK (…) NOT VALID", mine) for of_domain in (True, False)]
    return found + health.judge_constraints(unchecked)


@pytest.mark.parametrize("name", ["public.plain", ODD, 'public."DROP DATABASE x"', 'public."concurrently"'])
def test_the_gate_lets_the_agent_run_every_statement_that_mends(name: str) -> None:
    policy = load_policy(default_path())
    findings = everything(name, mine=True)
    assert len({each.check for each in findings}) == 9
    for finding in findings:
        assert finding.sql, finding
        for sql in finding.sql:
            decision = gate.decide(
                gate.classify(sql, gate.TextLimits()),
                policy=policy,
                mode=AccessMode.UNRESTRICTED,
                budget=BudgetState.OK,
            )
            assert decision.allowed, (sql, decision.message)


def test_what_is_somebody_elses_has_no_sql() -> None:
    for finding in everything("public.theirs", mine=False):
        assert finding.sql == ()
        assert finding.why.endswith("Only its owner may mend it.")
