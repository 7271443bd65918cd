"""Our own running estimate: how long our traffic keeps each database's compute awake.

A compute stays awake for the suspend timeout after its last use, so a database's active time is the union of the
intervals [start, end + suspend timeout] of its uses.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Generic

from agentdb_mcp.costs import spans
from agentdb_mcp.models import Activity, Key

Batch = tuple[Activity[Key], ...]


@dataclass(slots=True)
class _Seen:
    """One database: when it was awake, what of that is not stored yet, and the bytes sent in each hour."""

    awake: list[spans.Span] = field(default_factory=list)
    unsettled: list[spans.Span] = field(default_factory=list)
    sent: dict[int, int] = field(default_factory=dict)
    sent_settled: dict[int, int] = field(default_factory=dict)

    def unsettled_hours(self) -> dict[int, list[spans.Span]]:
        hours: dict[int, list[spans.Span]] = {
            hour: [] for hour, total in self.sent.items() if total > self.sent_settled.get(hour, 0)
        }
        for hour, span in spans.by_hour(self.unsettled):
            hours.setdefault(hour, []).append(span)
        return hours

    def settle(self, activity: Activity[Key]) -> None:
        for span in activity.spans:
            spans.remove(self.unsettled, *span)
        hour = activity.hour_start_us
        if hour in self.sent:
            self.sent_settled[hour] = max(self.sent_settled.get(hour, 0), activity.sent_bytes_total)

    def forget(self, before: int) -> None:
        """What is settled and older."""
        cut = min(before, self.unsettled[0][0]) if self.unsettled else before
        self.awake = [span for span in self.awake if span[1] > cut]
        for hour, total in list(self.sent_settled.items()):
            if hour < before and total == self.sent[hour]:
                del self.sent[hour], self.sent_settled[hour]

    def __bool__(self) -> bool:
        return bool(self.awake or self.unsettled or self.sent)


class SpanMeter(Generic[Key]):
    """When our traffic keeps each database awake, to be united with what other servers saw.

    Moments are whole microseconds of wall-clock time since the epoch. `take` gives what is to be stored and `settle`
    says that it was; what is never settled is given again. What is settled is forgotten after an hour or two, counted
    by the newest use: a use that reaches further back is noted again, which a receiver of unions does not mind.
    """

    def __init__(self, suspend_timeout_us: int) -> None:
        self._timeout = suspend_timeout_us
        self._seen: dict[Key, _Seen] = {}
        self._waiting: dict[Key, None] = {}
        self._newest = self._forgotten = 0

    def note(self, key: Key, start_us: int, end_us: int, sent_bytes: int = 0) -> None:
        """One use; a clock that was set back meanwhile makes it one of no length."""
        end_us = max(start_us, end_us)
        self._newest = max(self._newest, end_us)
        seen = self._seen.setdefault(key, _Seen())
        new = spans.gaps(seen.awake, start_us, end_us + self._timeout)
        for span in new:
            spans.add(seen.unsettled, *span)
            spans.add(seen.awake, *span)
        if sent_bytes:
            # An hour that is forgotten has no running total any more.
            hour = max(spans.hour_of(end_us), self._forgotten)
            seen.sent[hour] = seen.sent.get(hour, 0) + sent_bytes
        if new or sent_bytes:
            self._waiting[key] = None

    def awake_until(self, key: Key) -> int:
        """When the compute falls asleep unless it is used again; 0 where no use is known."""
        seen = self._seen.get(key)
        return seen.awake[-1][1] if seen and seen.awake else 0

    def awake_after_us(self, key: Key, moment_us: int) -> int:
        """How long it is awake after the moment."""
        seen = self._seen.get(key)
        return sum(hi - max(lo, moment_us) for lo, hi in seen.awake if hi > moment_us) if seen else 0

    def extra_us(self, key: Key, start_us: int, end_us: int) -> int:
        """How much a use would add to the time awake."""
        seen = self._seen.get(key)
        end_us = max(start_us, end_us) + self._timeout
        return spans.length(spans.gaps(seen.awake, start_us, end_us)) if seen else end_us - start_us

    def take(self) -> Batch[Key]:
        """Everything that is not settled, by database and hour."""
        return tuple(
            Activity(key, hour, tuple(found), self._seen[key].sent.get(hour, 0))
            for key in self._waiting
            for hour, found in sorted(self._seen[key].unsettled_hours().items())
        )

    def settle(self, stored: Iterable[Activity[Key]]) -> None:
        """Of a batch, or of a part of it, that was stored."""
        keys: set[Key] = set()
        for activity in stored:
            if seen := self._seen.get(activity.key):
                seen.settle(activity)
                keys.add(activity.key)
        for key in keys:
            if not self._seen[key].unsettled_hours():
                self._waiting.pop(key, None)
        self._forget()

    def _forget(self) -> None:
        """Once an hour: everything settled of all hours but the newest use's and the one before."""
        before = spans.hour_of(self._newest) - spans.HOUR_US
        if before <= self._forgotten:
            return
        self._forgotten = before
        for key, seen in list(self._seen.items()):
            seen.forget(before)
            if not seen:
                del self._seen[key]
