"""What is told of two states of a schema, and of locks and files between them."""

from __future__ import annotations

from agentdb_mcp.schema_changes import (
    Change,
    Held,
    Lock,
    Part,
    Relation,
    compare,
    locked,
    rewritten,
    taken_along,
)

TABLE = [
    Part("table", "public.t"),
    Part("column", "public.t.id", "integer NOT NULL"),
    Part("constraint", "public.t.t_pkey", "PRIMARY KEY (id)"),
    Part("index", "public.t_pkey", "CREATE UNIQUE INDEX t_pkey ON public.t USING btree (id)"),
]


def test_the_same_schema_has_no_changes() -> None:
    changes = compare(TABLE, reversed(TABLE))
    assert (changes.added, changes.removed, changes.changed) == ((), (), ())


def test_a_table_stands_for_what_comes_and_goes_with_it() -> None:
    assert compare([], TABLE).added == (Change("table", "public.t", None, ""),)
    assert compare(TABLE, []).removed == (Change("table", "public.t", "", None),)


def test_a_column_an_index_and_a_constraint_of_a_table_that_stays_are_named() -> None:
    more = [
        Part("column", "public.t.name", "text"),
        Part("index", "public.by_name", "CREATE INDEX by_name ON public.t USING btree (name)"),
        Part("constraint", "public.t.named", "CHECK (name <> '')"),
    ]
    assert {(change.kind, change.name) for change in compare(TABLE, TABLE + more).added} == {
        (part.kind, part.name) for part in more
    }
    assert len(compare(TABLE + more, TABLE).removed) == 3


def test_a_table_whose_name_begins_another_ones_takes_nothing_of_it_along() -> None:
    other = [Part("table", "public.tt"), Part("column", "public.tt.a", "text")]
    assert [change.name for change in compare([*TABLE, *other], other[:1]).removed] == ["public.tt.a", "public.t"]


def test_a_definition_that_differs_is_told_before_and_after() -> None:
    changed = [*TABLE[:1], Part("column", "public.t.id", "bigint NOT NULL"), *TABLE[2:]]
    assert compare(TABLE, changed).changed == (Change("column", "public.t.id", "integer NOT NULL", "bigint NOT NULL"),)


def test_what_goes_without_being_named_was_taken_along() -> None:
    removed = [
        Change("column", "public.t.name", "text"),
        Change("view", 'public."Names"', "SELECT"),
        Change("function", "f(integer)", ""),
    ]
    statements = ["ALTER TABLE t DROP COLUMN Name CASCADE"]
    assert [change.name for change in taken_along(removed, statements)] == ['public."Names"', "f(integer)"]
    assert taken_along(removed, [*statements, 'DROP VIEW "Names"', "drop function F(int)"]) == []


RELATIONS = {1: Relation("public.t", 100, 5000), 2: Relation("public.t_pkey", 101)}


def test_the_strongest_new_lock_of_what_was_there_before_is_told() -> None:
    after = Held(frozenset({(1, "ShareLock"), (1, "AccessExclusiveLock"), (9, "AccessExclusiveLock")}))
    assert locked(Held(), after, RELATIONS) == [Lock("public.t", "reads and writes", 5000)]
    assert locked(after, after, RELATIONS) == []
    assert locked(Held(), Held(frozenset({(1, "ShareLock")})), RELATIONS) == [Lock("public.t", "writes", 5000)]
    assert locked(Held(frozenset({(1, "AccessExclusiveLock")})), after, RELATIONS) == []


def test_another_file_is_a_rewrite_and_a_dropped_table_is_none() -> None:
    first = Held(files={1: 200, 2: 101})
    assert rewritten(Held(), first, RELATIONS) == ["public.t"]
    assert rewritten(first, Held(files={1: 200, 2: 101}), RELATIONS) == []
    assert rewritten(first, Held(files={1: 201, 2: 101}), RELATIONS) == ["public.t"]
    assert rewritten(first, Held(files={1: None}), RELATIONS) == []
    assert rewritten(Held(), Held(files={7: 7}), RELATIONS) == []
