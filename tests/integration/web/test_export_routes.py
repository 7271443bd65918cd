"""Tables as files over real HTTP: whole, or visibly not."""

from __future__ import annotations

import csv
import io

import httpx
import pytest
from platform_side import Owner, error_of


async def run(http: httpx.AsyncClient, owner: Owner, sql: str) -> None:
    answer = await http.post(f"{owner.agent}/execute", json={"sql": sql})
    assert answer.status_code == 200, answer.text


async def test_a_table_is_exported_whole_in_both_forms(explorer: httpx.AsyncClient, owner: Owner) -> None:
    await run(
        explorer, owner, "CREATE TABLE whole AS SELECT i AS id, 'row \"' || i AS t FROM generate_series(1, 5000) i"
    )
    as_csv = await explorer.get(f"{owner.agent}/export", params={"table": "whole"})
    assert as_csv.headers["content-type"] == "text/csv; charset=utf-8"
    assert "attachment" in as_csv.headers["content-disposition"]
    assert list(csv.reader(io.StringIO(as_csv.text))) == [
        ["id", "t"],
        *([str(i), f'row "{i}'] for i in range(1, 5001)),
    ]
    as_json = await explorer.get(f"{owner.agent}/export", params={"table": "whole", "format": "json"})
    assert as_json.headers["content-type"] == "application/json"
    assert as_json.json() == [{"id": i, "t": f'row "{i}'} for i in range(1, 5001)]


@pytest.mark.parametrize("form", ["csv", "json"])
async def test_an_empty_table_is_a_file_too(explorer: httpx.AsyncClient, owner: Owner, form: str) -> None:
    await run(explorer, owner, f"CREATE TABLE empty_{form} (id int)")
    answer = await explorer.get(f"{owner.agent}/export", params={"table": f"empty_{form}", "format": form})
    assert answer.text.split() == {"csv": ["id"], "json": ["[", "]"]}[form]


async def test_what_fails_before_the_first_row_is_an_error_as_any_other(
    explorer: httpx.AsyncClient, owner: Owner
) -> None:
    answer = await explorer.get(f"{owner.agent}/export", params={"table": "missing"})
    assert error_of(answer, 422)["sqlstate"] == "42P01"


async def test_what_fails_half_way_does_not_look_like_the_end(explorer: httpx.AsyncClient, owner: Owner) -> None:
    await run(explorer, owner, "CREATE VIEW failing AS SELECT 1 / (4000 - i) AS n FROM generate_series(1, 9000) AS i")
    with pytest.raises(httpx.RemoteProtocolError, match="incomplete"):
        await explorer.get(f"{owner.agent}/export", params={"table": "failing"})
