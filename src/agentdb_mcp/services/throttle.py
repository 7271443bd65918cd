"""How often and how widely one tenant may call: a sliding window and a number of calls at once."""

from __future__ import annotations

import math
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import islice

from agentdb_mcp.errors import RateLimited
from agentdb_mcp.models import Tenant

# Each call looks at so many tenants that called longest ago: more than it can add.
FORGET_AT_ONCE = 2


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
        self._tenants: dict[Tenant, _Calls] = {}  # called longest ago first

    @contextmanager
    def call(self, tenant: Tenant) -> Iterator[None]:
        """One call of the tenant's, for the time of the block. Raises RateLimited."""
        now = self._clock()
        self._forget(now)
        calls = self._tenants.pop(tenant, None) or _Calls()
        self._tenants[tenant] = calls
        self._check(calls, now)
        calls.running += 1
        try:
            yield
        finally:
            calls.running -= 1
            if not calls.running and not calls.began:
                self._tenants.pop(tenant, None)

    def _forget(self, now: float) -> None:
        """Who called last before the window began. Whoever's call still runs is looked at later."""
        for tenant, calls in list(islice(self._tenants.items(), FORGET_AT_ONCE)):
            if calls.running:
                self._tenants[tenant] = self._tenants.pop(tenant)
            elif not calls.began or calls.began[-1] <= now - self._window_s:
                del self._tenants[tenant]

    def _check(self, calls: _Calls, now: float) -> None:
        if self._concurrent and calls.running >= self._concurrent:
            raise RateLimited(
                f"{calls.running} calls are running already, which is the limit.",
                hint="Wait for their answers, then send the next.",
                retryable=True,
            )
        if not self._per_window:
            return
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
