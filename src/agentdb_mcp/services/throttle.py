"""How often and how widely one tenant may call: a sliding window and a number of calls at once."""

from __future__ import annotations

import math
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from agentdb_mcp.errors import RateLimited
from agentdb_mcp.models import Tenant


@dataclass(slots=True)
class _Calls:
    began: deque[float] = field(default_factory=deque)
    running: int = 0


class Throttle:
    """Counts calls by tenant; a limit of 0 counts nothing."""

    def __init__(
        self,
        *,
        calls_per_window: int,
        window_s: float,
        concurrent_calls: int,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._per_window = calls_per_window
        self._window_s = window_s
        self._concurrent = concurrent_calls
        self._clock = clock
        self._tenants: dict[Tenant, _Calls] = {}

    @contextmanager
    def call(self, tenant: Tenant) -> Iterator[None]:
        """One call of the tenant's, for the time of the block. Raises RateLimited."""
        calls = self._tenants.setdefault(tenant, _Calls())
        self._check(calls)
        calls.running += 1
        try:
            yield
        finally:
            calls.running -= 1
            if not calls.running and not calls.began:
                self._tenants.pop(tenant, None)

    def _check(self, calls: _Calls) -> None:
        if self._concurrent and calls.running >= self._concurrent:
            raise RateLimited(
                f"{calls.running} calls are running already, which is the limit.",
                hint="Wait for their answers, then send the next.",
                retryable=True,
            )
        if not self._per_window:
            return
        now = self._clock()
        while calls.began and calls.began[0] <= now - self._window_s:
            calls.began.popleft()
        if len(calls.began) >= self._per_window:
            wait = calls.began[0] + self._window_s - now
            raise RateLimited(
                f"More than {self._per_window} calls in {self._window_s:g} s.",
                hint=f"Wait {max(1, math.ceil(wait))} s. Several statements fit into one execute_transaction.",
                retryable=True,
            )
        calls.began.append(now)
