"""Tables as files."""

from __future__ import annotations

from agentdb_mcp.models import Column
from agentdb_mcp.web.exporting import _csv, _json


def test_csv_tells_null_from_an_empty_text_and_quotes_what_must_be() -> None:
    assert _csv([[None, "", 'a "b", c', "x\ny", True, 1.5, [1, None], {"k": "ü"}]]) == (
        ',"","a ""b"", c","x\ny",true,1.5,"[1,null]","{""k"":""ü""}"\r\n'
    )


def test_json_portions_make_one_array() -> None:
    columns = (Column("a", "integer"),)
    text = "[" + _json(columns, [[1], [2]], first=True) + _json(columns, [], first=False)
    assert text + _json(columns, [[3]], first=False) == '[\n{"a":1},\n{"a":2},\n{"a":3}'
