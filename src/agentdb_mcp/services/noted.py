"""What this server saw of a user's period that the bill does not count yet."""

from __future__ import annotations

from dataclasses import dataclass, field

from agentdb_mcp.services.bills import Bill
from agentdb_mcp.services.metering import Metering, to_us


@dataclass(slots=True)
class Noted:
    """Time awake, and byte × microseconds until the period ends by which storage grew.

    Notes are numbered. A bill counts all that was noted before its reading began, since that is stored first; of what
    was noted meanwhile it may count some: whatever else was stored just then.
    """

    awake_us: int = 0
    grown_us: int = 0
    _used: dict[str, int] = field(default_factory=dict)  # databases, each with the number of its last note
    _sized: dict[str, int] = field(default_factory=dict)

    def use(self, database_id: str, number: int, awake_us: int) -> None:
        self.awake_us += awake_us
        self._used[database_id] = number

    def growth(self, database_id: str, number: int, grown_us: int) -> None:
        self.grown_us += grown_us
        self._sized[database_id] = number

    def beyond(self, bill: Bill, began: int, metering: Metering, now_us: int) -> Noted:
        """What a bill does not count whose reading began before the note of that number."""
        noted = Noted(
            _used={key: number for key, number in self._used.items() if number > began},
            _sized={key: number for key, number in self._sized.items() if number > began},
        )
        start_us, left_us = to_us(bill.period_start), max(0, to_us(bill.period_end) - now_us)
        for key in noted._used:
            noted.awake_us += metering.meter.awake_after_us(key, max(start_us, bill.awake_until_us(key)))
        for key in noted._sized:
            noted.grown_us += (metering.size_bytes(key) - bill.size_bytes(key)) * left_us
        return noted
