"""Which index to choose next, from what plans cost with each and without. Costs are Postgres's, of one run."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from agentdb_mcp.advice.indexes import Index

# What an index must take off a query's cost to be worth its writes and its space.
USEFUL_SHARE = 0.10
# And at least so much, about ten pages read in order: estimates that low say nothing.
USEFUL_COST = 10.0
# An index that gains this part of what the best one does is as good, and the smaller one is chosen.
_AS_GOOD = 0.95

Costs = Mapping[int, float]  # by the number of the query


@dataclass(frozen=True, slots=True)
class Trial:
    """What queries cost with one more index, for those that it could help; and that index's size."""

    index: Index
    costs: Costs
    size_bytes: int

    def gain(self, now: Costs, weights: Costs) -> float:
        return sum(weights[query] * (now[query] - cost) for query, cost in self.costs.items())

    def helps(self, now: Costs) -> list[int]:
        """The queries that it takes a useful share off."""
        return [query for query, cost in self.costs.items() if _worth_it(now[query], cost)]


def useful(trials: Iterable[Trial], now: Costs) -> list[Trial]:
    return [trial for trial in trials if trial.helps(now)]


def best(trials: Iterable[Trial], now: Costs, weights: Costs, left_bytes: int) -> Trial | None:
    """The trial that gains most in the space that is left; of those that are about as good, the smallest."""
    fitting = [trial for trial in useful(trials, now) if trial.size_bytes <= left_bytes]
    gains = [(trial.gain(now, weights), trial) for trial in fitting]
    most = max((gain for gain, _ in gains), default=0.0)
    if most <= 0:
        return None
    as_good = [trial for gain, trial in gains if gain >= most * _AS_GOOD]
    return min(as_good, key=lambda trial: (trial.size_bytes, len(trial.index.keys), trial.index.sql()))


def superfluous(without: Mapping[Index, Costs], now: Costs) -> Index | None:
    """Of chosen indexes the first that no query would miss a useful share without."""
    for index, costs in without.items():
        if not any(_worth_it(cost, now[query]) for query, cost in costs.items()):
            return index
    return None


def _worth_it(without: float, with_it: float) -> bool:
    return without - with_it >= max(USEFUL_COST, without * USEFUL_SHARE)
