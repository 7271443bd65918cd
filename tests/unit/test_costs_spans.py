"""Sets of moments as sorted spans, against sets of single moments."""

from __future__ import annotations

import itertools

from hypothesis import given
from hypothesis import strategies as st

from agentdb_mcp.costs import spans
from agentdb_mcp.costs.spans import HOUR_US, Span

pairs = st.tuples(st.integers(0, 60), st.integers(0, 60)).map(lambda pair: (min(pair), max(pair)))
steps = st.lists(st.tuples(st.booleans(), pairs), max_size=30)


def moments(found: list[Span]) -> set[int]:
    return {moment for lo, hi in found for moment in range(lo, hi)}


def built(done: list[tuple[bool, Span]]) -> tuple[list[Span], set[int]]:
    found: list[Span] = []
    expected: set[int] = set()
    for adding, (lo, hi) in done:
        (spans.add if adding else spans.remove)(found, lo, hi)
        expected = expected | set(range(lo, hi)) if adding else expected - set(range(lo, hi))
    return found, expected


@given(steps)
def test_adding_and_removing_are_those_of_sets(done: list[tuple[bool, Span]]) -> None:
    found, expected = built(done)
    assert moments(found) == expected
    assert spans.length(found) == len(expected)


@given(steps)
def test_spans_are_sorted_and_neither_empty_nor_overlapping(done: list[tuple[bool, Span]]) -> None:
    found, _ = built(done)
    edges = [edge for span in found for edge in span]
    assert edges == sorted(edges)
    assert all(lo < hi for lo, hi in found)


@given(st.lists(pairs, max_size=30))
def test_what_touches_becomes_one(added: list[Span]) -> None:
    found, _ = built([(True, pair) for pair in added])
    assert all(one[1] < other[0] for one, other in itertools.pairwise(found))


@given(steps, pairs)
def test_gaps_are_what_is_not_there(done: list[tuple[bool, Span]], asked: Span) -> None:
    found, expected = built(done)
    assert moments(spans.gaps(found, *asked)) == set(range(*asked)) - expected


@given(st.lists(st.tuples(st.integers(-5, 50), st.integers(0, 5 * HOUR_US)), max_size=10))
def test_cutting_at_hours_loses_nothing_and_crosses_none(starts: list[tuple[int, int]]) -> None:
    whole: list[Span] = []
    for half_hours, length in starts:
        spans.add(whole, half_hours * HOUR_US // 2, half_hours * HOUR_US // 2 + length)
    joined: list[Span] = []
    for hour, (lo, hi) in spans.by_hour(whole):
        assert hour % HOUR_US == 0
        assert hour <= lo < hi <= hour + HOUR_US
        spans.add(joined, lo, hi)
    assert joined == whole
