"""Facts, access mode and budget state → what may run, how, and in which words it is refused."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentdb_mcp.gate import TextLimits, classify, decide, decide_transaction
from agentdb_mcp.models import AccessMode, BudgetState, Decision, Kind, StatementFacts
from agentdb_mcp.policy import Policy, StateRules, UnknownRule, load_policy

POLICY = load_policy(None)
LIMITS = TextLimits.of(POLICY.limits)
OPEN, RESTRICTED = AccessMode.UNRESTRICTED, AccessMode.RESTRICTED
OK, WARNING, EXCEEDED, PAUSED = BudgetState.OK, BudgetState.WARNING, BudgetState.EXCEEDED, BudgetState.PAUSED

RO, RW, NO, UNPAID = "read-only", "read-write", "statement_refused", "budget_exceeded"

# statement, and what happens to it: ok, exceeded, paused, restricted access
TABLE: list[tuple[str, str, str, str, str]] = [
    ("select * from t", RO, RO, UNPAID, RO),
    ("show all", RO, RO, UNPAID, RO),
    ("explain delete from t", RO, RO, UNPAID, RO),
    ("select my_function()", RW, RO, UNPAID, RO),
    ("do $$begin end$$", RW, RO, UNPAID, RO),
    ("call p()", RW, RO, UNPAID, RO),
    ("select 1 /* /* */ */", RW, RO, UNPAID, RO),
    ("nonsense", RW, RO, UNPAID, RO),
    ("insert into t values (1)", RW, UNPAID, UNPAID, NO),
    ("delete from t", RW, UNPAID, UNPAID, NO),
    ("truncate t", RW, UNPAID, UNPAID, NO),
    ("lock table t", RW, UNPAID, UNPAID, NO),
    ("with x as (delete from t returning 1) select 1 from x", RW, UNPAID, UNPAID, NO),
    ("select * from t for update", RW, UNPAID, UNPAID, NO),
    ("select nextval('sq')", RW, UNPAID, UNPAID, NO),
    ("select pg_notify('c', 'x')", RW, UNPAID, UNPAID, NO),
    ("explain analyze delete from t", RW, UNPAID, UNPAID, NO),
    ("create table t2 (i int)", RW, UNPAID, UNPAID, NO),
    ("select * into t2 from t", RW, UNPAID, UNPAID, NO),
    ("explain analyze create table t2 as select 1", RW, UNPAID, UNPAID, NO),
    ("create function f() returns int language plpgsql as 'begin return 1; end'", RW, UNPAID, UNPAID, NO),
    ("alter table t add c int", RW, UNPAID, UNPAID, NO),
    ("analyze t", RW, UNPAID, UNPAID, NO),
    ("reindex table t", RW, UNPAID, UNPAID, NO),
    ("cluster t", RW, UNPAID, UNPAID, NO),
    ("drop table t", RW, RW, UNPAID, NO),
    ("drop index i", RW, RW, UNPAID, NO),
    ("drop schema app cascade", RW, RW, UNPAID, NO),
    ("drop policy p on t", RW, UNPAID, UNPAID, NO),
    ("drop table t /* /* */ */", RW, UNPAID, UNPAID, NO),
    ("set search_path = app", NO, NO, NO, NO),
    ("select set_config('a.b', 'c', false)", NO, NO, NO, NO),
    ("prepare p as select 1", NO, NO, NO, NO),
    ("notify c", NO, NO, NO, NO),
    ("begin", NO, NO, NO, NO),
    ("prepare transaction 'p'", NO, NO, NO, NO),
    ("grant select on t to public", NO, NO, NO, NO),
    ("alter role current_user password 'x'", NO, NO, NO, NO),
    ("set role none", NO, NO, NO, NO),
    ("copy t from stdin", NO, NO, NO, NO),
    ("vacuum t", NO, NO, NO, NO),
    ("create index concurrently i on t (v)", NO, NO, NO, NO),
    ("create database d", NO, NO, NO, NO),
    ("select pg_read_file('x')", NO, NO, NO, NO),
]
IN_TRANSACTION: list[tuple[str, str, str, str, str]] = [
    ("set local search_path = app", RW, UNPAID, UNPAID, RO),
    ("declare c cursor for select 1", RW, UNPAID, UNPAID, RO),
    ("notify c", RW, UNPAID, UNPAID, NO),
    ("commit", NO, NO, NO, NO),
    ("set transaction read write", NO, NO, NO, NO),
    ("declare c cursor with hold for select 1", NO, NO, NO, NO),
    ("select * from t", RO, RO, UNPAID, RO),
]
COLUMNS = ((OK, OPEN), (EXCEEDED, OPEN), (PAUSED, OPEN), (OK, RESTRICTED))


def facts_of(sql: str) -> StatementFacts:
    return classify(sql, LIMITS)


def decided(
    sql: str,
    budget: BudgetState = OK,
    mode: AccessMode = OPEN,
    *,
    policy: Policy = POLICY,
    in_transaction: bool = False,
) -> Decision:
    return decide(facts_of(sql), policy=policy, mode=mode, budget=budget, in_transaction=in_transaction)


def outcome(decision: Decision) -> str | None:
    if decision.allowed:
        return RO if decision.read_only else RW
    return decision.code


def with_rules(state: str, rules: StateRules) -> Policy:
    statements = POLICY.statements.model_copy(update={state: rules})
    return POLICY.model_copy(update={"statements": statements})


@pytest.mark.parametrize("row", TABLE, ids=[row[0] for row in TABLE])
def test_what_happens_to_a_statement_on_its_own(row: tuple[str, ...]) -> None:
    sql, *expected = row
    assert [outcome(decided(sql, budget, mode)) for budget, mode in COLUMNS] == expected


@pytest.mark.parametrize("row", TABLE, ids=[row[0] for row in TABLE])
def test_a_warning_changes_nothing(row: tuple[str, ...]) -> None:
    assert decided(row[0], WARNING) == decided(row[0], OK)


@pytest.mark.parametrize("row", IN_TRANSACTION, ids=[row[0] for row in IN_TRANSACTION])
def test_what_happens_to_a_statement_of_a_transaction(row: tuple[str, ...]) -> None:
    sql, *expected = row
    got = [outcome(decided(sql, budget, mode, in_transaction=True)) for budget, mode in COLUMNS]
    assert got == expected


@pytest.mark.parametrize(
    ("sql", "message", "hint"),
    [
        ("begin", "controls the transaction (BEGIN)", "execute_transaction"),
        ("set timezone = 'UTC'", "changes only its own session (SET)", "SET LOCAL"),
        ("select set_config('a.b', 'c', false)", "the function set_config", "SET LOCAL"),
        ("listen c", "LISTEN", "poll a table"),
        ("copy t from stdin", "(COPY)", "INSERT"),
        ("vacuum t", "VACUUM cannot run inside a transaction", "autovacuum"),
        ("create index concurrently i on t (v)", "CREATE INDEX CONCURRENTLY", "Leave out CONCURRENTLY"),
        ("create role x", "roles or privileges (CREATE ROLE)", "no role or grant is needed"),
        ("create event trigger e on x execute function f()", "(CREATE EVENT TRIGGER)", "tables"),
        ("declare c cursor with hold for select 1", "WITH HOLD", "without HOLD"),
    ],
)
def test_a_refusal_says_what_was_seen_and_what_to_do(sql: str, message: str, hint: str) -> None:
    decision = decided(sql)
    assert message in (decision.message or "")
    assert hint in (decision.hint or "")


def test_over_budget_it_says_what_still_works() -> None:
    decision = decided("delete from t", EXCEEDED)
    assert decision.message == ("The budget of this period is used up, and the statement writes data (DELETE).")
    assert "Reads still work" in (decision.hint or "")
    assert "DROP" in (decision.hint or "")


def test_when_paused_it_promises_nothing() -> None:
    hint = decided("select 1", PAUSED).hint or ""
    assert "still" not in hint
    assert "get_budget" in hint


def test_read_only_access_is_named() -> None:
    decision = decided("delete from t", mode=RESTRICTED)
    assert decision.message == "The statement writes data (DELETE), which is not possible: access is read-only."


def test_every_refusal_has_a_code_a_sentence_and_a_hint() -> None:
    for sql, *_ in TABLE + IN_TRANSACTION:
        for budget, mode in COLUMNS:
            decision = decided(sql, budget, mode)
            words = (decision.message, decision.hint)
            assert decision.allowed or (decision.code and all(w and w.endswith(".") for w in words)), sql


def test_the_policy_s_own_mode_restricts_whatever_the_caller_says() -> None:
    policy = POLICY.model_copy(update={"access": POLICY.access.model_copy(update={"mode": RESTRICTED})})
    assert outcome(decided("delete from t", policy=policy)) == NO
    assert outcome(decided("select my_function()", policy=policy)) == RO


def test_a_policy_may_refuse_what_is_unknown() -> None:
    rules = StateRules(allow=frozenset({Kind.READ, Kind.WRITE}), unknown=UnknownRule.REFUSE)
    policy = with_rules("ok", rules)
    assert outcome(decided("do $$begin end$$", policy=policy)) == NO
    assert outcome(decided("select my_function()", policy=policy)) == NO
    assert outcome(decided("select 1", policy=policy)) == RO
    assert outcome(decided("drop table t", policy=policy)) == NO


def test_a_policy_may_let_writes_go_on_over_budget() -> None:
    rules = StateRules(allow=frozenset({Kind.READ, Kind.WRITE}), unknown=UnknownRule.READ_ONLY)
    policy = with_rules("exceeded", rules)
    assert outcome(decided("delete from t", EXCEEDED, policy=policy)) == RW
    assert outcome(decided("drop table t", EXCEEDED, policy=policy)) == UNPAID


@pytest.mark.parametrize(
    ("statements", "budget", "mode", "expected"),
    [
        (["select 1", "show all"], OK, OPEN, RO),
        (["select 1", "insert into t values (1)"], OK, OPEN, RW),
        (["set local search_path = app", "select * from t"], OK, OPEN, RW),
        (["set local search_path = app", "select * from t"], OK, RESTRICTED, RO),
        (["select my_function()", "delete from t"], OK, OPEN, RW),
        (["drop table a", "drop table b"], EXCEEDED, OPEN, RW),
        (["select 1", "select my_function()"], EXCEEDED, OPEN, RO),
        (["select * from v", "drop table t"], EXCEEDED, OPEN, UNPAID),
        (["do $$begin end$$", "drop table t"], EXCEEDED, OPEN, UNPAID),
        (["select 1", "commit"], OK, OPEN, NO),
        ([], OK, OPEN, RO),
    ],
)
def test_a_transaction_has_one_mode_for_all_its_statements(
    statements: list[str], budget: BudgetState, mode: AccessMode, expected: str
) -> None:
    facts = [facts_of(sql) for sql in statements]
    assert outcome(decide_transaction(facts, policy=POLICY, mode=mode, budget=budget)) == expected


def test_a_transaction_says_which_statement_was_refused() -> None:
    facts = [facts_of("select 1"), facts_of("vacuum t")]
    decision = decide_transaction(facts, policy=POLICY, mode=OPEN, budget=OK)
    assert (decision.message or "").startswith("Statement 2: The statement is a server command (VACUUM")


def test_a_transaction_holds_no_more_statements_than_the_policy_allows() -> None:
    facts = [facts_of("select 1")] * (POLICY.limits.max_statements + 1)
    decision = decide_transaction(facts, policy=POLICY, mode=OPEN, budget=OK)
    assert outcome(decision) == NO
    assert "holds 51 statements; at most 50" in (decision.message or "")


SOME_FACTS = st.builds(StatementFacts, kinds=st.frozensets(st.sampled_from(Kind), min_size=1), certain=st.booleans())


@given(SOME_FACTS, st.sampled_from(BudgetState), st.sampled_from(AccessMode), st.booleans())
def test_nothing_but_reclaiming_runs_read_write_when_restricted_or_over_budget(
    facts: StatementFacts, budget: BudgetState, mode: AccessMode, in_transaction: bool
) -> None:
    decision = decide(facts, policy=POLICY, mode=mode, budget=budget, in_transaction=in_transaction)
    if not decision.allowed or decision.read_only:
        return
    assert mode is OPEN
    if budget in (EXCEEDED, PAUSED):
        assert budget is EXCEEDED
        assert Kind.RECLAIM in facts.kinds
        assert facts.kinds <= {Kind.READ, Kind.SCHEMA, Kind.RECLAIM}


@given(SOME_FACTS, st.sampled_from(BudgetState), st.sampled_from(AccessMode), st.booleans())
def test_transactions_roles_and_the_server_are_never_allowed(
    facts: StatementFacts, budget: BudgetState, mode: AccessMode, in_transaction: bool
) -> None:
    decision = decide(facts, policy=POLICY, mode=mode, budget=budget, in_transaction=in_transaction)
    assert not (decision.allowed and facts.kinds & {Kind.TRANSACTION, Kind.PRIVILEGE, Kind.SERVER})
