"""The audit log without a database: what is hashed, what is noted of which call, and what is kept of many."""

from __future__ import annotations

import hashlib
import inspect
import json
from contextlib import AbstractAsyncContextManager, nullcontext
from dataclasses import fields, replace
from datetime import UTC, datetime, timedelta
from typing import Any

import anyio
import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentdb_mcp.errors import AgentDBError, BudgetExceeded, DatabaseUnavailable, RateLimited, SqlError
from agentdb_mcp.execution import Pools, PoolSettings, Statement
from agentdb_mcp.gate import TextLimits, classify
from agentdb_mcp.models import Kind, Result, Scope, Secret, StatementFacts, Tenant
from agentdb_mcp.policy import load_policy
from agentdb_mcp.services import Audit, Databases, Queries, recording
from agentdb_mcp.services.audit import MAX_WAITING, MAX_WAITING_OF_USER
from agentdb_mcp.services.origin import Origin, acting_as, using_tool
from agentdb_mcp.services.recording import MAX_OBJECTS, Recorder
from agentdb_mcp.store import AuditDecision, AuditEntry, AuditStore, ControlDatabase

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
NOW = datetime(2026, 11, 23, 12, tzinfo=UTC)
TENANT = Tenant("ada", "notes")

# Signs that a sloppy form would take for its own.
words = st.text(st.sampled_from('",[]\\|:{}n \x1f€'), max_size=4)
maybe = st.none() | words
names = st.lists(words, max_size=3).map(tuple)
entries = st.builds(
    AuditEntry,
    user_id=words,
    at=st.datetimes(min_value=datetime(2000, 1, 1), timezones=st.just(UTC)),  # noqa: DTZ001  (hypothesis adds it)
    source=words,
    decision=st.sampled_from(AuditDecision),
    principal=maybe,
    tool=maybe,
    workspace_id=maybe,
    scope=maybe,
    database_id=maybe,
    kinds=names,
    objects=names,
    code=maybe,
    sqlstate=maybe,
    duration_ms=st.floats(0, 1e9).map(lambda ms: round(ms, 3)),
    rows=st.none() | st.integers(0, 2**62),
    statement_hash=st.none() | st.binary(max_size=4),
    request_id=st.none() | st.text(max_size=4),
    sequence=st.integers(1, 2**62),
    previous_hash=st.binary(min_size=32, max_size=32),
)


def canonical(entry: AuditEntry) -> bytes:
    return entry.canonical(entry.sequence, entry.previous_hash)


def read_back(canonical: bytes) -> AuditEntry:
    """The entry that was hashed: where there is a way back, no two entries have the same form."""
    form, previous, user, sequence, at_us, *rest = json.loads(canonical)
    with_request = {"agentdb-audit-1": False, "agentdb-audit-2": True}[form]
    request_id = rest.pop() if with_request else None
    assert not with_request or request_id is not None
    source, principal, tool, workspace, scope, database, kinds, objects, decision, code, sqlstate, ms, rows, text = rest
    return AuditEntry(
        user, EPOCH + timedelta(microseconds=at_us), source, AuditDecision(decision), principal, tool, workspace, scope,
        database, tuple(kinds), tuple(objects), code, sqlstate, ms, rows,
        None if text is None else bytes.fromhex(text), request_id, sequence, bytes.fromhex(previous),
    )  # fmt: skip


@given(entries)
def test_what_is_hashed_says_everything_of_an_entry(entry: AuditEntry) -> None:
    assert read_back(canonical(entry)) == entry
    assert entry.computed_hash() == hashlib.sha256(canonical(entry)).digest()


@given(entries, entries)
def test_entries_that_differ_have_different_hashes(one: AuditEntry, other: AuditEntry) -> None:
    for field in fields(AuditEntry):
        mixed = replace(one, **{field.name: getattr(other, field.name)})
        assert (canonical(mixed) == canonical(one)) == (mixed == one)


# --- what is noted of a call ----------------------------------------------------------------------------------------


def new_audit() -> Audit:
    """With a control database that is never there."""
    return Audit(AuditStore(ControlDatabase(Secret("postgresql://u:p@127.0.0.1:1/x"))), lambda: NOW, 3600, 90)


@pytest.fixture
def audit() -> Audit:
    return new_audit()


def noted(audit: Audit) -> list[AuditEntry]:
    return list(audit._waiting)


