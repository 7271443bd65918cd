"""The meter: a database's active time is the union of its uses, each with the suspend time-out behind it."""

from __future__ import annotations

from decimal import Decimal

from hypothesis import given
from hypothesis import strategies as st

from agentdb_mcp.costs import Meter

# A CU for an hour at this price: one micro-cent a microsecond, so that costs read as microseconds of active time.
ONE_A_MICROSECOND = Decimal("36")

Use = tuple[int, int]
uses_in_seconds = st.lists(st.tuples(st.integers(0, 200), st.integers(0, 60)), max_size=25).map(
    lambda pairs: [(start, start + length) for start, length in pairs]
)


def meter(suspend_timeout_s: int = 30) -> Meter:
    return Meter(Decimal(1), ONE_A_MICROSECOND, suspend_timeout_s)


def active_seconds(uses: list[Use], suspend_timeout_s: int) -> int:
    """Second by second: in how many of them the compute is awake."""
    return len({second for start, end in uses for second in range(start, end + suspend_timeout_s)})


def metered_seconds(uses: list[Use], suspend_timeout_s: int) -> float:
    counting = meter(suspend_timeout_s)
    for start, end in uses:
        counting.note("database", start, end)
    return counting.pending("database") / 1_000_000


@given(uses_in_seconds, st.integers(0, 40))
def test_uses_one_after_another_cost_the_union_of_their_active_times(uses: list[Use], timeout: int) -> None:
    in_turn: list[Use] = []
    for start, end in sorted(uses):
        begin = max(start, in_turn[-1][1]) if in_turn else start
        in_turn.append((begin, begin + end - start))
    assert metered_seconds(in_turn, timeout) == active_seconds(in_turn, timeout)


@given(uses_in_seconds, st.integers(0, 40))
def test_uses_at_the_same_time_noted_as_each_ends_cost_the_union_of_their_active_times(
    uses: list[Use], timeout: int
) -> None:
    as_they_end = sorted(uses, key=lambda use: use[1])
    assert metered_seconds(as_they_end, timeout) == active_seconds(as_they_end, timeout)


def test_a_long_use_that_began_before_a_short_one_is_counted_from_its_beginning() -> None:
    assert metered_seconds([(25, 26), (0, 30)], 10) == 40


def test_the_suspend_timeout_is_paid_once_where_uses_follow_each_other_closely() -> None:
    assert metered_seconds([(0, 1), (5, 6), (20, 21)], 30) == 51


def test_a_pause_longer_than_the_suspend_timeout_is_not_paid() -> None:
    assert metered_seconds([(0, 1), (1000, 1001)], 30) == 62


def test_databases_are_metered_apart() -> None:
    counting = meter()
    counting.note("one", 0, 10)
    counting.note("other", 5, 6)
    assert (counting.pending("one"), counting.pending("other"), counting.pending("third")) == (
        40_000_000,
        31_000_000,
        0,
    )


def test_what_is_settled_is_pending_no_more_and_its_time_is_not_counted_again() -> None:
    counting = meter()
    counting.note("one", 0, 10)
    assert counting.unsettled() == {"one": 40_000_000}
    counting.settle(counting.unsettled())
    assert counting.unsettled() == {}
    counting.note("one", 20, 25)
    assert counting.unsettled() == {"one": 15_000_000}


def test_what_cost_nothing_needs_no_settling() -> None:
    counting = meter(0)
    counting.note("one", 5, 5)
    assert counting.unsettled() == {}


def test_what_comes_while_costs_are_stored_stays_pending() -> None:
    counting = meter()
    counting.note("one", 0, 10)
    being_stored = counting.unsettled()
    counting.note("one", 40, 41)
    counting.note("other", 0, 1)
    assert counting.pending("one") == 71_000_000
    counting.settle(being_stored)
    assert counting.unsettled() == {"one": 31_000_000, "other": 31_000_000}


def test_costs_that_could_not_be_stored_are_offered_again() -> None:
    counting = meter()
    counting.note("one", 0, 10)
    assert counting.unsettled() == counting.unsettled() == {"one": 40_000_000}


@given(st.lists(st.tuples(st.sampled_from("ab"), st.booleans(), st.booleans()), max_size=30))
def test_settling_at_any_moment_loses_and_invents_nothing(steps: list[tuple[str, bool, bool]]) -> None:
    counting, undisturbed = meter(), meter()
    stored = {"a": 0, "b": 0}
    being_stored: dict[object, int] | None = None
    for at, (key, store, succeeds) in enumerate(steps):
        if store and being_stored is None:
            being_stored = counting.unsettled()
        for each in (counting, undisturbed):
            each.note(key, at * 10, at * 10 + 3)
        if being_stored is not None and succeeds:
            counting.settle(being_stored)
            for name, cost in being_stored.items():
                stored[str(name)] += cost
            being_stored = None
    for key in "ab":
        assert stored[key] + counting.pending(key) == undisturbed.pending(key)
