"""What is held of answers: bounded overall and by user, for a time, for whom it was read."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentdb_mcp.execution import pack, unpack
from agentdb_mcp.execution.beyond import PORTION_ROWS, Beyond
from agentdb_mcp.models import Column, Portion, Scope, Tenant
from agentdb_mcp.policy import LimitRules, load_policy
from agentdb_mcp.services.held_rows import Held, HeldRows
from agentdb_mcp.services.long_values import cut_rows

ADA, EVE = Tenant("ada", "w1"), Tenant("eve", "w2")


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


def limits(**changed: float) -> LimitRules:
    return load_policy(None).limits.model_copy(update=changed)


def held(tenant: Tenant = ADA, size: int = 10_000) -> Held:
    """One whose size is about that."""
    empty = Held(tenant, Scope.AGENT, "db", (Column("a", "text"),), (Portion(1, b""),), 0, True, 10)
    data = b"x" * (size - empty.size)
    return Held(tenant, Scope.AGENT, "db", empty.columns, (Portion(1, data),), 0, True, 10)


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def store(clock: Clock) -> Callable[..., HeldRows]:
    return lambda **changed: HeldRows(limits(**changed), clock)


def test_a_token_is_long_random_and_good_for_its_tenant_and_scope_alone(store: Callable[..., HeldRows]) -> None:
    rows = store()
    mine, other = rows.put(held()), rows.put(held())
    assert mine is not None
    assert len(mine) >= 22
    assert mine != other
    assert rows.get(ADA, Scope.AGENT, mine) is rows.get(ADA, Scope.AGENT, mine) is not None
    assert rows.get(ADA, Scope.GLOBAL, mine) is None
    assert rows.get(EVE, Scope.AGENT, mine) is None
    assert rows.get(Tenant("ada", "w2"), Scope.AGENT, mine) is None
    assert rows.get(ADA, Scope.AGENT, mine[:-1]) is None


def test_what_is_held_expires(store: Callable[..., HeldRows], clock: Clock) -> None:
    rows = store(held_s=600)
    token = rows.put(held()) or ""
    clock.now += 599
    assert rows.get(ADA, Scope.AGENT, token) is not None
    clock.now += 1
    assert rows.get(ADA, Scope.AGENT, token) is None
    assert rows.size == 0


def test_the_oldest_makes_room_of_the_same_user_s_first(store: Callable[..., HeldRows]) -> None:
    rows = store(held_bytes_per_user=30_000, held_bytes=60_000)
    of_eve = rows.put(held(EVE)) or ""
    tokens = [rows.put(held()) or "" for _ in range(5)]
    assert [rows.get(ADA, Scope.AGENT, token) is not None for token in tokens] == [False, False, True, True, True]
    assert rows.get(EVE, Scope.AGENT, of_eve) is not None
    for number in range(3):
        rows.put(held(Tenant(f"user {number}", "w")))
    assert rows.get(EVE, Scope.AGENT, of_eve) is None
    assert rows.size <= 60_000


def test_more_than_a_user_may_have_held_is_not_held_and_drops_nothing(store: Callable[..., HeldRows]) -> None:
    rows = store(held_bytes_per_user=30_000)
    token = rows.put(held()) or ""
    assert rows.put(held(size=30_001)) is None
    assert rows.get(ADA, Scope.AGENT, token) is not None


@given(st.lists(st.tuples(st.sampled_from(["ada", "eve", None]), st.integers(2_000, 40_000)), max_size=60))
def test_the_bounds_hold_whatever_comes(puts: list[tuple[str | None, int]]) -> None:
    rows = HeldRows(limits(held_bytes_per_user=50_000, held_bytes=80_000), Clock())
    kept: dict[str, tuple[Tenant, int]] = {}
    for user, size in puts:
        token = rows.put(held(Tenant(user, "w"), size))
        assert token is not None
        kept[token] = (Tenant(user, "w"), size)
        alive = [(t, s) for token, (t, s) in kept.items() if rows.get(t, Scope.AGENT, token) is not None]
        assert rows.size == sum(s for _, s in alive) <= 80_000
        assert all(sum(s for t, s in alive if t.user_id == each) <= 50_000 for each in ("ada", "eve", None))


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=5,
)  # fmt: skip


@given(st.lists(st.lists(JSON, min_size=1, max_size=4), min_size=1, max_size=8), st.integers(0, 7))
def test_rows_come_out_as_they_went_in(rows: list[list[object]], skip: int) -> None:
    assert [row for row, _ in unpack(pack(rows), skip)] == rows[skip:]


def test_rows_past_a_page_are_taken_up_to_their_number_and_size() -> None:
    few = Beyond(2500, 10**6, 10**6, list)
    taken = 0
    while few.takes(8):
        few.add((str(taken),), 8)
        taken += 1
    assert taken == 2500
    assert [portion.rows for portion in few.portions()] == [PORTION_ROWS, PORTION_ROWS, 500]
    small = Beyond(2500, 100, 10**6, list)
    assert [small.takes(60), small.add(("x" * 56,), 60), small.takes(60), small.full] == [True, None, False, True]
    assert small.takes(1) is False, "rows that follow one that was left out would have a gap before them"
    assert Beyond(10, 10**6, 1000, list).takes(1001) is False


@pytest.mark.parametrize(
    ("value", "shown", "length"),
    [
        ("x" * 101, "x" * 100 + "… [cut: 100 of 101 characters]", 101),
        ("é😀" * 60, "é😀" * 50 + "… [cut: 100 of 120 characters]", 120),
        ({"a": "y" * 100}, '{"a":"' + "y" * 94 + "… [cut: 100 of 108 characters]", 108),
        ([1] * 100, "[" + "1," * 49 + "1… [cut: 100 of 201 characters]", 201),
    ],
)  # fmt: skip
def test_a_long_value_is_cut_to_a_text_that_says_so(value: object, shown: str, length: int) -> None:
    rows = [[1, "short"], [value, None]]
    given_rows, cuts = cut_rows(rows, 100, [1000, 1000])
    assert given_rows == [[1, "short"], [shown, None]]
    assert cuts == [(1, 0, length)]
    assert rows[1][0] == value


def test_values_of_just_the_limit_and_rows_too_small_to_hold_long_ones_stay() -> None:
    rows: list[list[object]] = [["x" * 100, {"a": 1}, 10**30, 1.5, True]]
    assert cut_rows(rows, 100, [200]) == (rows, [])
    assert cut_rows(rows, 100, [25]) == (rows, [])
