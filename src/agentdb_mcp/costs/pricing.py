"""Usage × price, in whole micro-cents (1 cent = 1,000,000). A cost is a function of totals, rounded once."""

from __future__ import annotations

from dataclasses import dataclass

from agentdb_mcp.models import Quantities
from agentdb_mcp.policy import PriceBook, to_microcents

MICROCENTS_PER_CENT = 1_000_000
MICROCENTS_PER_DOLLAR = 100 * MICROCENTS_PER_CENT
_GB = 1_000_000_000
_HOUR_US = 3_600_000_000
_MONTH_US = 744 * _HOUR_US
_MCU_HOURS_US = 1000 * _HOUR_US
# The least common denominator of all prices' units, so that their exact sum is one integer over it.
_DENOMINATOR = _GB * _MONTH_US

# What compute that costs nothing may run for: three hundred thousand years.
FOREVER_US = 2**63 - 1


@dataclass(frozen=True, slots=True)
class Prices:
    """Micro-cents for each unit (facts: neon §2); a book has 8 decimals of a dollar at most, so they are exact."""

    compute_per_cu_hour: int
    storage_per_gb_month: int
    history_per_gb_month: int
    egress_per_gb: int
    egress_free_bytes: int
    branch_month: int

    @classmethod
    def of(cls, book: PriceBook) -> Prices:
        return cls(
            compute_per_cu_hour=to_microcents(book.compute_per_cu_hour),
            storage_per_gb_month=to_microcents(book.storage_per_gb_month),
            history_per_gb_month=to_microcents(book.history_per_gb_month),
            egress_per_gb=to_microcents(book.egress_per_gb),
            egress_free_bytes=book.egress_free_gb * _GB,
            branch_month=to_microcents(book.branch_month),
        )


def cost_microcents(used: Quantities, prices: Prices) -> int:
    """What one project's totals of one period cost; the exact sum, rounded half even."""
    return _rounded(_exact(used, prices))


def compute_microcents(mcu_us: int, prices: Prices) -> int:
    """What compute costs that is all there is: `cost_microcents` for what is judged with every call."""
    return _rounded(mcu_us * prices.compute_per_cu_hour * (_DENOMINATOR // _MCU_HOURS_US))


def storage_microcents(byte_us: int, prices: Prices) -> int:
    """As `compute_microcents`, of storage."""
    return _rounded(byte_us * prices.storage_per_gb_month)


def month_microcents(size_bytes: int, prices: Prices) -> int:
    """What keeping so many bytes for a month of 744 hours costs."""
    return storage_microcents(size_bytes * _MONTH_US, prices)


def affordable_us(microcents: int, mcu: int, prices: Prices) -> int:
    """How long compute of `mcu` milli-CU may run for so much; FOREVER_US where it costs nothing."""
    each = mcu * prices.compute_per_cu_hour
    return min(max(0, microcents) * _MCU_HOURS_US // each, FOREVER_US) if each else FOREVER_US


def _exact(used: Quantities, prices: Prices) -> int:
    """Micro-cents over `_DENOMINATOR`."""
    paid_bytes = max(0, used.egress_bytes - prices.egress_free_bytes)
    return (
        used.compute_mcu_us * prices.compute_per_cu_hour * (_DENOMINATOR // _MCU_HOURS_US)
        + used.storage_byte_us * prices.storage_per_gb_month
        + used.history_byte_us * prices.history_per_gb_month
        + paid_bytes * prices.egress_per_gb * (_DENOMINATOR // _GB)
        + used.branch_us * prices.branch_month * (_DENOMINATOR // _MONTH_US)
    )


def _rounded(numerator: int) -> int:
    """Half even."""
    whole, rest = divmod(numerator, _DENOMINATOR)
    return whole + (2 * rest > _DENOMINATOR or (2 * rest == _DENOMINATOR and whole % 2))
