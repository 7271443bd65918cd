"""How often one client may present credentials that are not valid: a sliding window for a bounded number of clients."""

from __future__ import annotations

import math
import time
from collections import OrderedDict, deque
from collections.abc import Callable

from agentdb_mcp.errors import RateLimited


class FailedTries:
    """Counts failed tries by source; beyond `max_sources` the one that failed longest ago is forgotten."""

    def __init__(
        self,
        *,
        tries: int = 20,
        window_s: float = 60.0,
        max_sources: int = 10_000,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._tries = tries
        self._window_s = window_s
        self._max_sources = max_sources
        self._clock = clock
        self._sources: OrderedDict[str, deque[float]] = OrderedDict()

    def check(self, source: str) -> None:
        """Raises RateLimited where as many tries as may fail have failed in the window."""
        failed = self._sources.get(source)
        if failed is None or len(failed) < self._tries:
            return
        wait = failed[0] + self._window_s - self._clock()
        if wait > 0:
            raise RateLimited(
                f"More than {self._tries} credentials that are not valid came from here in {self._window_s:g} s.",
                hint=f"Wait {max(1, math.ceil(wait))} s, and check the token.",
                retryable=True,
            )

    def note(self, source: str) -> None:
        """One more try failed."""
        failed = self._sources.setdefault(source, deque(maxlen=self._tries))
        failed.append(self._clock())
        self._sources.move_to_end(source)
        if len(self._sources) > self._max_sources:
            self._sources.popitem(last=False)
