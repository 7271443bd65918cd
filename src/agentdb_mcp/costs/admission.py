"""Whether a budget pays for one more statement, and for how long it may run.

A use of a database keeps its compute awake for the suspend timeout after it, so what a statement costs is the awake
time that it adds, that tail included. Money is micro-cents, time microseconds.
"""

from __future__ import annotations

from dataclasses import dataclass

from agentdb_mcp.costs.pricing import FOREVER_US, Prices, affordable_us
from agentdb_mcp.models import BudgetState


@dataclass(frozen=True, slots=True)
class Lines:
    """The totals from which each state begins."""

    warning: int
    exceeded: int
    paused: int

    @classmethod
    def of(cls, limit: int, *, warning_percent: int, exceeded_percent: int, paused_percent: int) -> Lines:
        """Rounded up: 80 % of a limit begins at the first whole micro-cent that is as much."""
        return cls(*(-(-limit * percent // 100) for percent in (warning_percent, exceeded_percent, paused_percent)))


@dataclass(frozen=True, slots=True)
class Position:
    """Where a user's period stands.

    `used` so far; `committed` is what storage of today's size will cost until the period ends; `reserved` is what
    statements that run now may use.
    """

    used: int
    committed: int = 0
    reserved: int = 0


@dataclass(frozen=True, slots=True)
class Grant:
    """A state to judge the statement by, and how long it may run; `reclaim_only` where nothing but space may go."""

    state: BudgetState
    us: int
    reclaim_only: bool = False


def state_of(position: Position, lines: Lines) -> BudgetState:
    """Stored data alone exceeds a budget before it is spent, so that it can be removed; it does not pause."""
    if position.used >= lines.paused:
        return BudgetState.PAUSED
    if position.used + position.committed >= lines.exceeded:
        return BudgetState.EXCEEDED
    if position.used + position.committed >= lines.warning:
        return BudgetState.WARNING
    return BudgetState.OK


def admit(
    position: Position, lines: Lines, prices: Prices, mcu: int, *, wanted_us: int, least_us: int, spare_us: int
) -> Grant:
    """The mildest state in which the statement can be paid for, for `least_us` or longer.

    `spare_us` is how long it may run without adding awake time: what others have paid for, less its own tail; negative
    where the tail is new.
    """

    def running_us(line: int, committed: int) -> int:
        free = affordable_us(line - position.used - committed - position.reserved, mcu, prices)
        return wanted_us if free == FOREVER_US else min(wanted_us, free + spare_us)

    state = state_of(position, lines)
    if state is BudgetState.PAUSED:
        return Grant(state, 0)
    if state is not BudgetState.EXCEEDED and (us := running_us(lines.exceeded, position.committed)) >= least_us:
        return Grant(state, us)
    if (us := running_us(lines.paused, position.committed)) >= least_us:
        return Grant(BudgetState.EXCEEDED, us)
    if position.committed and (us := running_us(lines.paused, 0)) >= least_us:
        return Grant(BudgetState.EXCEEDED, us, reclaim_only=True)
    return Grant(BudgetState.PAUSED, 0)
