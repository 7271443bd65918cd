"""Totals × price book: exact figures, and laws that hold for all of them."""

from __future__ import annotations

from dataclasses import astuple, fields, replace
from datetime import UTC, datetime
from decimal import Decimal
from fractions import Fraction

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agentdb_mcp.costs import (
    FOREVER_US,
    Prices,
    Quantities,
    affordable_us,
    compute_microcents,
    cost_microcents,
    storage_microcents,
    to_cents,
)
from agentdb_mcp.models import Consumption
from agentdb_mcp.policy import load_policy

DOLLAR = 100_000_000
GB = 10**9
HOUR_US = 3_600_000_000
MONTH_US = 744 * HOUR_US
LAUNCH = Prices.of(load_policy(None).prices)
METRICS = ("compute_mcu_us", "storage_byte_us", "history_byte_us", "egress_bytes", "branch_us")

amounts = st.integers(0, 10**24)
quantities = st.builds(Quantities, amounts, amounts, amounts, st.integers(0, 10**16), st.integers(0, 10**18))
price = st.integers(0, 10**10)
price_books = st.builds(Prices, price, price, price, price, st.integers(0, 1000).map(lambda gb: gb * GB), price)


def exact(used: Quantities, prices: Prices) -> Fraction:
    """Micro-cents without any rounding, as the formulas are written down."""
    return (
        Fraction(used.compute_mcu_us, 1000 * HOUR_US) * prices.compute_per_cu_hour
        + Fraction(used.storage_byte_us, GB * MONTH_US) * prices.storage_per_gb_month
        + Fraction(used.history_byte_us, GB * MONTH_US) * prices.history_per_gb_month
        + Fraction(max(0, used.egress_bytes - prices.egress_free_bytes), GB) * prices.egress_per_gb
        + Fraction(used.branch_us, MONTH_US) * prices.branch_month
    )


@pytest.mark.parametrize(
    ("used", "microcents"),
    [
        pytest.param(Quantities(), 0, id="nothing used"),
        pytest.param(Quantities(compute_mcu_us=1000 * HOUR_US), 10_600_000, id="one CU-hour is the price itself"),
        pytest.param(Quantities(compute_mcu_us=250 * 300_000_000), 220_833, id="one suspend time-out"),
        pytest.param(Quantities(compute_mcu_us=250 * 730 * HOUR_US), 1_934_500_000, id="a month always on: $19.35"),
        pytest.param(Quantities(storage_byte_us=GB * MONTH_US), 35_000_000, id="a gigabyte for a month"),
        pytest.param(Quantities(history_byte_us=GB * MONTH_US), 20_000_000, id="a gigabyte of history"),
        pytest.param(Quantities(egress_bytes=500 * GB), 0, id="egress within the allowance"),
        pytest.param(Quantities(egress_bytes=501 * GB), 10_000_000, id="a gigabyte above the allowance"),
        pytest.param(Quantities(branch_us=MONTH_US), 150_000_000, id="a branch for a month"),
        pytest.param(
            Quantities(1000 * HOUR_US, GB * MONTH_US, GB * MONTH_US, 501 * GB, MONTH_US), 225_600_000, id="all of it"
        ),
    ],
)
def test_usage_costs_what_the_price_book_says(used: Quantities, microcents: int) -> None:
    assert cost_microcents(used, LAUNCH) == microcents


@given(quantities, price_books)
def test_a_cost_is_the_exact_sum_rounded_once_half_even(used: Quantities, prices: Prices) -> None:
    assert cost_microcents(used, prices) == round(exact(used, prices))


