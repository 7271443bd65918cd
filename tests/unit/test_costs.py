"""Usage × price and what a total means: exact figures, and laws that hold for all of them."""

from __future__ import annotations

from decimal import Decimal
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentdb_mcp.costs import compute_microcents, state_of
from agentdb_mcp.models import BudgetState

HOUR_US = 3_600_000_000
DAY_US = 24 * HOUR_US

microseconds = st.integers(0, 31 * DAY_US)
sizes = st.sampled_from([Decimal(text) for text in ("0.25", "0.5", "1", "2", "7", "56")])
prices = st.decimals(0, 10, places=8)


def exact(active_us: int, size: Decimal, price: Decimal) -> Fraction:
    """Micro-cents without any rounding."""
    return Fraction(active_us) * Fraction(size) * Fraction(price) * 100_000_000 / HOUR_US


@pytest.mark.parametrize(
    ("active_us", "size", "price", "microcents"),
    [
        pytest.param(0, "0.25", "0.106", 0, id="nothing ran"),
        pytest.param(HOUR_US, "1", "0.106", 10_600_000, id="one CU-hour is the price itself"),
        pytest.param(HOUR_US, "0.25", "0.106", 2_650_000, id="a quarter of it"),
        pytest.param(300_000_000, "0.25", "0.106", 220_833, id="one suspend time-out"),
        pytest.param(730 * HOUR_US, "0.25", "0.106", 1_934_500_000, id="a month always on is about $19.35"),
        pytest.param(HOUR_US, "56", "0", 0, id="a price of nothing"),
        pytest.param(1, "0.25", "0.106", 0, id="a microsecond rounds to nothing"),
    ],
)
def test_compute_costs_what_the_price_book_says(active_us: int, size: str, price: str, microcents: int) -> None:
    assert compute_microcents(active_us, Decimal(size), Decimal(price)) == microcents


@given(microseconds, sizes, prices)
def test_a_cost_is_the_exact_product_rounded_once(active_us: int, size: Decimal, price: Decimal) -> None:
    assert compute_microcents(active_us, size, price) == round(exact(active_us, size, price))


@given(microseconds, microseconds, sizes, prices)
def test_more_time_never_costs_less(one: int, other: int, size: Decimal, price: Decimal) -> None:
    less, more = sorted((one, other))
    assert compute_microcents(less, size, price) <= compute_microcents(more, size, price)


@given(microseconds, sizes, prices, prices)
def test_a_higher_price_never_costs_less(active_us: int, size: Decimal, one: Decimal, other: Decimal) -> None:
    less, more = sorted((one, other))
    assert compute_microcents(active_us, size, less) <= compute_microcents(active_us, size, more)


@given(st.lists(microseconds, min_size=1, max_size=20), sizes, prices)
def test_parts_add_up_to_the_whole_but_for_half_a_microcent_each(
    parts: list[int], size: Decimal, price: Decimal
) -> None:
    whole = compute_microcents(sum(parts), size, price)
    added = sum(compute_microcents(part, size, price) for part in parts)
    assert abs(added - whole) <= (len(parts) + 1) / 2


def test_many_small_uses_are_not_rounded_away_to_one_side() -> None:
    """Half-even: a cost of half a micro-cent goes up as often as down."""
    halves = [us for us in range(1, 2_000_000) if us * 2 % 144 == 72][:1000]
    size, price = Decimal("0.25"), Decimal("1.00")
    added = sum(compute_microcents(us, size, price) for us in halves)
    assert abs(added - sum(exact(us, size, price) for us in halves)) <= 1


THRESHOLDS = {"warning_percent": 80, "exceeded_percent": 100, "paused_percent": 110}


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
def test_a_limit_of_nothing_is_exceeded_from_the_start_and_lets_reads_go_on(used: int) -> None:
    assert state_of(used, 0, **THRESHOLDS) is BudgetState.EXCEEDED


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
