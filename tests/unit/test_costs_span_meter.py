"""The meter of spans: what servers saw is united, stored in any order and as often as it takes, counted once."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from agentdb_mcp.costs import Activity, Batch, SpanMeter
from agentdb_mcp.costs.spans import HOUR_US, Span, add, length

SECOND = 1_000_000
MINUTE = 60 * SECOND
TIMEOUT = 5 * MINUTE
# 11:00 of some day.
ELEVEN = 495_275 * HOUR_US

Use = tuple[int, int]
uses = st.lists(st.tuples(st.integers(0, 300), st.integers(0, 90)), max_size=20).map(
    lambda pairs: [(ELEVEN + start * MINUTE, ELEVEN + (start + lasting) * MINUTE) for start, lasting in pairs]
)


class Receiver:
    """What a control database keeps: unions of spans, and the greatest total of each meter, key and hour."""

    def __init__(self) -> None:
        self.spans: dict[str, list[Span]] = {}
        self.sent: dict[tuple[int, str, int], int] = {}

    def store(self, meter: SpanMeter[str], batch: Batch[str]) -> None:
        for activity in batch:
            for span in activity.spans:
                assert activity.hour_start_us <= span[0] < span[1] <= activity.hour_start_us + HOUR_US
                add(self.spans.setdefault(activity.key, []), *span)
            place = id(meter), activity.key, activity.hour_start_us
            self.sent[place] = max(self.sent.get(place, 0), activity.sent_bytes_total)

    def sent_bytes(self, key: str) -> int:
        return sum(total for (_, stored, _), total in self.sent.items() if stored == key)


def union(of: list[Use], timeout: int = TIMEOUT) -> list[Span]:
    found: list[Span] = []
    for start, end in of:
        add(found, start, end + timeout)
    return found


def noted(of: list[Use], timeout: int = TIMEOUT) -> SpanMeter[str]:
    meter = SpanMeter[str](timeout)
    for use in of:
        meter.note("a", *use)
    return meter


def unsettled_us(meter: SpanMeter[str], key: str) -> int:
    """The time awake that is to be stored yet."""
    return sum(length(activity.spans) for activity in meter.take() if activity.key == key)


def test_one_use_keeps_the_compute_awake_until_the_suspend_timeout_is_over() -> None:
    meter = noted([(ELEVEN, ELEVEN + SECOND)])
    assert meter.take() == (Activity("a", ELEVEN, ((ELEVEN, ELEVEN + SECOND + TIMEOUT),), 0),)
    assert meter.awake_until("a") == ELEVEN + SECOND + TIMEOUT


def test_what_was_never_used_is_asleep() -> None:
    meter = SpanMeter[str](TIMEOUT)
    assert (meter.awake_until("a"), meter.take()) == (0, ())
    assert meter.extra_us("a", ELEVEN, ELEVEN + SECOND) == SECOND + TIMEOUT


def test_a_use_across_the_hour_is_told_by_hour() -> None:
    twelve = ELEVEN + HOUR_US
    meter = noted([(twelve - MINUTE, twelve - SECOND)])
    assert meter.take() == (
        Activity("a", ELEVEN, ((twelve - MINUTE, twelve),)),
        Activity("a", twelve, ((twelve, twelve - SECOND + TIMEOUT),)),
    )


@given(uses, st.randoms(use_true_random=False))
def test_the_order_of_notes_does_not_matter(of: list[Use], chance: random.Random) -> None:
    shuffled = of.copy()
    chance.shuffle(shuffled)
    one, other = noted(of), noted(shuffled)
    assert one.take() == other.take()
    assert one.awake_until("a") == other.awake_until("a")


@given(uses, st.sampled_from([0, TIMEOUT, 3 * HOUR_US]))
def test_what_is_taken_is_the_union_of_all_uses_cut_at_hours(of: list[Use], timeout: int) -> None:
    meter, receiver = noted(of, timeout), Receiver()
    receiver.store(meter, meter.take())
    assert receiver.spans.get("a", []) == union(of, timeout)
    assert len(meter.take()) == len({activity.hour_start_us for activity in meter.take()})


@given(uses, uses)
def test_two_servers_that_see_the_same_compute_are_counted_once(one: list[Use], other: list[Use]) -> None:
    receiver = Receiver()
    for server in (noted(one), noted(other)):
        receiver.store(server, server.take())
    assert receiver.spans.get("a", []) == union(one + other)


@given(uses, st.tuples(st.integers(0, 300), st.integers(0, 90)))
def test_what_a_use_would_add_is_what_it_adds(of: list[Use], more: tuple[int, int]) -> None:
    meter = noted(of)
    start, end = ELEVEN + more[0] * MINUTE, ELEVEN + (more[0] + more[1]) * MINUTE
    expected, before = meter.extra_us("a", start, end), unsettled_us(meter, "a")
    meter.note("a", start, end)
    assert unsettled_us(meter, "a") - before == expected
    assert meter.extra_us("a", start, end) == 0


@given(uses, st.integers(0, 400))
def test_what_is_awake_after_a_moment_is_what_is_awake_without_what_was_before(of: list[Use], minute: int) -> None:
    moment = ELEVEN + minute * MINUTE
    after = [(max(lo, moment), hi) for lo, hi in union(of) if hi > moment]
    assert noted(of).awake_after_us("a", moment) == length(after)
    assert noted(of).awake_after_us("b", moment) == 0


def test_databases_are_metered_apart() -> None:
    meter = noted([(ELEVEN, ELEVEN)])
    meter.note("b", ELEVEN, ELEVEN + MINUTE)
    assert (unsettled_us(meter, "a"), unsettled_us(meter, "b")) == (TIMEOUT, TIMEOUT + MINUTE)
    assert [activity.key for activity in meter.take()] == ["a", "b"]


def test_a_clock_that_was_set_back_during_a_use_makes_it_one_of_no_length() -> None:
    assert unsettled_us(noted([(ELEVEN, ELEVEN - HOUR_US)]), "a") == TIMEOUT
    assert noted([]).extra_us("a", ELEVEN, ELEVEN - HOUR_US) == TIMEOUT


def test_what_is_settled_is_not_given_again_and_what_came_meanwhile_is() -> None:
    meter = noted([(ELEVEN, ELEVEN + SECOND)])
    batch = meter.take()
    meter.note("a", ELEVEN + MINUTE, ELEVEN + MINUTE)
    meter.settle(batch)
    (rest,) = meter.take()
    assert rest.spans == ((ELEVEN + SECOND + TIMEOUT, ELEVEN + MINUTE + TIMEOUT),)
    meter.settle([rest])
    assert meter.take() == ()
    assert meter.awake_until("a") == ELEVEN + MINUTE + TIMEOUT


def test_what_was_not_stored_is_given_again_with_what_came_since() -> None:
    meter = noted([(ELEVEN, ELEVEN)])
    meter.take()
    meter.note("a", ELEVEN + MINUTE, ELEVEN + MINUTE)
    assert [activity.spans for activity in meter.take()] == [((ELEVEN, ELEVEN + MINUTE + TIMEOUT),)]


def test_bytes_are_a_running_total_of_the_hour_that_they_were_sent_in() -> None:
    meter = SpanMeter[str](0)
    meter.note("a", ELEVEN, ELEVEN + SECOND, 100)
    batch = meter.take()
    meter.note("a", ELEVEN, ELEVEN + SECOND, 20)
    meter.settle(batch)
    (more,) = meter.take()
    assert (batch[0].sent_bytes_total, more.sent_bytes_total, more.spans) == (100, 120, ())
    meter.settle([more])
    meter.note("a", ELEVEN - SECOND, ELEVEN + HOUR_US, 7)
    assert [(activity.hour_start_us, activity.sent_bytes_total) for activity in meter.take()] == [
        (ELEVEN - HOUR_US, 0),
        (ELEVEN, 120),
        (ELEVEN + HOUR_US, 7),
    ]


def test_parts_of_a_batch_may_be_settled_alone() -> None:
    meter = noted([(ELEVEN, ELEVEN + 2 * HOUR_US)])
    first, *others = meter.take()
    meter.settle([first])
    assert list(meter.take()) == others


def test_settling_a_batch_twice_or_long_after_changes_nothing() -> None:
    meter = SpanMeter[str](TIMEOUT)
    meter.note("a", ELEVEN, ELEVEN, 5)
    batch = meter.take()
    for later in range(5):
        meter.note("b", ELEVEN + later * HOUR_US, ELEVEN + later * HOUR_US)
        meter.settle(meter.take())
        meter.settle(batch)
    meter.note("a", ELEVEN + 5 * HOUR_US, ELEVEN + 5 * HOUR_US, 6)
    meter.settle(batch)
    assert [activity.sent_bytes_total for activity in meter.take()] == [6]


def test_what_is_settled_and_old_is_forgotten_and_the_rest_is_not() -> None:
    meter = SpanMeter[int](TIMEOUT)
    for key in range(1000):
        meter.note(key, ELEVEN + key, ELEVEN + key, 1)
    kept = [activity for activity in meter.take() if activity.key == 7]
    meter.settle(activity for activity in meter.take() if activity.key != 7)
    assert meter.awake_until(999) == ELEVEN + 999 + TIMEOUT
    meter.note(1000, ELEVEN + 3 * HOUR_US, ELEVEN + 3 * HOUR_US)
    meter.settle([])
    assert len(meter._seen) == 2
    assert meter.awake_until(999) == 0
    assert [activity for activity in meter.take() if activity.key == 7] == kept


def test_a_database_in_use_all_the_time_takes_no_more_room_after_a_week() -> None:
    meter = SpanMeter[str](SECOND)
    for minute in range(7 * 24 * 60):
        meter.note("a", ELEVEN + minute * MINUTE, ELEVEN + minute * MINUTE, 1)
        meter.settle(meter.take())
    seen = meter._seen["a"]
    assert len(seen.awake) <= 2 * 60
    assert len(seen.sent) <= 2
    assert len(seen.sent_settled) <= 2
    assert not seen.unsettled


def test_bytes_of_an_hour_that_is_forgotten_are_counted_in_the_oldest_that_is_not() -> None:
    meter, receiver = SpanMeter[str](0), Receiver()
    for hours, sent in ((0, 100), (5, 10), (0, 1)):
        meter.note("a", ELEVEN + hours * HOUR_US, ELEVEN + hours * HOUR_US, sent)
        batch = meter.take()
        receiver.store(meter, batch)
        meter.settle(batch)
    assert receiver.sent_bytes("a") == 111


class Servers(RuleBasedStateMachine):
    """Two servers note, store, fail and store late, in any order; the control database ends with the exact union."""

    def __init__(self) -> None:
        super().__init__()
        self.meters = [SpanMeter[str](TIMEOUT), SpanMeter[str](TIMEOUT)]
        self.taken: list[tuple[SpanMeter[str], Batch[str]]] = []
        self.receiver = Receiver()
        self.uses: dict[str, list[Use]] = {"a": [], "b": []}
        self.sent = {"a": 0, "b": 0}
        self.now = ELEVEN

    @rule(minutes=st.integers(0, 200))
    def wait(self, minutes: int) -> None:
        self.now += minutes * MINUTE

    @rule(
        which=st.integers(0, 1), key=st.sampled_from("ab"), lasting=st.integers(0, 150), late=st.integers(0, 30),
        sent=st.integers(0, 9),
    )  # fmt: skip
    def note(self, which: int, key: str, lasting: int, late: int, sent: int) -> None:
        end = self.now - late * MINUTE
        self.meters[which].note(key, end - lasting * MINUTE, end, sent)
        self.uses[key].append((end - lasting * MINUTE, end))
        self.sent[key] += sent

    @rule(which=st.integers(0, 1))
    def take(self, which: int) -> None:
        self.taken.append((self.meters[which], self.meters[which].take()))

    @rule(chosen=st.integers(0, 5), told=st.booleans())
    def store(self, chosen: int, told: bool) -> None:
        """`told` is False where the answer of the control database was lost."""
        if chosen < len(self.taken):
            meter, batch = self.taken[chosen]
            self.receiver.store(meter, batch)
            if told:
                self.taken.pop(chosen)
                meter.settle(batch)

    @rule(chosen=st.integers(0, 5))
    def fail(self, chosen: int) -> None:
        if chosen < len(self.taken):
            self.taken.pop(chosen)

    @invariant()
    def stored_and_unsettled_are_all_there_is(self) -> None:
        for key, of in self.uses.items():
            found = self.receiver.spans.get(key, []).copy()
            for activity in (activity for meter in self.meters for activity in meter.take() if activity.key == key):
                for span in activity.spans:
                    add(found, *span)
            assert found == union(of)

    def teardown(self) -> None:
        for meter in self.meters:
            batch = meter.take()
            self.receiver.store(meter, batch)
            meter.settle(batch)
            assert meter.take() == ()
        for key in "ab":
            assert self.receiver.spans.get(key, []) == union(self.uses[key])
            assert self.receiver.sent_bytes(key) == self.sent[key]


TestServers = Servers.TestCase


@pytest.mark.parametrize("timeout", [0, TIMEOUT])
def test_nothing_used_and_nothing_sent_is_nothing_to_store(timeout: int) -> None:
    meter = noted([(ELEVEN, ELEVEN)], timeout)
    assert len(meter.take()) == (1 if timeout else 0)