async def call(audit: Audit, error: BaseException | None, key: bytes = b"") -> AuditEntry:
    """One call that ends so."""
    ending = nullcontext() if error is None else pytest.raises(type(error))
    with ending, Recorder(audit, key).call(TENANT, Scope.AGENT, [Statement("SELECT 1")]):
        recording.found(StatementFacts(frozenset({Kind.WRITE, Kind.READ}), certain=True, objects=("b", "a", "b")))
        recording.reached("d1")
        recording.gave([Result((), [[1]], False, "SELECT 1", 0.0), Result((), [], False, "INSERT 0 12", 0.0)])
        if error is not None:
            raise error
    return noted(audit)[-1]


async def test_an_entry_says_who_where_what_and_how_it_ended(audit: Audit) -> None:
    with acting_as(Origin("rest", "token-1", "query")):
        entry = await call(audit, None)
    assert replace(entry, duration_ms=0.0) == AuditEntry(
        "ada", NOW, "rest", AuditDecision.ALLOWED, "token-1", "query", "notes", "agent", "d1", ("read", "write"),
        ("b", "a"), None, None, 0.0, 13, hashlib.sha256(b"SELECT 1").digest(),
    )  # fmt: skip
    assert entry.duration_ms > 0


async def test_without_a_word_on_its_origin_a_call_is_an_agents_over_stdio(audit: Audit) -> None:
    with using_tool("execute_sql"):
        entry = await call(audit, None)
    assert (entry.source, entry.principal, entry.tool) == ("mcp", "stdio", "execute_sql")
    assert (await call(audit, None)).tool is None


@pytest.mark.parametrize(
    ("error", "decision", "code", "sqlstate"),
    [
        (BudgetExceeded("No."), "refused", "budget_exceeded", None),
        (RateLimited("No."), "refused", "rate_limited", None),
        (SqlError("No.", sqlstate="42P01"), "failed", "sql_error", "42P01"),
        (DatabaseUnavailable("No."), "failed", "database_unavailable", None),
        (ZeroDivisionError(), "failed", "internal", None),
        (KeyboardInterrupt(), "failed", "cancelled", None),
    ],
)
async def test_each_end_has_its_decision(
    audit: Audit, error: BaseException, decision: str, code: str, sqlstate: str | None
) -> None:
    entry = await call(audit, error)
    assert (entry.decision, entry.code, entry.sqlstate, entry.rows) == (decision, code, sqlstate, None)


async def test_a_call_whose_client_went_away_is_noted(audit: Audit) -> None:
    with anyio.CancelScope() as scope, Recorder(audit).call(TENANT, Scope.AGENT, []):
        scope.cancel()
        await anyio.sleep(3600)
    assert [entry.code for entry in noted(audit)] == ["cancelled"]


async def test_with_a_key_the_same_text_is_known_again_and_cannot_be_guessed(audit: Audit) -> None:
    one, again, other = [(await call(audit, None, key)).statement_hash for key in (b"k", b"k", b"l")]
    assert one == again
    assert len({one, other, hashlib.sha256(b"SELECT 1").digest()}) == 3


async def test_how_statements_are_parted_changes_the_hash(audit: Audit) -> None:
    for texts in (["ab", "c"], ["a", "bc"], ["abc"], ["\ud800"]):
        with Recorder(audit).call(TENANT, Scope.AGENT, [Statement(text) for text in texts]):
            pass
    assert len({entry.statement_hash for entry in noted(audit)}) == 4


async def test_names_are_bounded_and_such_as_postgres_can_store(audit: Audit) -> None:
    names = ("a\0b", "\ud800", "x" * 10_000, *(f"t{number}" for number in range(99)))
    facts = StatementFacts(frozenset(), certain=True, objects=names)
    with Recorder(audit).call(Tenant("a\0", None), Scope.AGENT, []):
        for _ in range(3):
            recording.found(facts)
    [entry] = noted(audit)
    assert len(entry.objects) <= MAX_OBJECTS
    assert max(map(len, entry.objects)) == 191
    assert "\0" not in "".join((entry.user_id, *entry.objects))
    canonical(entry)
    "".join(entry.objects).encode()


