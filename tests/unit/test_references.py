"""References stand for values and are never taken for one."""

from __future__ import annotations

import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agentdb_mcp.credentials.references import (
    AGENT_REFERENCE,
    GLOBAL_REFERENCE,
    is_own_reference,
    is_unresolved,
    resolve,
)

VARIABLES = {"A": "1", "HOST": "db.example", "EMPTY": "", "LOOP": "${LOOP}", "OTHER": "{{A}}", "my-var.x": "2"}


@pytest.mark.parametrize(
    ("value", "answer"),
    [
        ("${NAME}", True),
        ("{{NAME}}", True),
        ("{{ NAME }}", True),
        ("${ NAME }", True),
        ("  ${NAME}  ", True),
        ("postgresql://u:${PASSWORD}@{{HOST}}/db", True),
        ("${NAME:-fallback}", True),
        ("{{{NAME}}}", True),
        ("${}", True),
        ("", False),
        ("NAME", False),
        ("$NAME", False),
        ("{NAME}", False),
        ("${NAME", False),
        ("{{NAME}", False),
        ("postgresql://user:pa$$@host/db", False),
        ("agentdb://agent", False),
    ],
)
def test_a_reference_left_in_a_value_is_seen(value: str, answer: bool) -> None:
    assert is_unresolved(value) is answer


@pytest.mark.parametrize(
    ("value", "answer"),
    [
        ("plain", "plain"),
        ("", ""),
        ("${A}", "1"),
        ("{{A}}", "1"),
        ("{{ A }}${ A }", "11"),
        ("postgresql://{{HOST}}:${A}/db", "postgresql://db.example:1/db"),
        ("[{{EMPTY}}]", "[]"),
        ("{{my-var.x}}", "2"),
        ("${LOOP}", "${LOOP}"),
        ("${OTHER}", "{{A}}"),
        ("${A", "${A"),
        ("${MISSING}", None),
        ("${A}{{MISSING}}", None),
        ("${a}", None),
        ("${}", None),
    ],
)
def test_references_are_replaced_once_or_the_value_is_missing(value: str, answer: str | None) -> None:
    assert resolve(value, VARIABLES) == answer


def test_values_put_side_by_side_do_not_become_a_reference_that_is_expanded() -> None:
    assert resolve("${OPEN}A}}", {"OPEN": "{{", "A": "1"}) == "{{A}}"


@settings(deadline=None)
@given(st.text(alphabet="ab${} "))
def test_a_value_is_missing_or_changed_only_where_a_reference_was(value: str) -> None:
    assert is_unresolved(value) or resolve(value, {}) == value
    assert not is_unresolved(value) or resolve(value, {}) is None


@pytest.mark.parametrize(
    ("value", "answer"),
    [
        (AGENT_REFERENCE, True),
        (GLOBAL_REFERENCE, True),
        (" agentdb://agent\n", True),
        ("agentdb://other", False),
        ("agentdb://agent/x", False),
        ("postgresql://agentdb://agent", False),
        ("", False),
    ],
)
def test_our_own_references_are_known_exactly(value: str, answer: bool) -> None:
    assert is_own_reference(value) is answer


@pytest.mark.parametrize("unit", ["${", "{{", "$", "{", "${a", "{{a ", "${ ", "{{}", "}", "${a}"])
def test_hostile_text_takes_linear_time(unit: str) -> None:
    hostile = unit * (2_000_000 // len(unit))
    started = time.process_time()
    is_unresolved(hostile)
    resolve(hostile, {"a": ""})
    assert time.process_time() - started < 5
