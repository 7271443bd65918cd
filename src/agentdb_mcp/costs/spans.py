"""Sets of moments, as sorted lists of spans that neither overlap nor touch; whole microseconds, ends excluded."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Iterator
from operator import itemgetter

Span = tuple[int, int]

HOUR_US = 3_600_000_000


def add(spans: list[Span], lo: int, hi: int) -> None:
    """Unite with [lo, hi), in place."""
    if lo >= hi:
        return
    first, last = _reached(spans, lo, hi)
    if first < last:
        lo, hi = min(lo, spans[first][0]), max(hi, spans[last - 1][1])
    spans[first:last] = [(lo, hi)]


def remove(spans: list[Span], lo: int, hi: int) -> None:
    """Take [lo, hi) away, in place."""
    if lo >= hi:
        return
    first, last = _reached(spans, lo, hi)
    cut = [part for a, b in spans[first:last] for part in ((a, min(b, lo)), (max(a, hi), b)) if part[0] < part[1]]
    spans[first:last] = cut


def gaps(spans: list[Span], lo: int, hi: int) -> list[Span]:
    """What of [lo, hi) is not in the set."""
    first, last = _reached(spans, lo, hi)
    missing = []
    for a, b in spans[first:last]:
        if lo < a:
            missing.append((lo, a))
        lo = b
    if lo < hi:
        missing.append((lo, hi))
    return missing


def length(spans: Iterable[Span]) -> int:
    return sum(hi - lo for lo, hi in spans)


def by_hour(spans: Iterable[Span]) -> Iterator[tuple[int, Span]]:
    """The spans cut at whole hours, each with the hour that it is in."""
    for lo, hi in spans:
        while lo < hi:
            hour = hour_of(lo)
            end = min(hi, hour + HOUR_US)
            yield hour, (lo, end)
            lo = end


def hour_of(moment: int) -> int:
    """When the moment's hour began."""
    return moment - moment % HOUR_US


def _reached(spans: list[Span], lo: int, hi: int) -> tuple[int, int]:
    """The slice of spans that overlap or touch [lo, hi)."""
    return bisect_left(spans, lo, key=itemgetter(1)), bisect_right(spans, hi, key=itemgetter(0))
