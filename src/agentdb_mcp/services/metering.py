"""What this server's own traffic makes databases use, on its way to the ledger."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta

import anyio

from agentdb_mcp.costs import SpanMeter
from agentdb_mcp.store import LedgerStore, MeteredHour

Clock = Callable[[], datetime]
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
# Seconds of writing after which a database's size is looked at anew, however short ago that was.
WRITING_S = 0.25
_DAY_US, _SECOND_US = 86_400_000_000, 1_000_000


def utc_now() -> datetime:
    return datetime.now(UTC)


def to_us(moment: datetime) -> int:
    """Whole microseconds since the epoch."""
    since = moment - EPOCH
    return since.days * _DAY_US + since.seconds * _SECOND_US + since.microseconds


def from_us(moment_us: int) -> datetime:
    return EPOCH + timedelta(microseconds=moment_us)


def iso(moment: datetime) -> str:
    """As people and programs are told it: UTC, to the second."""
    return moment.astimezone(UTC).isoformat(timespec="seconds").replace("+00:00", "Z")


@dataclass(slots=True)
class _Size:
    """What a database's size was and when, None while it was not looked at; how long was written since.

    `touched` is when either happened last.
    """

    bytes: int = 0
    at: datetime | None = None
    written_s: float = 0.0
    touched: datetime = EPOCH


@dataclass(frozen=True, slots=True)
class _Running:
    """A use that has not ended."""

    database_id: str
    start_us: int
    noted: Callable[[int], None]


@dataclass(slots=True)
class Metering:
    """Notes uses and sizes in memory; `flush` stores them, and on failure they stay noted.

    What runs is noted when it ends, and whenever `note_running` is called.
    """

    meter: SpanMeter[str]
    ledger: LedgerStore
    clock: Clock
    size_sample_s: float
    _server: str = field(default_factory=lambda: uuid.uuid4().hex)
    _sizes: dict[str, _Size] = field(default_factory=dict)  # touched longest ago first
    _unstored: dict[str, _Size] = field(default_factory=dict)
    _running: dict[int, _Running] = field(default_factory=dict)
    _storing: anyio.Lock = field(default_factory=anyio.Lock)

    def note(self, database_id: str, start: datetime, sent_bytes: int, *, wrote: bool) -> int:
        """A use from `start` until now; by how many microseconds the database is awake longer for it."""
        end = self.clock()
        began_us, ended_us = to_us(start), to_us(end)
        extra_us = self.meter.extra_us(database_id, began_us, ended_us)
        self.meter.note(database_id, began_us, ended_us, sent_bytes)
        if wrote:
            size = self._sizes[database_id] = self._sizes.pop(database_id, _Size())
            size.written_s += max(0.0, (end - start).total_seconds())
            size.touched = end
        return extra_us

    def wants_size(self, database_id: str) -> bool:
        """Whether it was written to since the size was seen, and that is long ago or much was written."""
        size = self._sizes.get(database_id)
        if size is None:
            return False
        age = None if size.at is None else (self.clock() - size.at).total_seconds()
        return age is None or size.written_s >= WRITING_S or (size.written_s > 0 and age >= self.size_sample_s)

    def note_size(self, database_id: str, size_bytes: int) -> None:
        """The size now."""
        now = self.clock()
        self._sizes.pop(database_id, None)
        self._sizes[database_id] = self._unstored[database_id] = _Size(size_bytes, now, touched=now)

    def size(self, database_id: str) -> tuple[int, datetime] | None:
        """The bytes that this server saw last, and when."""
        size = self._sizes.get(database_id)
        return (size.bytes, size.at) if size is not None and size.at is not None else None

    @contextmanager
    def running(
        self, database_id: str, noted: Callable[[int], None], woken: Callable[[], None]
    ) -> Iterator[Callable[[], None]]:
        """A use that begins once what is yielded is called, and goes on until the end of the block.

        `noted` is told by how much longer the database is awake for it whenever that was looked at, `woken` when it
        begins.
        """
        use = _Running(database_id, to_us(self.clock()), noted)

        def begin() -> None:
            self._running[id(use)] = use
            woken()

        try:
            yield begin
        finally:
            self._running.pop(id(use), None)

    def note_running(self) -> None:
        """What runs now, as if it had ended: whoever kills us does not make it free."""
        now_us = to_us(self.clock())
        for use in self._running.values():
            extra_us = self.meter.extra_us(use.database_id, use.start_us, now_us)
            self.meter.note(use.database_id, use.start_us, now_us)
            use.noted(extra_us)

    async def flush(self) -> None:
        """Store what is noted. Raises DatabaseUnavailable."""
        async with self._storing:
            batch = self.meter.take()
            hours: dict[tuple[str, int], MeteredHour] = {}
            for each in batch:
                spans = tuple((from_us(start), from_us(end)) for start, end in each.spans)
                hour = MeteredHour(each.key, from_us(each.hour_start_us), spans, each.sent_bytes_total)
                hours[each.key, each.hour_start_us] = hour
            sizes = dict(self._unstored)
            for key, size in sizes.items():
                at = size.at or EPOCH
                begin = at.replace(minute=0, second=0, microsecond=0)
                known = hours.get((key, to_us(begin)), MeteredHour(key, begin))
                hours[key, to_us(begin)] = replace(known, size_bytes=size.bytes, size_at=at)
            await self.ledger.store(self._server, list(hours.values()))
            self.meter.settle(batch)
            for key, size in sizes.items():
                if self._unstored[key] is size:
                    del self._unstored[key]
            self._forget_sizes()

    def _forget_sizes(self) -> None:
        """Of databases that nobody writes to any more."""
        before = self.clock() - timedelta(seconds=max(3600.0, self.size_sample_s))
        while self._sizes and (key := next(iter(self._sizes))) and self._sizes[key].touched < before:
            del self._sizes[key]
