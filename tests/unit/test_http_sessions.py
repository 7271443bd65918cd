"""Which sessions a principal keeps, and which of them ends for one too many."""

from __future__ import annotations

from contextlib import ExitStack

from agentdb_mcp.mcp_server.http_sessions import ENDED_S, LIVELY_S, HeldSessions


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def test_the_least_recently_used_ends_for_one_too_many() -> None:
    held = HeldSessions(most=2)
    assert [held.opened("ada", name) for name in "ab"] == [None, None]
    with held.used("ada", "a"):
        pass
    assert held.opened("ada", "c") == "b"
    assert held.opened("ada", "d") == "a"


def test_one_that_is_in_use_ends_only_where_all_are() -> None:
    held = HeldSessions(most=2)
    for name in "ab":
        held.opened("ada", name)
    with ExitStack() as requests:
        requests.enter_context(held.used("ada", "a"))
        assert held.opened("ada", "c") == "b"
        requests.enter_context(held.used("ada", "c"))
        assert held.opened("ada", "d") == "a"


def test_principals_are_counted_each_for_itself_and_what_has_ended_not_at_all() -> None:
    held = HeldSessions(most=1)
    assert held.opened("ada", "a") is None
    assert held.opened("bob", "b") is None
    held.ended("ada", "a")
    held.ended("ada", "a")
    held.ended("eve", "b")
    assert held.opened("ada", "c") is None
    assert held.opened("bob", "d") == "b"


def test_a_session_that_is_not_the_principal_s_changes_nothing() -> None:
    held = HeldSessions(most=2)
    held.opened("ada", "a")
    held.opened("ada", "b")
    with held.used("eve", "a"):
        assert held.opened("eve", "x") is None
    assert held.opened("ada", "c") == "a"


def test_what_expired_is_forgotten() -> None:
    clock = Clock()
    held = HeldSessions(most=1, clock=clock)
    held.opened("ada", "a")
    held.opened("bob", "b")
    with held.used("bob", "b"):
        clock.now = ENDED_S + 1
        assert held.opened("ada", "c") is None
        assert held.opened("bob", "d") == "b"


def test_a_session_is_lively_for_a_while_after_the_sdk_answered_in_it_and_for_its_principal_alone() -> None:
    clock = Clock()
    held = HeldSessions(clock=clock)
    held.opened("ada", "a")
    assert (held.has("ada", "a"), held.is_lively("ada", "a")) == (True, True)
    assert (held.has("eve", "a"), held.is_lively("eve", "a")) == (False, False)
    clock.now = LIVELY_S
    with held.used("ada", "a"):  # past the SDK, say
        pass
    assert (held.has("ada", "a"), held.is_lively("ada", "a")) == (True, False)
    held.answered("ada", "a")
    held.answered("eve", "a")
    assert (held.is_lively("ada", "a"), held.is_lively("eve", "a")) == (True, False)
    held.ended("ada", "a")
    assert not held.has("ada", "a")
