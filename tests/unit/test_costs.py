"""What a total means, and which statement a budget still pays for."""

from __future__ import annotations

from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentdb_mcp.costs import FOREVER_US, Lines, Position, Prices, Quantities, admit, cost_microcents
from agentdb_mcp.costs import state_of as state_of_position
from agentdb_mcp.models import BudgetState

THRESHOLDS = {"warning_percent": 80, "exceeded_percent": 100, "paused_percent": 110}


def state_of(used: int, limit: int, **percents: int) -> BudgetState:
    return state_of_position(Position(used), Lines.of(limit, **percents))


@pytest.mark.parametrize(
    ("used", "state"),
    [
        (0, BudgetState.OK),
        (79_999_999, BudgetState.OK),
        (80_000_000, BudgetState.WARNING),
        (99_999_999, BudgetState.WARNING),
        (100_000_000, BudgetState.EXCEEDED),
        (109_999_999, BudgetState.EXCEEDED),
        (110_000_000, BudgetState.PAUSED),
        (10**18, BudgetState.PAUSED),
    ],
)
def test_a_state_begins_exactly_at_its_share_of_the_limit(used: int, state: BudgetState) -> None:
    assert state_of(used, 100_000_000, **THRESHOLDS) is state


@pytest.mark.parametrize("used", [0, 1, 10**12])
def test_a_limit_of_nothing_pays_for_nothing(used: int) -> None:
    assert state_of(used, 0, **THRESHOLDS) is BudgetState.PAUSED


def test_thresholds_that_coincide_skip_the_states_between_them() -> None:
    same = dict.fromkeys(THRESHOLDS, 100)
    assert state_of(99, 100, **same) is BudgetState.OK
    assert state_of(100, 100, **same) is BudgetState.PAUSED


@given(
    st.integers(0, 10**15),
    st.integers(0, 10**15),
    st.integers(1, 10**13),
    st.lists(st.integers(1, 300), min_size=3, max_size=3).map(sorted),
)
def test_using_more_never_betters_the_state(one: int, other: int, limit: int, percents: list[int]) -> None:
    order = list(BudgetState)
    thresholds = dict(zip(THRESHOLDS, percents, strict=True))
    less, more = sorted((one, other))
    assert order.index(state_of(less, limit, **thresholds)) <= order.index(state_of(more, limit, **thresholds))


@given(st.integers(0, 10**15), st.integers(1, 10**13))
def test_a_state_is_judged_without_rounding(used: int, limit: int) -> None:
    share = Fraction(used, limit) * 100
    expected = next(
        (
            state
            for state, percent in (
                (BudgetState.PAUSED, 110),
                (BudgetState.EXCEEDED, 100),
                (BudgetState.WARNING, 80),
            )
            if share >= percent
        ),
        BudgetState.OK,
    )
    assert state_of(used, limit, **THRESHOLDS) is expected


SECOND = 1_000_000
TAIL = 300 * SECOND
MCU = 250
PRICES = Prices(10_600_000, 35_000_000, 20_000_000, 10_000_000, 500 * 10**9, 150_000_000)
LINES = Lines.of(200_000_000, **THRESHOLDS)
# What a quarter of a CU costs, awake for so long.
TAIL_COST = 220_833


def running(
    position: Position, *, wanted_s: int = 15, awake_s: int | None = None, lines: Lines = LINES, prices: Prices = PRICES
) -> tuple[BudgetState, int, bool]:
    """State, whole seconds and whether space may only be given back; asleep unless awake for some seconds more."""
    spare = -TAIL if awake_s is None else awake_s * SECOND - TAIL
    grant = admit(
        position, lines, prices, MCU, wanted_us=wanted_s * SECOND, least_us=min(wanted_s, 1) * SECOND, spare_us=spare
    )
    return grant.state, grant.us // SECOND, grant.reclaim_only


def test_a_budget_with_room_pays_for_what_is_wanted() -> None:
    assert running(Position(0)) == (BudgetState.OK, 15, False)
    assert running(Position(160_000_000)) == (BudgetState.WARNING, 15, False)


def test_the_last_of_a_budget_pays_for_as_long_as_it_lasts_the_suspend_timeout_included() -> None:
    seven = TAIL_COST + 7 * 737
    assert running(Position(200_000_000 - seven)) == (BudgetState.WARNING, 7, False)
    assert running(Position(200_000_000 - TAIL_COST)) == (BudgetState.EXCEEDED, 15, False)


def test_a_compute_that_is_awake_already_costs_only_what_is_added() -> None:
    left = 200_000_000 - 5 * 737
    assert running(Position(left), awake_s=300) == (BudgetState.WARNING, 5, False)
    assert running(Position(left), awake_s=305) == (BudgetState.WARNING, 10, False)
    assert running(Position(left), awake_s=200)[0] is BudgetState.EXCEEDED


def test_what_others_reserved_is_not_there() -> None:
    position = Position(200_000_000 - 2 * TAIL_COST, reserved=TAIL_COST + 5_000)
    assert running(position)[0] is BudgetState.EXCEEDED
    assert running(Position(220_000_000 - TAIL_COST, reserved=1)) == (BudgetState.PAUSED, 0, False)


def test_data_that_will_use_the_budget_up_may_be_removed_and_nothing_else() -> None:
    assert running(Position(1_000_000, committed=159_000_000))[0] is BudgetState.WARNING
    assert running(Position(1_000_000, committed=199_000_000)) == (BudgetState.EXCEEDED, 15, False)
    assert running(Position(1_000_000, committed=220_000_000)) == (BudgetState.EXCEEDED, 15, True)
    assert running(Position(220_000_000, committed=1)) == (BudgetState.PAUSED, 0, False)


def test_what_is_free_of_charge_runs_as_long_as_it_likes() -> None:
    free = Prices(0, 0, 0, 0, 0, 0)
    assert running(Position(0), prices=free) == (BudgetState.OK, 15, False)
    assert running(Position(199_999_999), prices=free, wanted_s=FOREVER_US // SECOND // 2)[0] is BudgetState.WARNING


@given(
    st.integers(0, 250_000_000),
    st.integers(0, 50_000_000),
    st.integers(0, 50_000_000),
    st.integers(1, 900),
    st.integers(0, 600),
)
def test_nothing_that_is_granted_takes_a_budget_over_its_line(
    used: int, committed: int, reserved: int, wanted_s: int, awake_s: int
) -> None:
    grant = admit(
        Position(used, committed, reserved),
        LINES,
        PRICES,
        MCU,
        wanted_us=wanted_s * SECOND,
        least_us=SECOND,
        spare_us=awake_s * SECOND - TAIL,
    )
    assert 0 <= grant.us <= wanted_s * SECOND
    added = cost_microcents(Quantities(compute_mcu_us=max(0, grant.us + TAIL - awake_s * SECOND) * MCU), PRICES)
    if grant.state in {BudgetState.OK, BudgetState.WARNING}:
        assert added == 0 or used + committed + reserved + added <= LINES.exceeded
    elif grant.state is BudgetState.EXCEEDED:
        assert added == 0 or used + (0 if grant.reclaim_only else committed) + reserved + added <= LINES.paused
    else:
        assert grant.us == 0
