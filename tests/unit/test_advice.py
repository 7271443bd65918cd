"""Plans → candidates, their sizes, the greedy choice and words: rules without a database."""

from __future__ import annotations

from typing import Any

import pytest

from agentdb_mcp.advice import greedy
from agentdb_mcp.advice.candidates import candidates, needs
from agentdb_mcp.advice.expressions import MAX_CHARACTERS, Role, Use, sort_key, uses
from agentdb_mcp.advice.greedy import Trial
from agentdb_mcp.advice.hints import hints
from agentdb_mcp.advice.indexes import Column, Existing, Index, Key, Table, covered, estimated_bytes, is_prefix
from agentdb_mcp.advice.plans import Plan


def brief(condition: str) -> list[str]:
    return [f"{use.alias}.{use.column} {use.role}" for use in uses(condition)]


@pytest.mark.parametrize(
    ("condition", "found"),
    [
        ("(t.a = 5)", ["t.a equal"]),
        ("((t.a = 5) AND (t.b > 3))", ["t.a equal", "t.b range"]),
        ("((t.a >= 1) AND (t.a < 3) AND (t.b = $1))", ["t.a range", "t.a range", "t.b equal"]),
        ("((t.status)::text = 'x'::text)", ["t.status equal"]),
        ("(t.a = ANY ('{1,2}'::integer[]))", ["t.a equal"]),
        ("(t.x IS NULL)", ["t.x equal"]),
        ("t.flag", ["t.flag equal"]),
        ("(NOT t.flag)", ["t.flag equal"]),
        ("((t.a = 1) OR (t.b = 2))", ["t.a any", "t.b any"]),
        ("((t.s)::text ~~ 'abc%'::text)", ["t.s range"]),
        ("((t.s)::text ~~ '%abc'::text)", []),
        ("(t.a <> 3)", []),
        ("(lower(t.s) = 'x'::text)", []),
        ("((t.a + 1) = 3)", []),
        ("(t.a = t.b)", []),
        ("(t.d >= (('now'::text)::date - '7 days'::interval))", ["t.d range"]),
        ("(t.a = (InitPlan 1).col1)", ["t.a equal"]),
        ("(t.a = $0)", ["t.a equal"]),
        ("((t.b > 1) AND (NOT (hashed SubPlan 1)))", ["t.b range"]),
        ("((t.b > 1) AND (ANY (t.a = (hashed SubPlan 2).col1)))", ["t.b range"]),
        ('("T"."Weird Name" = \'x\'::text)', ["T.Weird Name equal"]),
        ("(t.a = 'OR t.b = 1'::text)", ["t.a equal"]),
        ("this is (no expression", []),
        ("", []),
    ],
)
def test_conditions_tell_which_columns_an_index_could_look_for(condition: str, found: list[str]) -> None:
    assert brief(condition) == found


def test_a_join_names_the_table_on_its_other_side() -> None:
    assert uses("(o.customer = c.id)") == [
        Use("o", "customer", Role.EQUAL, frozenset({"c"})),
        Use("c", "id", Role.EQUAL, frozenset({"o"})),
    ]


@pytest.mark.parametrize(
    "condition",
    [
        "(" * 200 + "t.a" + ")" * 200,
        f"(t.a = ANY ('{{{','.join(map(str, range(5000)))}}}'::integer[]))",
        "(" + " OR ".join(f"(t.a = {n})" for n in range(5000)) + ")",
        "(t.a = 1) " * 300,
        "((" * 9 + "t.a[" * 40,
    ],
    ids=["brackets", "a long list", "many alternatives", "nonsense", "subscripts"],
)
def test_what_takes_a_parser_long_is_left_out(condition: str) -> None:
    assert uses(condition) == []
    assert uses("x" * (MAX_CHARACTERS + 1)) == []


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("t.a", ("t", "a", "")),
        ("t.a DESC", ("t", "a", " DESC")),
        ("t.a DESC NULLS LAST", ("t", "a", " DESC NULLS LAST")),
        ("t.a NULLS FIRST", ("t", "a", " NULLS FIRST")),
        ("(lower(t.a)) DESC", None),
        ("(count(*)) DESC", None),
        ('t.a COLLATE "C"', None),
        ("a", None),
    ],
)
def test_sort_keys_are_columns_with_a_direction_or_nothing(text: str, found: tuple[str, str, str] | None) -> None:
    assert sort_key(text) == found


def scan(alias: str, table: str, kind: str = "Seq Scan", **more: Any) -> dict[str, Any]:
    return {"Node Type": kind, "Schema": "public", "Relation Name": table, "Alias": alias, **more}


def plan(node: dict[str, Any]) -> Plan:
    return Plan.of([{"Plan": node}])


def table(name: str, *columns: str, indexes: tuple[Existing, ...] = (), rows: float = 10_000, **more: Any) -> Table:
    known = {column: Column(column, 4, 100.0) for column in columns}
    return Table("public", name, more.pop("kind", "r"), 1_000_000, rows, known, indexes, **more)


