"""What of a URI reaches the driver."""

from __future__ import annotations

import pytest

from agentdb_mcp.connection_uri import for_driver
from agentdb_mcp.models import Secret

BASE = "postgresql://u:p%40%3F@ep-cool.neon.tech/db"


@pytest.mark.parametrize(
    ("given", "taken"),
    [
        ("", ""),
        ("?sslmode=disable", "?sslmode=disable"),
        ("?sslmode=require&channel_binding=require", "?sslmode=require"),
        ("?channel_binding=require&sslmode=verify-full", "?sslmode=verify-full"),
        (
            "?sslmode=verify-ca&channel%5Fbinding=require&options=endpoint%3Dep",
            "?sslmode=verify-ca&options=endpoint%3Dep",
        ),
        ("?channel_binding=require", "?sslmode=require"),
        ("?sslmode=disable&channel_binding=require", "?sslmode=require"),
        ("?sslmode=prefer&channel_binding=require&application_name=a", "?application_name=a&sslmode=require"),
        ("?channel_binding=prefer", ""),
        ("?channel_binding=disable&sslmode=allow", "?sslmode=allow"),
    ],
)
def test_channel_binding_does_not_reach_the_driver_and_what_requires_it_is_encrypted(given: str, taken: str) -> None:
    assert for_driver(Secret(BASE + given)) == BASE + taken


@pytest.mark.parametrize("text", ["postgresql://u:p@h1:1,h2:2/db?sslmode=require", "postgresql://[bad/db", "nonsense"])
def test_what_it_has_nothing_to_do_with_stays_as_it_was_written(text: str) -> None:
    assert for_driver(Secret(text)) == text