@pytest.mark.parametrize(("half_units", "microcents"), [(1, 0), (3, 2), (5, 2), (7, 4), (-1, 0), (-3, -2)])
def test_half_a_microcent_goes_to_the_even_side(half_units: int, microcents: int) -> None:
    prices = replace(LAUNCH, branch_month=1)
    assert cost_microcents(Quantities(branch_us=half_units * MONTH_US // 2), prices) == microcents


@given(quantities, st.sampled_from(METRICS), amounts, price_books)
def test_using_more_of_anything_never_costs_less(used: Quantities, metric: str, more: int, prices: Prices) -> None:
    greater = replace(used, **{metric: getattr(used, metric) + more})
    assert cost_microcents(greater, prices) >= cost_microcents(used, prices)


@given(quantities, price_books, st.sampled_from([f.name for f in fields(Prices) if f.name != "egress_free_bytes"]))
def test_a_higher_price_never_costs_less(used: Quantities, prices: Prices, name: str) -> None:
    dearer = replace(prices, **{name: getattr(prices, name) + 1})
    assert cost_microcents(used, dearer) >= cost_microcents(used, prices)


@given(quantities, quantities, price_books)
def test_two_parts_of_a_period_cost_what_the_period_costs_but_for_a_rounding(
    one: Quantities, other: Quantities, prices: Prices
) -> None:
    boundless = replace(prices, egress_free_bytes=0)
    parts = cost_microcents(one, boundless) + cost_microcents(other, boundless)
    assert abs(parts - cost_microcents(one + other, boundless)) <= 1


@settings(max_examples=10)  # each adds ten thousand
@given(st.integers(0, 10**7), st.integers(1, 4000), st.integers(0, 10**12))
def test_ten_thousand_pieces_priced_as_a_total_drift_by_nothing(piece_us: int, mcu: int, size: int) -> None:
    piece = Quantities(compute_mcu_us=mcu * piece_us, storage_byte_us=size * piece_us, egress_bytes=piece_us)
    total = sum([piece] * 10_000, Quantities())
    whole = Quantities(mcu * piece_us * 10_000, size * piece_us * 10_000, egress_bytes=piece_us * 10_000)
    assert total == whole
    assert cost_microcents(total, LAUNCH) == round(exact(whole, LAUNCH))


@given(st.integers(0, 10**13), st.integers(0, 1000), st.integers(1, 10**10))
def test_egress_is_free_up_to_the_allowance_and_linear_above(sent: int, free_gb: int, per_gb: int) -> None:
    prices = replace(LAUNCH, egress_free_bytes=free_gb * GB, egress_per_gb=per_gb)
    above = max(0, sent - free_gb * GB)
    assert cost_microcents(Quantities(egress_bytes=sent), prices) == round(Fraction(above * per_gb, GB))


def test_the_allowance_ends_at_its_last_byte() -> None:
    prices = replace(LAUNCH, egress_per_gb=GB)
    costs = [cost_microcents(Quantities(egress_bytes=500 * GB + more), prices) for more in (-1, 0, 1, 2)]
    assert costs == [0, 0, 1, 2]


@given(st.integers(-100, 10**6), st.integers(1, 56_000), st.integers(1, 10**12))
def test_what_is_affordable_is_the_longest_time_that_costs_no_more(money: int, mcu: int, each: int) -> None:
    prices = replace(LAUNCH, compute_per_cu_hour=each)
    longest = affordable_us(money, mcu, prices)
    assert exact(Quantities(compute_mcu_us=mcu * longest), prices) <= max(0, money)
    assert exact(Quantities(compute_mcu_us=mcu * (longest + 1)), prices) > money


def test_compute_that_costs_nothing_is_affordable_for_ever() -> None:
    assert affordable_us(0, 250, replace(LAUNCH, compute_per_cu_hour=0)) == FOREVER_US
    assert affordable_us(10**40, 1, replace(LAUNCH, compute_per_cu_hour=1)) == FOREVER_US


def consumption(**amounts: str) -> Consumption:
    hour = datetime(2026, 11, 1, tzinfo=UTC)
    return Consumption("p", hour, hour, **{name: Decimal(text) for name, text in amounts.items()})


def test_consumption_becomes_whole_quantities() -> None:
    used = consumption(
        compute_cu_seconds="0.25",
        storage_byte_hours="1000",
        history_byte_hours="1",
        snapshot_byte_hours="2",
        egress_bytes="7",
        private_transfer_bytes="9",
        extra_branch_hours="1.5",
    )
    assert Quantities.of(used) == Quantities(250_000_000, 1000 * HOUR_US, 3 * HOUR_US, 7, 3 * HOUR_US // 2)


def test_what_was_not_reported_is_nothing() -> None:
    assert Quantities.of(consumption()) == Quantities()


@pytest.mark.parametrize(("reported", "sent"), [("0.5", 0), ("1.5", 2), ("2.5", 2), ("2.50000000000000001", 3)])
def test_a_part_of_a_byte_is_rounded_half_even(reported: str, sent: int) -> None:
    assert Quantities.of(consumption(egress_bytes=reported)).egress_bytes == sent


def test_history_and_snapshots_are_rounded_together() -> None:
    of_third = f"0.{'0' * 10}1"  # 3.6e9 of these are 0.036: neither is anything alone
    many = consumption(history_byte_hours=of_third, snapshot_byte_hours="0.00000000014")
    assert Quantities.of(many).history_byte_us == 1


def test_more_digits_than_decimals_carry_are_kept() -> None:
    used = consumption(storage_byte_hours="123456789012345678901234567890.5")
    assert Quantities.of(used).storage_byte_us == 123456789012345678901234567890 * HOUR_US + HOUR_US // 2


@given(quantities, quantities)
def test_quantities_are_added_and_taken_away_metric_by_metric(one: Quantities, other: Quantities) -> None:
    assert astuple(one + other) == tuple(a + b for a, b in zip(astuple(one), astuple(other), strict=True))
    assert one + other - other == one


shares = st.lists(st.integers(0, 10**10), max_size=40)


@given(shares)
def test_shares_in_cents_add_up_to_the_total_in_cents(microcents: list[int]) -> None:
    cents = to_cents(microcents)
    assert sum(cents) == sum(microcents) // 1_000_000
    for share, rounded in zip(microcents, cents, strict=True):
        assert abs(share - rounded * 1_000_000) < 1_000_000


@given(shares)
def test_who_used_more_is_never_shown_less(microcents: list[int]) -> None:
    shown = [cents for _, cents in sorted(zip(microcents, to_cents(microcents), strict=True))]
    assert shown == sorted(shown)


@pytest.mark.parametrize(
    ("microcents", "cents"),
    [
        ([], []),
        ([0, 0], [0, 0]),
        ([500_000, 500_000], [1, 0]),
        ([500_000, 499_999], [0, 0]),
        ([1_400_000, 1_600_000, 2_000_000], [1, 2, 2]),
        ([999_999] * 3, [1, 1, 0]),
    ],
)
def test_the_largest_remainders_get_the_cents_that_are_left(microcents: list[int], cents: list[int]) -> None:
    assert to_cents(microcents) == cents


@given(amounts, price_books)
def test_one_kind_alone_costs_what_it_costs_among_none_of_the_others(much: int, prices: Prices) -> None:
    assert compute_microcents(much, prices) == cost_microcents(Quantities(compute_mcu_us=much), prices)
    assert storage_microcents(much, prices) == cost_microcents(Quantities(storage_byte_us=much), prices)