def keys(found: list[Index]) -> list[str]:
    return [f"{index.table}({','.join(key.name + key.suffix for key in index.keys)})" for index in found]


def test_equality_comes_first_then_a_range_then_the_order() -> None:
    asked = plan(
        {
            "Node Type": "Sort",
            "Sort Key": ["t.d DESC"],
            "Plans": [scan("t", "things", Filter="((t.r > 1) AND (t.e = 5))")],
        }
    )
    found = keys(candidates(needs(asked), {("public", "things"): table("things", "e", "r", "d")}))
    assert found[:3] == ["things(e)", "things(e,r)", "things(e,d)"]
    assert "things(r,e)" not in found


def test_columns_that_more_statements_look_for_come_first() -> None:
    both = plan(scan("t", "things", Filter="((t.a = 1) AND (t.b = 2))"))
    one = plan(scan("t", "things", Filter="(t.b = 2)"))
    found = keys(candidates([*needs(both), *needs(one)], {("public", "things"): table("things", "a", "b")}))
    assert found[0] == "things(b,a)"


def test_no_candidate_has_more_than_three_columns_or_one_twice() -> None:
    condition = "(" + " AND ".join(f"(t.c{n} = 1)" for n in range(8)) + " AND (t.c0 > 3))"
    tables = {("public", "things"): table("things", *(f"c{n}" for n in range(8)))}
    found = candidates(needs(plan(scan("t", "things", Filter=condition))), tables)
    assert 10 < len(found) < 40
    assert len(set(found)) == len(found)
    for index in found:
        names = [key.name for key in index.keys]
        assert len(names) <= 3
        assert len(set(names)) == len(names)


@pytest.mark.parametrize("more", [{"kind": "f"}, {"kind": "p"}, {"partition": True}], ids=str)
def test_only_plain_tables_get_candidates(more: dict[str, Any]) -> None:
    tables = {("public", "things"): table("things", "a", **more)}
    assert candidates(needs(plan(scan("t", "things", Filter="(t.a = 1)"))), tables) == []


def test_both_sides_of_a_join_and_groups_are_candidates() -> None:
    asked = plan(
        {
            "Node Type": "Aggregate",
            "Group Key": ["c.name"],
            "Plans": [
                {"Node Type": "Hash Join", "Hash Cond": "(o.cust = c.id)", "Plans": [scan("o", "o"), scan("c", "c")]}
            ],
        }
    )
    tables = {("public", "o"): table("o", "cust"), ("public", "c"): table("c", "id", "name")}
    assert {"o(cust)", "c(id)", "c(name)", "c(id,name)"} <= set(keys(candidates(needs(asked), tables)))


def index(*names: str, **more: Any) -> Index:
    return Index("public", "things", tuple(Key(*name.split("|")) for name in names), **more)


def existing(*names: str | None, **more: Any) -> Existing:
    return Existing(tuple(None if name is None else Key(*name.split("|")) for name in names), **more)


@pytest.mark.parametrize(
    ("wanted", "there", "is_covered"),
    [
        (index("a"), existing("a"), True),
        (index("a"), existing("a", "b"), True),
        (index("a", "b"), existing("a"), False),
        (index("b"), existing("a", "b"), False),
        (index("a"), existing("a| DESC"), True),
        (index("a", "b"), existing("a| DESC", "b"), False),
        (index("a", "b| DESC"), existing("a| DESC", "b"), True),
        (index("a", "b| DESC"), existing("a| DESC NULLS LAST", "b"), False),
        (index("a"), existing(None, "a"), False),
        (index("a"), existing("a", using="hash"), False),
        (index("a", using="hash"), existing("a", using="hash"), True),
        (index("a", "b"), existing("a", unique=True), True),
        (index("a", "b"), existing("b", unique=True), False),
    ],
)
def test_what_is_there_covers_its_own_beginning(wanted: Index, there: Existing, is_covered: bool) -> None:
    assert covered(wanted, [there]) is is_covered


def test_a_longer_index_makes_its_beginning_superfluous() -> None:
    assert is_prefix(index("a"), index("a", "b"))
    assert not is_prefix(index("b"), index("a", "b"))
    assert not is_prefix(index("a"), index("a"))


def test_every_name_in_sql_is_quoted() -> None:
    odd = Index('a"b', "t; DROP", (Key('x") --', " DESC"),), "hash")
    assert odd.sql("n") == 'CREATE INDEX "n" ON "a""b"."t; DROP" USING "hash" ("x"") --" DESC)'


def test_a_size_grows_with_rows_and_widths_and_is_near_that_of_postgres() -> None:
    known = table("things", "a", "b", rows=100_000)
    one = estimated_bytes(index("a"), known)
    assert 2_000_000 < one < 2_700_000  # Postgres: 2,260,992 with distinct values
    assert estimated_bytes(index("a", "b"), known) == one  # both fit into eight bytes
    assert estimated_bytes(index("a", "b", "c"), known) > one
    assert estimated_bytes(index("a"), table("things", "a", rows=-1)) > 0


