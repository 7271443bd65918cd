"""Data like pgbench's, TPC-H's and a movie database's, made by Postgres in a second or two, and workloads on it."""

from __future__ import annotations

# Nothing but the tests changes what is known of the tables.
_OFF = "WITH (autovacuum_enabled = off)"

TABLES = (
    f"""CREATE TABLE accounts (aid int PRIMARY KEY, bid int NOT NULL, abalance int NOT NULL, filler char(40)) {_OFF}""",
    """INSERT INTO accounts SELECT n, n % 10, (n * 7919) % 20001 - 10000, '' FROM generate_series(1, 30000) AS n""",
    f"""CREATE TABLE history (tid int, bid int, aid int, delta int, mtime timestamptz) {_OFF}""",
    """INSERT INTO history SELECT n % 100, n % 10, (n * 31) % 30000, n % 500,
       '2026-01-01Z'::timestamptz + n * interval '1 minute' FROM generate_series(1, 30000) AS n""",
    f"""CREATE TABLE customer (c_custkey int PRIMARY KEY, c_name text, c_mktsegment text, c_nationkey int) {_OFF}""",
    """INSERT INTO customer SELECT n, 'Customer ' || n,
       (ARRAY['BUILDING','AUTOMOBILE','MACHINERY','HOUSEHOLD','FURNITURE'])[1 + n % 5], n % 25
       FROM generate_series(1, 5000) AS n""",
    f"""CREATE TABLE orders (o_orderkey int PRIMARY KEY, o_custkey int, o_orderstatus char(1), o_orderdate date,
       o_totalprice numeric, o_clerk text) {_OFF}""",
    """INSERT INTO orders SELECT n, 1 + (n * 7) % 5000, (ARRAY['O','F','P'])[1 + n % 3],
       '2020-01-01'::date + (n * 13) % 2400, (n * 37) % 500000 / 100.0, 'Clerk ' || (n * 11) % 1000
       FROM generate_series(1, 25000) AS n""",
    f"""CREATE TABLE lineitem (l_orderkey int, l_linenumber int, l_partkey int, l_quantity int, l_shipdate date,
       l_returnflag char(1), PRIMARY KEY (l_orderkey, l_linenumber)) {_OFF}""",
    """INSERT INTO lineitem SELECT 1 + n % 25000, n / 25000, (n * 17) % 4000, n % 50,
       '2020-01-01'::date + (n * 29) % 2500, (ARRAY['A','N','R'])[1 + n % 3] FROM generate_series(1, 60000) AS n""",
    f"""CREATE TABLE titles (tconst text, titletype text, primarytitle text, startyear int, genres text) {_OFF}""",
    """INSERT INTO titles SELECT 'tt' || lpad(n::text, 7, '0'),
       (ARRAY['movie','short','tvSeries','tvEpisode'])[1 + n % 4],
       'Title ' || (n * 7) % 15000, 1920 + (n * 3) % 105, (ARRAY['Drama','Comedy','Horror'])[1 + n % 3]
       FROM generate_series(1, 20000) AS n""",
    f"""CREATE TABLE ratings (tconst text, averagerating numeric(3, 1), numvotes int) {_OFF}""",
    """INSERT INTO ratings SELECT 'tt' || lpad(n::text, 7, '0'), 1 + (n * 7 % 90) / 10.0, (n * 97) % 30000
       FROM generate_series(1, 20000) AS n""",
    "ANALYZE accounts, history, customer, orders, lineitem, titles, ratings",
)

# Of each workload its statements, and how indexes that are to be found for it begin.
WORKLOADS: dict[str, tuple[list[str], set[str]]] = {
    "pgbench: history of an account": (
        ["SELECT count(*), sum(delta) FROM history WHERE aid = 3100"],
        {"history(aid)"},
    ),
    "pgbench: latest of a branch and teller": (
        ["SELECT * FROM history WHERE bid = 3 AND tid = 13 ORDER BY mtime DESC LIMIT 10"],
        {"history(tid)"},
    ),
    "pgbench: the richest": (
        ["SELECT aid, abalance FROM accounts ORDER BY abalance DESC LIMIT 20"],
        {"accounts(abalance)"},
    ),
    "pgbench: update by another column": (
        ["UPDATE accounts SET abalance = abalance + 1 WHERE bid = 3 AND abalance = 77"],
        {"accounts(abalance)"},
    ),
    "pgbench: a time range": (
        ["SELECT bid, sum(delta) FROM history WHERE mtime >= '2026-02-01Z' AND mtime < '2026-02-02Z' GROUP BY bid"],
        {"history(mtime)"},
    ),
    "TPC-H: orders of a customer": (
        ["SELECT * FROM orders WHERE o_custkey = 42 ORDER BY o_orderdate DESC LIMIT 5"],
        {"orders(o_custkey)"},
    ),
    "TPC-H: shipping dates": (
        ["SELECT l_returnflag, sum(1) FROM lineitem WHERE l_shipdate BETWEEN '2022-03-01' AND '2022-03-05' GROUP BY 1"],
        {"lineitem(l_shipdate)"},
    ),
    "TPC-H: join by part": (
        [
            """SELECT o.o_orderkey, o.o_orderdate, l.l_quantity FROM lineitem AS l JOIN orders AS o
               ON o.o_orderkey = l.l_orderkey WHERE l.l_partkey = 1234 ORDER BY o.o_orderdate"""
        ],
        {"lineitem(l_partkey)"},
    ),
    "TPC-H: a customer by name with orders": (
        [
            """SELECT c.c_name, sum(o.o_totalprice) FROM customer AS c JOIN orders AS o ON o.o_custkey = c.c_custkey
               WHERE c.c_name = 'Customer 77' GROUP BY c.c_name"""
        ],
        {"orders(o_custkey)"},
    ),
    "TPC-H: clerk and day": (
        ["SELECT * FROM orders WHERE o_clerk = 'Clerk 55' AND o_orderdate > '2025-06-01'"],
        {"orders(o_clerk)"},
    ),
    "movies: one title with its rating": (
        [
            """SELECT t.primarytitle, r.averagerating FROM titles AS t JOIN ratings AS r ON r.tconst = t.tconst
               WHERE t.primarytitle = 'Title 4711'"""
        ],
        {"titles(primarytitle)", "ratings(tconst)"},
    ),
    "movies: best known": (
        ["SELECT tconst, averagerating FROM ratings WHERE numvotes > 29900 ORDER BY averagerating DESC LIMIT 10"],
        {"ratings("},
    ),
    "movies: of a kind and year": (
        ["SELECT primarytitle FROM titles WHERE titletype = 'movie' AND startyear = 1999"],
        {"titles(startyear)"},
    ),
    "movies: titles that exist": (
        ["""SELECT count(*) FROM titles AS t WHERE t.startyear = 1995 AND EXISTS
               (SELECT FROM ratings AS r WHERE r.tconst = t.tconst AND r.numvotes > 25000)"""],
        {"titles(startyear)"},
    ),
    "several: what they share": (
        [
            "SELECT * FROM orders WHERE o_custkey = 7",
            "SELECT * FROM orders WHERE o_custkey = 8 AND o_orderstatus = 'F'",
            "SELECT count(*) FROM history WHERE aid = 9",
        ],
        {"orders(o_custkey)", "history(aid)"},
    ),
}  # fmt: skip
