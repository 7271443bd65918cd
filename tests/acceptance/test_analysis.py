"""explain_query and the search for indexes, as an agent calls them."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from tests.acceptance.conftest import Serve

FRAME = re.compile(r"<(untrusted-data-[0-9a-f]{16})>\n(.*)\n</\1>", re.DOTALL)
SQL = "SELECT * FROM visits WHERE visitor = 7 ORDER BY at DESC LIMIT 5"


@pytest.fixture(scope="module")
async def visits(agent: Serve) -> Serve:
    await agent.sql(
        "CREATE TABLE visits (id int PRIMARY KEY, visitor int, at timestamptz, page text)"
        " WITH (autovacuum_enabled = off)"  # whose sample would be another, and the costs with it
    )
    await agent.sql(
        "INSERT INTO visits SELECT n, n % 2000, '2026-01-01Z'::timestamptz + n * interval '1 s', 'p' || n"
        " FROM generate_series(1, 40000) AS n"
    )
    await agent.sql("ANALYZE visits")
    return agent


async def test_a_plan_comes_as_json_as_text_and_with_advice(visits: Serve) -> None:
    answer = await visits.call("explain_query", sql=SQL)
    assert answer.fields["plan"]["Plan"]["Node Type"] == "Limit"
    assert answer.fields["total_cost"] == answer.fields["plan"]["Plan"]["Total Cost"]
    assert "Seq Scan on public.visits" in answer.fields["plan_text"]
    assert any("An index on (visitor)" in hint for hint in answer.fields["advice"])
    framed = FRAME.search(answer.text)
    assert framed
    assert answer.fields["plan_text"] in framed[2]
    assert answer.fields["advice"][0] in framed[2]


async def test_an_agent_goes_from_a_slow_query_to_its_index(visits: Serve) -> None:
    advised = (await visits.call("analyze_query_indexes", queries=[SQL])).fields
    (one,) = advised["recommendations"]
    assert one["sql"] == 'CREATE INDEX ON "public"."visits" ("visitor", "at")'
    assert one["queries"] == [1]
    assert one["size_bytes"] > 100_000
    supposed = await visits.call(
        "explain_query",
        sql=SQL,
        hypothetical_indexes=[{"table": "visits", "columns": ["visitor", "at"], "schema": "public"}],
    )
    hypothetical = supposed.fields["hypothetical"]
    assert hypothetical["indexes"][0]["used"] is True
    assert hypothetical["cost_without"] == pytest.approx(one["cost_before"], abs=0.01)
    assert supposed.fields["total_cost"] == pytest.approx(one["cost_after"], abs=0.01)
    await visits.sql(one["sql"])
    real = await visits.call("explain_query", sql=SQL, analyze=True)
    assert real.fields["total_cost"] == pytest.approx(one["cost_after"], abs=0.01)
    assert real.fields["plan"]["Plan"]["Actual Rows"] == 5
    assert (await visits.call("analyze_query_indexes", queries=[SQL])).fields["recommendations"] == []
    await visits.sql("DROP INDEX visits_visitor_at_idx")


async def test_the_workload_is_searched_too(visits: Serve) -> None:
    for number in range(3):
        await visits.sql("SELECT count(*) FROM visits WHERE page = $1", f"p{number}")
    advised = (await visits.call("analyze_workload_indexes", max_index_size_mb=100)).fields
    assert 'CREATE INDEX ON "public"."visits" ("page")' in [one["sql"] for one in advised["recommendations"]]
    calls = {one["query"]: one["calls"] for one in advised["queries"]}
    assert calls["SELECT count(*) FROM visits WHERE page = $1"] == 3


async def test_values_and_the_other_database_are_taken(visits: Serve) -> None:
    assert "$1" in (await visits.call("explain_query", sql="SELECT * FROM visits WHERE id < $1")).text
    given = await visits.call("explain_query", sql="SELECT * FROM visits WHERE id < $1", params=[5])
    assert "visits.id < 5" in given.fields["plan_text"]
    elsewhere = await visits.call("explain_query", sql="SELECT * FROM visits", database="global")
    assert elsewhere.error["sqlstate"] == "42P01"


async def test_errors_say_what_was_wrong_and_what_to_do(visits: Serve) -> None:
    refused = await visits.call("explain_query", sql="DELETE FROM visits", analyze=True)
    assert refused.code == "statement_refused"
    assert "analyze" in refused.error["hint"]
    nowhere = await visits.call(
        "explain_query", sql="SELECT 1", hypothetical_indexes=[{"table": "visits", "columns": ["nothing"]}]
    )
    assert nowhere.code == "invalid_argument"
    assert "hypothetical_indexes[0].columns" in nowhere.error["message"]
    second = await visits.call("analyze_query_indexes", queries=["SELECT 1", "SELECT nothing FROM visits"])
    assert (second.code, second.error["position"]) == ("sql_error", 8)
    assert second.error["message"].startswith("Query 2: ")
    assert (await visits.sql("SELECT count(*) FROM visits")).rows == [[40000]]
