"""Faults on request: which calls fail, how, and whether what they asked for has happened all the same."""

from __future__ import annotations

import fnmatch
import itertools
import math
import random
from collections import deque
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

from agentdb_mcp.neon_emulator.bodies import Fields
from agentdb_mcp.neon_emulator.clock import Clock
from agentdb_mcp.neon_emulator.errors import ApiError, bad_request

LONGEST_DELAY_S = 3600.0
MINUTE = timedelta(minutes=1)


@dataclass(slots=True)
class Fault:
    """For calls of this method and path (`*` matches anything); `times` or `probability` say how often.

    `effect` says whether the call does its work before it fails. `drop` closes the connection without an answer.
    """

    id: int
    method: str
    path: str
    status: int | None
    message: str
    code: str
    headers: dict[str, str]
    drop: bool
    effect: bool
    delay_before: float
    delay_after: float
    times: int | None
    probability: float
    seed: int
    chance: random.Random = field(repr=False)
    hits: int = 0

    def strikes(self, method: str, path: str) -> bool:
        if self.method not in ("*", method) or not fnmatch.fnmatchcase(path, self.path):
            return False
        if (self.times is not None and self.hits >= self.times) or self.chance.random() >= self.probability:
            return False
        self.hits += 1
        return True

    def as_error(self) -> ApiError | None:
        return ApiError(self.status, self.message, self.code, self.headers) if self.status is not None else None

    def as_fields(self) -> Fields:
        names = ("id", "method", "path", "status", "message", "code", "headers", "drop", "effect", "delay_before")
        more = ("delay_after", "times", "probability", "seed", "hits")
        return {name: getattr(self, name) for name in names + more}


class Faults:
    """In the order of their making; the first that strikes is the one."""

    def __init__(self) -> None:
        self.all: list[Fault] = []
        self._numbers = itertools.count(1)

    def strike(self, method: str, path: str) -> Fault | None:
        return next((fault for fault in self.all if fault.strikes(method, path)), None)

    def add(self, body: Fields) -> Fault:
        status = _read(body, "status", (int,), None)
        if status is not None and not 400 <= status <= 599:
            raise bad_request("`status` must be from 400 to 599")
        seed = _read(body, "seed", (int,), 0)
        effect = _read(body, "effect", (bool,), False)
        drop = _read(body, "drop", (bool,), False)
        fault = Fault(
            id=next(self._numbers),
            method=_read(body, "method", (str,), "*").upper(),
            path=_read(body, "path", (str,), "*"),
            status=status,
            message=_read(body, "message", (str,), "a fault that was asked for"),
            code=_read(body, "code", (str,), ""),
            headers={str(key): str(value) for key, value in _read(body, "headers", (dict,), {}).items()},
            drop=drop,
            # A fault that only delays lets the call do its work.
            effect=effect or (status is None and not drop),
            delay_before=_delay(body, "delay_before"),
            delay_after=_delay(body, "delay_after"),
            times=_read(body, "times", (int,), None),
            probability=_read(body, "probability", (int, float), 1.0),
            seed=seed,
            chance=random.Random(seed),
        )
        self.all.append(fault)
        return fault

    def remove(self, identifier: int | None = None) -> None:
        """One of them, or all."""
        self.all = [fault for fault in self.all if identifier not in (None, fault.id)]


def _read(body: Fields, key: str, kinds: tuple[type, ...], default: Any) -> Any:  # noqa: ANN401
    value = body.get(key)
    if value is None:
        return default
    if not isinstance(value, kinds) or (isinstance(value, bool) and bool not in kinds):
        raise bad_request(f"`{key}` is of the wrong type")
    return value


def _delay(body: Fields, key: str) -> float:
    seconds = float(_read(body, key, (int, float), 0.0))
    if not 0 <= seconds <= LONGEST_DELAY_S:
        raise bad_request(f"`{key}` must be from 0 to {LONGEST_DELAY_S} seconds")
    return seconds


class RateLimit:
    """At most so many calls in any minute; None is no limit."""

    def __init__(self, clock: Clock, per_minute: int | None) -> None:
        self._clock = clock
        self.per_minute = per_minute
        self._calls: deque[datetime] = deque()

    def check(self) -> None:
        if self.per_minute is None:
            return
        now = self._clock.now()
        while self._calls and self._calls[0] <= now - MINUTE:
            self._calls.popleft()
        if len(self._calls) >= self.per_minute:
            wait = (self._calls[0] + MINUTE - now).total_seconds() if self._calls else 60
            raise ApiError(429, "rate limit exceeded, try again later", headers={"Retry-After": str(math.ceil(wait))})
        self._calls.append(now)