@pytest.mark.parametrize(
    "sql",
    [
        "SELECT * FROM lower('a-private-literal')",
        "SELECT * FROM upper('a-private-literal') WITH ORDINALITY AS t",
        "SELECT * FROM ROWS FROM (lower('a-private-literal'))",
        "SELECT * FROM cast('a-private-literal' AS text)",
        "SELECT * FROM xmltable('/a-private-literal' PASSING '<a/>' COLUMNS a int)",
        "SELECT * FROM regexp_split_to_table('a-private-literal', ',')",
        "SELECT * FROM unnest(ARRAY['a-private-literal'])",
        "SELECT * FROM (VALUES ('a-private-literal')) AS t",
        "INSERT INTO t VALUES ('a-private-literal')",
        "UPDATE t SET x = 'a-private-literal' WHERE y = $$a-private-literal$$",
        "COMMENT ON TABLE t IS 'a-private-literal'",
        "CREATE TABLE t (x text DEFAULT 'a-private-literal')",
        "CREATE TYPE t AS ENUM ('a-private-literal')",
        "CREATE FUNCTION f() RETURNS text LANGUAGE sql AS 'a-private-literal'",
        "CREATE USER u PASSWORD 'a-private-literal'",
        "EXECUTE t ('a-private-literal')",
        "DO 'a-private-literal'",
        "COPY t FROM 'a-private-literal'",
        "EXPLAIN SELECT * FROM t, lower('a-private-literal')",
    ],
)
def test_the_gate_takes_no_literal_for_a_name(sql: str) -> None:
    facts = classify(sql, TextLimits.of(load_policy(None).limits))
    assert "a-private-literal" not in repr((facts.objects, facts.functions))


GIVEN: dict[str, Any] = {
    "tenant": TENANT,
    "scope": Scope.AGENT,
    "statement": Statement("SELECT 1"),
    "statements": [Statement("SELECT 1")],
    "sink": lambda columns, rows: None,
    "find": lambda: ("key", None),
    "seconds": 1.0,
}
CALLS = [name for name, _ in inspect.getmembers(Queries, inspect.isfunction) if not name.startswith("_")]


async def test_every_way_into_queries_is_noted_also_when_it_is_throttled(audit: Audit) -> None:
    limits = load_policy(None).limits.model_copy(update={"calls_per_window": 1, "window_s": 3600})
    policy = load_policy(None).model_copy(update={"limits": limits})
    databases = Databases({}, None, None, lambda key: None)
    for name in CALLS:
        queries = Queries(policy, databases, Pools(PoolSettings()), None, Recorder(audit))
        method = getattr(queries, name)
        required = [each.name for each in inspect.signature(method).parameters.values() if each.default is each.empty]
        for _ in range(2):
            begun = method(**{name: GIVEN[name] for name in required})
            with pytest.raises(AgentDBError):
                await (begun.__aenter__() if isinstance(begun, AbstractAsyncContextManager) else begun)
    codes = [entry.code for entry in noted(audit)]
    assert codes == ["database_unavailable", "rate_limited"] * len(CALLS)
    assert {"execute", "stream", "catalog"} <= set(CALLS)


# --- what is kept of many -------------------------------------------------------------------------------------------


def an_entry(user: str) -> AuditEntry:
    return AuditEntry(user, NOW, "mcp", AuditDecision.ALLOWED)


def test_a_user_who_makes_many_entries_leaves_room_for_others(audit: Audit) -> None:
    for _ in range(MAX_WAITING):
        audit.note(an_entry("flood"))
    audit.note(an_entry("ada"))
    assert len(noted(audit)) == MAX_WAITING_OF_USER + 1
    assert noted(audit)[-1].user_id == "ada"
    assert {user: each.rows for user, each in audit._dropped.items()} == {"flood": MAX_WAITING - MAX_WAITING_OF_USER}


def test_all_together_are_bounded_too_and_what_is_dropped_is_said_at_the_end(audit: Audit) -> None:
    for number in range(MAX_WAITING + 5):
        audit.note(an_entry(f"u{number % 100}"))
    assert len(noted(audit)) == MAX_WAITING
    batches: list[list[AuditEntry]] = []
    while (batch := audit._next_batch()) is not None:
        assert audit._next_batch() is batch  # until it is stored
        batches.append(batch[1])
        audit._batch = None
    assert sum(map(len, batches)) == MAX_WAITING + 5
    assert [(each.user_id, each.code, each.rows) for each in batches[-1][-5:]] == [
        (f"u{number}", "entries_dropped", 1) for number in range(5)
    ]
    assert not audit._waiting_of


async def test_what_cannot_be_stored_is_kept_without_a_complaint_to_the_caller(audit: Audit) -> None:
    audit.note(an_entry("ada"))
    await audit.flush()
    await audit.flush()
    assert audit._batch is not None
    assert [entry.user_id for entry in audit._batch[1]] == ["ada"]
