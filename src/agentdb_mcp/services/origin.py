"""Where a call comes from, for the audit log.

An edge that knows more than the default says so for the time of a call (`acting_as`), or for the rest of a task that
serves one request (`act_as`): the tasks that it begins inherit it.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from contextvars import ContextVar
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Origin:
    """`source` is mcp, rest, explorer or cli; `principal` a token's id, `service` or `stdio`; `tool` or the route."""

    source: str = "mcp"
    principal: str = "stdio"
    tool: str | None = None


STDIO = Origin()
_CURRENT: ContextVar[Origin] = ContextVar("agentdb_origin", default=STDIO)


def current_origin() -> Origin:
    return _CURRENT.get()


def act_as(origin: Origin) -> None:
    """For the rest of this task."""
    _CURRENT.set(origin)


@contextmanager
def acting_as(origin: Origin) -> Iterator[None]:
    """For the time of the block."""
    token = _CURRENT.set(origin)
    try:
        yield
    finally:
        _CURRENT.reset(token)


def using_tool(name: str) -> AbstractContextManager[None]:
    """For the time of the block, what calls is this tool, wherever it comes from."""
    here = _CURRENT.get()
    return acting_as(Origin(here.source, here.principal, name))
