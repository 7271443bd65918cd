"""Calls of one tenant in a window and at once, on a clock of the test's own."""

from __future__ import annotations

from contextlib import ExitStack

import pytest

from agentdb_mcp.errors import RateLimited
from agentdb_mcp.models import Tenant
from agentdb_mcp.services.throttle import Throttle

ADA, BOB = Tenant("ada", "w"), Tenant("bob", "w")


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


def throttle(clock: Clock, *, per_window: int = 0, at_once: int = 0) -> Throttle:
    return Throttle(calls_per_window=per_window, window_s=60, concurrent_calls=at_once, clock=clock)


def call(limited: Throttle, tenant: Tenant = ADA) -> None:
    with limited.call(tenant):
        pass


def refusal(limited: Throttle, tenant: Tenant = ADA) -> RateLimited:
    with pytest.raises(RateLimited) as refused, limited.call(tenant):
        pytest.fail("the call was let through")
    return refused.value


def test_calls_past_the_windows_number_are_refused_until_the_first_has_left_it(clock: Clock) -> None:
    limited = throttle(clock, per_window=3)
    for _ in range(3):
        call(limited)
        clock.now += 10
    for _ in range(2):
        assert refusal(limited).message == "More than 3 calls in 60 s."
    clock.now += 29.9
    refusal(limited)
    clock.now += 0.1
    call(limited)
    refusal(limited)


def test_a_refusal_says_how_long_to_wait_and_that_it_may_be_repeated(clock: Clock) -> None:
    limited = throttle(clock, per_window=1)
    call(limited)
    clock.now += 18
    error = refusal(limited)
    assert (error.code, error.retryable) == ("rate_limited", True)
    assert "Wait 42 s." in (error.hint or "")
    clock.now += 41.9
    assert "Wait 1 s." in (refusal(limited).hint or "")


def test_whoever_waits_as_long_as_told_is_let_through(clock: Clock) -> None:
    limited = throttle(clock, per_window=2)
    call(limited)
    clock.now += 7
    call(limited)
    hint = refusal(limited).hint or ""
    clock.now += float(hint.removeprefix("Wait ").partition(" s")[0])
    call(limited)


def test_refused_calls_do_not_count(clock: Clock) -> None:
    limited = throttle(clock, per_window=1)
    call(limited)
    for _ in range(59):
        clock.now += 1
        refusal(limited)
    clock.now += 1
    call(limited)


def test_calls_at_once_past_their_number_are_refused_until_one_ends(clock: Clock) -> None:
    limited = throttle(clock, at_once=2)
    with limited.call(ADA):
        with limited.call(ADA):
            error = refusal(limited)
            assert (error.code, error.retryable) == ("rate_limited", True)
            assert "2 calls are running already" in error.message
            assert "Wait for their answers" in (error.hint or "")
        call(limited)
    call(limited)


def test_a_call_that_fails_has_ended(clock: Clock) -> None:
    limited = throttle(clock, at_once=1)
    with pytest.raises(ZeroDivisionError), limited.call(ADA):
        raise ZeroDivisionError
    call(limited)


def test_a_call_refused_for_running_ones_does_not_count_in_the_window(clock: Clock) -> None:
    limited = throttle(clock, per_window=2, at_once=1)
    with limited.call(ADA):
        refusal(limited)
    call(limited)
    assert "in 60 s" in refusal(limited).message


@pytest.mark.parametrize(
    "other", [BOB, Tenant("ada", "w2"), Tenant("ada", None)], ids=["user", "workspace", "no workspace"]
)
def test_another_tenant_is_not_affected(clock: Clock, other: Tenant) -> None:
    limited = throttle(clock, per_window=1, at_once=1)
    with limited.call(ADA):
        refusal(limited)
        call(limited, other)
    refusal(limited)
    refusal(limited, other)


def test_tenants_whose_calls_have_left_the_window_are_forgotten_and_the_others_are_not(clock: Clock) -> None:
    limited = throttle(clock, per_window=1)
    with limited.call(ADA), limited.call(BOB):
        for number in range(5000):
            call(limited, Tenant(f"u{number}", "w"))
            clock.now += 1
        assert len(limited._tenants) <= 65
        refusal(limited, Tenant("u4990", "w"))
    call(limited, Tenant("u4900", "w"))
    clock.now += 3600
    for number in range(200):
        call(limited, Tenant("one", f"w{number}"))
    assert limited._tenants.keys() == {Tenant("one", f"w{number}") for number in range(200)}


def test_a_limit_of_0_is_none(clock: Clock) -> None:
    limited = throttle(clock)
    with ExitStack() as running:
        for _ in range(500):
            running.enter_context(limited.call(ADA))


def test_the_wait_that_is_told_is_whole_seconds_and_long_enough() -> None:
    now = [1000.0]
    limited = Throttle(calls_per_window=1, window_s=60, concurrent_calls=0, clock=lambda: now[0])
    with limited.call(Tenant("ada", "desk")):
        now[0] += 17.6
    with pytest.raises(RateLimited) as refused, limited.call(Tenant("ada", "desk")):
        pass
    now[0] += float((refused.value.hint or "").split()[1])
    with limited.call(Tenant("ada", "desk")):
        pass
