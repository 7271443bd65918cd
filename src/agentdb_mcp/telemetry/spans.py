"""The seam: spans that are nothing until somebody collects them."""

from __future__ import annotations

import functools
from collections.abc import Awaitable, Callable, Iterator, Mapping
from contextlib import contextmanager
from types import MappingProxyType, TracebackType
from typing import Any, Literal, ParamSpec, Protocol, Self, TypeVar

Kind = Literal["internal", "server", "client"]
Attributes = Mapping[str, str | int | float | bool | tuple[str, ...]]

NONE: Attributes = MappingProxyType({})

P = ParamSpec("P")
R = TypeVar("R")


class Span:
    """One step, for the time of its block. This one is nothing; a backend's is recorded.

    An exception that leaves the block is told by its code or its type, never by its message.
    """

    __slots__ = ()
    recording = False

    def set(self, attributes: Attributes) -> None:
        """Add to what is known of it."""

    def rename(self, name: str) -> None:
        """By what is known now."""

    def fail(self, code: str) -> None:
        """It went wrong, as `error.type` says."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, frames: TracebackType | None
    ) -> None:
        return None


class Backend(Protocol):
    """Whoever records spans."""

    def start(self, name: str, kind: Kind, attributes: Attributes, traceparent: str | None) -> Span:
        """A span whose parent is the current one, or what the `traceparent` names if it can be read."""
        ...


_NOTHING = Span()
_backend: Backend | None = None


def span(name: str, kind: Kind = "internal", attributes: Attributes = NONE, traceparent: str | None = None) -> Span:
    """A step, to be entered; what costs something to find out is `set` where `recording`."""
    if _backend is None:
        return _NOTHING
    return _backend.start(name, kind, attributes, traceparent)


class _Traced(Protocol):
    def __call__(self, work: Callable[P, Awaitable[R]], /) -> Callable[P, Awaitable[R]]: ...


def traced(
    name: str,
    kind: Kind = "internal",
    attributes: Attributes = NONE,
    *,
    told: Callable[[Span, Any], object] | None = None,
) -> _Traced:
    """A coroutine function that is a step: `told` adds what its result says."""

    def wrap(work: Callable[P, Awaitable[R]]) -> Callable[P, Awaitable[R]]:
        async def recorded(*args: P.args, **kwargs: P.kwargs) -> R:
            with span(name, kind, attributes) as step:
                result = await work(*args, **kwargs)
                if told is not None:
                    told(step, result)
                return result

        @functools.wraps(work)
        def begin(*args: P.args, **kwargs: P.kwargs) -> Awaitable[R]:
            return work(*args, **kwargs) if _backend is None else recorded(*args, **kwargs)

        return begin

    return wrap


@contextmanager
def collecting(backend: Backend) -> Iterator[None]:
    """For the time of the block, spans of this process are the backend's."""
    global _backend
    before, _backend = _backend, backend
    try:
        yield
    finally:
        _backend = before
