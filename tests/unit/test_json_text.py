"""One member of somebody else's JSON changes; all other bytes stay."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentdb_mcp.store.json_text import remove_member, set_member

ODD = '{ "b" : 1.10 ,\n"a\\u0000\\ud800": {"URL":"x"}, "big":12345678901234567890123, "b":[ ] }'

scalars = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text()
values = st.recursive(scalars, lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner), max_leaves=6)
objects = st.dictionaries(st.text(), values)
layouts = st.sampled_from([{}, {"indent": 2}, {"separators": (",", ":")}, {"ensure_ascii": False}])


def test_a_new_member_comes_last_and_nothing_else_moves() -> None:
    assert set_member("{}", "URL", "v") == '{"URL":"v"}'
    assert set_member(" {\n} ", "URL", "v") == ' {"URL":"v"\n} '
    assert set_member(ODD, "URL", "v") == ODD[:-2] + ',"URL":"v" }'


def test_a_known_member_changes_in_its_place() -> None:
    assert set_member('{"a":1, "URL" : "old" ,"z":2}', "URL", 'n"w') == '{"a":1, "URL" : "n\\"w" ,"z":2}'


def test_of_several_with_one_key_the_last_is_changed_since_it_counts() -> None:
    assert set_member('{"URL":1,"URL":2}', "URL", "v") == '{"URL":1,"URL":"v"}'


@pytest.mark.parametrize(
    ("text", "left"),
    [
        ('{"URL":1}', "{}"),
        ('{"URL":1, "a":2}', '{"a":2}'),
        ('{"a":2, "URL":1 }', '{"a":2 }'),
        ('{"a":2 , "URL":1,"z": 3}', '{"a":2 , "z": 3}'),
        ('{"URL":1,"a":{"URL":2},"URL":3}', '{"a":{"URL":2}}'),
        (ODD, ODD),
    ],
)
def test_a_member_goes_with_its_comma(text: str, left: str) -> None:
    assert remove_member(text, "URL") == left


@pytest.mark.parametrize("text", ["null", "[]", '"x"', "", " 7"])
def test_what_is_no_object_is_left_alone(text: str) -> None:
    with pytest.raises(ValueError, match="object"):
        set_member(text, "URL", "v")
    with pytest.raises(ValueError, match="object"):
        remove_member(text, "URL")


@given(objects, layouts, st.text(), st.text())
def test_any_object_keeps_all_others(given: dict[str, object], layout: dict[str, object], key: str, new: str) -> None:
    text = json.dumps(given, **layout)  # type: ignore[arg-type]
    assert json.loads(set_member(text, key, new)) == given | {key: new}
    assert list(json.loads(set_member(text, key, new))) == list(given | {key: new})
    assert json.loads(remove_member(text, key)) == {name: value for name, value in given.items() if name != key}
    if key not in given:
        assert remove_member(set_member(text, key, new), key) == text