A, B = index("a"), index("b")


def test_the_best_gains_most_in_the_space_that_is_left() -> None:
    now, weights = {1: 100.0, 2: 100.0}, {1: 1.0, 2: 1.0}
    small, large = Trial(A, {1: 50.0}, 10), Trial(B, {1: 5.0}, 1000)
    assert greedy.best([small, large], now, weights, 2000) is large
    assert greedy.best([small, large], now, weights, 500) is small
    assert greedy.best([small, large], now, weights, 5) is None
    assert greedy.best([], now, weights, 5) is None


def test_of_two_about_as_good_the_smaller_is_chosen() -> None:
    now, weights = {1: 100.0}, {1: 1.0}
    assert greedy.best([Trial(A, {1: 8.0}, 900), Trial(B, {1: 9.0}, 100)], now, weights, 10**9).index == B  # type: ignore[union-attr]


def test_calls_weigh() -> None:
    now, trials = {1: 100.0, 2: 100.0}, [Trial(A, {1: 10.0}, 1), Trial(B, {2: 40.0}, 1)]
    assert greedy.best(trials, now, {1: 1, 2: 1}, 9) is trials[0]
    assert greedy.best(trials, now, {1: 1, 2: 50}, 9) is trials[1]


def test_less_than_a_tenth_is_not_useful() -> None:
    assert greedy.best([Trial(A, {1: 91.0}, 1)], {1: 100.0}, {1: 1.0}, 9) is None
    assert greedy.best([Trial(A, {1: 90.0}, 1)], {1: 100.0}, {1: 1.0}, 9) is not None


def test_what_costs_next_to_nothing_gets_no_index() -> None:
    assert greedy.best([Trial(A, {1: 6.0}, 1)], {1: 15.0}, {1: 1000.0}, 9) is None


def test_a_plan_of_thousands_of_partitions_is_read_in_part() -> None:
    parts = [scan(f"t_{n}", "things", Filter="((t_0.a = 1) AND (t_0.b > 2))") for n in range(5_000)]
    asked = plan({"Node Type": "Append", "Plans": parts})
    assert len(needs(asked)) == 5_000
    assert len(hints(asked, THINGS)) <= 12


def test_an_index_that_nothing_would_miss_is_superfluous() -> None:
    assert greedy.superfluous({A: {1: 10.5}, B: {1: 100.0}}, {1: 10.0}) == A
    assert greedy.superfluous({A: {1: 20.0}, B: {1: 100.0}}, {1: 10.0}) is None


THINGS = {("public", "things"): table("things", "a")}


@pytest.mark.parametrize(
    ("node", "said"),
    [
        (
            scan("t", "things", Filter="(t.a = 1)", **{"Plan Rows": 10}),
            "Seq Scan on public.things reads every row: of about 10,000 it drops 99.9 % by (t.a = 1). An index on (a)",
        ),
        (
            scan("t", "things", Filter="(t.a = 1)", **{"Plan Rows": 1, "Actual Rows": 5, "Actual Loops": 1,
                                                       "Rows Removed by Filter": 9995}),
            "of 10,000 it drops 99.95 %",
        ),
        (
            scan("t", "things", **{"Plan Rows": 1, "Actual Rows": 500, "Actual Loops": 1}),
            "1 rows were expected and 500 came, 500 times more. Run ANALYZE public.things",
        ),
        (
            {"Node Type": "Sort", "Sort Key": ["t.a"], "Sort Space Type": "Disk", "Sort Space Used": 1234},
            "The sort by t.a spilled 1,234 kB to disk",
        ),
        ({"Node Type": "Hash", "Hash Batches": 8}, "did not fit into memory (8 batches)"),
        ({"Node Type": "Aggregate", "Disk Usage": 99}, "Grouping spilled 99 kB"),
        (
            {
                "Node Type": "Nested Loop",
                "Join Filter": "(t.a = u.b)",
                "Plans": [{"Node Type": "Seq Scan", "Plan Rows": 5000}, scan("t", "things")],
            },
            "goes through public.things 5,000 times",
        ),
    ],
)  # fmt: skip
def test_plans_tell_what_to_do(node: dict[str, Any], said: str) -> None:
    assert any(said in hint for hint in hints(plan(node), THINGS)), hints(plan(node), THINGS)


def test_a_plan_with_nothing_wrong_has_no_hints() -> None:
    assert hints(plan(scan("t", "things", "Index Scan", **{"Index Cond": "(t.a = 1)", "Plan Rows": 1})), THINGS) == []


@pytest.mark.parametrize("explained", [None, [], [{}], "Utility statements have no plan structure", [{"Plan": 1}], 5])
def test_what_is_no_plan_is_not_taken_for_one(explained: object) -> None:
    with pytest.raises(ValueError, match="not a plan"):
        Plan.of(explained)
