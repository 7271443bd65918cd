"""What the gate adds to a call: microseconds for a statement that it has seen, and for an analytic one that it has not.

`make bench-gate` judges texts as the server does, with the policy as shipped: facts from the text (remembered by it),
then the decision. Beside it the same work of an empty loop. No database is involved.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterator
from itertools import count

from agentdb_mcp import gate
from agentdb_mcp.gate.classify import _remembered
from agentdb_mcp.models import AccessMode, BudgetState
from agentdb_mcp.policy import load_policy

ROUNDS, REPEATED, NEW = 5, 20_000, 300
WRITE = "INSERT INTO history (account, delta, at) VALUES ($1, $2, now()) RETURNING id"
POINT = "SELECT abalance FROM pgbench_accounts WHERE aid = $1"
# The shapes of reports: grouping, joins, subqueries, windows.
REPORTS = {
    "a grouped report": """
        SELECT returned, status, sum(quantity), sum(price), sum(price * (1 - discount)), avg(quantity), count(*)
          FROM line WHERE shipped <= date '1998-12-01' - interval '{n} days'
         GROUP BY returned, status ORDER BY returned, status""",
    "a join of six tables": """
        SELECT nation, year, sum(amount) AS profit FROM (
          SELECT n.name AS nation, extract(year FROM o.ordered) AS year,
                 l.price * (1 - l.discount) - s.cost * l.quantity AS amount
            FROM part AS p JOIN line AS l ON p.id = l.part JOIN supplier AS u ON u.id = l.supplier
            JOIN supply AS s ON s.supplier = l.supplier AND s.part = l.part
            JOIN orders AS o ON o.id = l.orders JOIN nation AS n ON n.id = u.nation
           WHERE p.name LIKE '%green%' AND o.id > {n}) AS profits
         GROUP BY nation, year ORDER BY nation, year DESC""",
    "windows over two CTEs": """
        WITH spent AS (SELECT account, date_trunc('month', at) AS month, sum(delta) AS delta FROM history
                        WHERE at > now() - interval '{n} days' GROUP BY 1, 2),
             ranked AS (SELECT *, rank() OVER (PARTITION BY month ORDER BY delta DESC) AS place,
                               sum(delta) OVER (PARTITION BY account ORDER BY month) AS running FROM spent)
        SELECT r.month, r.account, r.delta, r.running, lag(r.delta) OVER w AS before
          FROM ranked AS r WHERE place <= 10 AND NOT EXISTS (SELECT FROM closed AS c WHERE c.account = r.account)
        WINDOW w AS (PARTITION BY r.account ORDER BY r.month) ORDER BY month, place LIMIT 100""",
}
Judge = Callable[[str], object]


def judge() -> Judge:
    policy = load_policy(None)
    limits = gate.TextLimits.of(policy.limits)

    def decided(sql: str) -> object:
        facts = gate.classify(sql, limits)
        return gate.decide(facts, policy=policy, mode=AccessMode.UNRESTRICTED, budget=BudgetState.OK)

    return decided


def each(judged: Judge, texts: Iterator[str], number: int) -> list[float]:
    """Microseconds of each."""
    spent = []
    for _ in range(number):
        text = next(texts)
        started = time.perf_counter()
        judged(text)
        spent.append(1e6 * (time.perf_counter() - started))
    return spent


def show(name: str, spent: list[float]) -> None:
    p99 = statistics.quantiles(spent, n=100)[98]
    print(f"{name}: p50 {statistics.median(spent):,.1f} µs, p99 {p99:,.1f} µs ({len(spent):,} texts)")


def main() -> None:
    judged, numbers = judge(), count()
    for name, sql in {"SELECT 1": "SELECT 1", "a point query": POINT, "an INSERT": WRITE}.items():
        judged(sql)
        show(f"{name}, seen before", each(judged, iter(lambda sql=sql: sql, None), ROUNDS * REPEATED))
    for name, sql in ({"a point query": POINT.replace("$1", "{n}")} | REPORTS).items():
        texts = (sql.format(n=number) for number in numbers)
        each(judged, texts, 20)
        show(f"{name}, new", each(judged, texts, ROUNDS * NEW))
    print(f"remembered: {_remembered.cache_info().currsize} texts")


if __name__ == "__main__":
    main()
