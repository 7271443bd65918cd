"""So many credentials that are not valid may come from one client in a minute, and memory stays bounded."""

from __future__ import annotations

import pytest

from agentdb_mcp.errors import RateLimited
from agentdb_mcp.services.failed_tries import FailedTries


class Seconds:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Seconds:
    return Seconds()


def fail(tries: FailedTries, source: str, times: int) -> None:
    for _ in range(times):
        tries.check(source)
        tries.note(source)


def test_twenty_may_fail_in_a_minute_and_the_next_is_refused(clock: Seconds) -> None:
    tries = FailedTries(clock=clock)
    fail(tries, "a", 20)
    with pytest.raises(RateLimited, match=r"More than 20 .* in 60 s") as refused:
        tries.check("a")
    assert refused.value.retryable
    assert "Wait 60 s" in (refused.value.hint or "")


def test_one_client_takes_nothing_from_another(clock: Seconds) -> None:
    tries = FailedTries(clock=clock)
    fail(tries, "a", 20)
    fail(tries, "b", 20)


def test_the_window_slides(clock: Seconds) -> None:
    tries = FailedTries(clock=clock)
    fail(tries, "a", 10)
    clock.now += 30
    fail(tries, "a", 10)
    clock.now += 29.9
    with pytest.raises(RateLimited, match="More than 20") as refused:
        tries.check("a")
    assert "Wait 1 s" in (refused.value.hint or "")
    clock.now += 0.1
    fail(tries, "a", 10)
    with pytest.raises(RateLimited):
        tries.check("a")


def test_being_refused_makes_nobody_wait_longer(clock: Seconds) -> None:
    tries = FailedTries(clock=clock)
    fail(tries, "a", 20)
    for _ in range(100):
        with pytest.raises(RateLimited):
            tries.check("a")
    clock.now += 60
    tries.check("a")


def test_of_too_many_clients_the_one_that_failed_longest_ago_is_forgotten(clock: Seconds) -> None:
    tries = FailedTries(tries=1, max_sources=3, clock=clock)
    for source in ("a", "b", "c"):
        fail(tries, source, 1)
    clock.now += 59
    tries.note("a")
    fail(tries, "d", 1)
    tries.check("b")
    for source in ("a", "c", "d"):
        with pytest.raises(RateLimited):
            tries.check(source)


def test_memory_is_bounded_whatever_comes(clock: Seconds) -> None:
    tries = FailedTries(max_sources=50, clock=clock)
    for number in range(2000):
        tries.note(f"client-{number}")
        tries.note("one")
    assert len(tries._sources) == 50
    assert max(map(len, tries._sources.values())) == 20
