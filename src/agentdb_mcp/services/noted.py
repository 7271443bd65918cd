"""What this server saw of a user's period that the bill does not count yet."""

from __future__ import annotations

from dataclasses import dataclass, field

from agentdb_mcp.services.bills import Bill
from agentdb_mcp.services.metering import Metering, to_us


@dataclass(slots=True)
class Noted:
    """Time awake, and byte × microseconds until the period ends by which storage is beyond what the bill knows.

    Each note names the reading of bills that had begun last. A bill counts all that was noted before its own reading
    began, since that is stored first; of what was noted after that it may count some: whatever else was stored just
    then, by this server or another.
    """

    awake_us: int = 0
    grown_us: int = 0
    _awake: dict[str, dict[int, int]] = field(default_factory=dict)  # by database and reading
    _grown: dict[str, tuple[int, int]] = field(default_factory=dict)  # by database: the reading, and all of it

    def use(self, database_id: str, reading: int, awake_us: int) -> None:
        """A use by which the database is awake so much longer."""
        notes = self._awake.setdefault(database_id, {})
        notes[reading] = notes.get(reading, 0) + awake_us
        self.awake_us += awake_us

    def growth(self, database_id: str, reading: int, grown_us: int) -> None:
        """All by which the database is larger than the bill knows, in the place of what was noted of it before."""
        self.grown_us += grown_us - self._grown.get(database_id, (0, 0))[1]
        self._grown[database_id] = reading, grown_us

    def beyond(self, bill: Bill, began: int, metering: Metering, now_us: int) -> Noted:
        """What a bill does not count that is of the reading `began`."""
        noted = Noted()
        start_us = to_us(bill.period_start)
        for key, notes in self._awake.items():
            if since := {reading: us for reading, us in notes.items() if reading >= began}:
                unknown_us = metering.meter.awake_after_us(key, max(start_us, bill.awake_until_us(key)))
                noted.use(key, max(since), min(unknown_us, sum(since.values())))
        for key, (reading, _) in self._grown.items():
            if reading >= began:
                noted.growth(key, reading, growth_us(key, bill, metering, now_us))
        return noted


def growth_us(database_id: str, bill: Bill, metering: Metering, now_us: int) -> int:
    """Byte × microseconds until the period ends by which this server saw the database larger, if it looked later."""
    seen, known = metering.size(database_id), bill.usage(database_id)
    if seen is None or (known is not None and known.size_at is not None and known.size_at >= seen[1]):
        return 0
    grown_bytes = seen[0] - (known.size_bytes if known is not None else 0)
    return grown_bytes * max(0, to_us(bill.period_end) - now_us)
