"""Which MCP sessions are open under one principal, so that nobody takes up all that a server keeps."""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Final

MAX_SESSIONS: Final = 100
IDLE_S: Final = 30 * 60
SWEEP_S: Final = 60


@dataclass(slots=True)
class _Session:
    requests: int  # now being answered, streams that only listen among them
    used_at: float


class HeldSessions:
    """The sessions of one endpoint. For one over `most`, a principal's least recently used ends, idle ones first."""

    def __init__(self, *, most: int = MAX_SESSIONS, clock: Callable[[], float] = time.monotonic) -> None:
        self._most = most
        self._clock = clock
        self._held: dict[str, OrderedDict[str, _Session]] = {}
        self._swept_at = clock()

    @contextmanager
    def used(self, principal: str, session_id: str) -> Iterator[None]:
        """For the time of a request in a session; one that is not known changes nothing."""
        sessions = self._held.get(principal, OrderedDict())
        if (session := sessions.get(session_id)) is None:
            yield
            return
        sessions.move_to_end(session_id)
        session.requests += 1
        try:
            yield
        finally:
            session.requests -= 1
            session.used_at = self._clock()

    def opened(self, principal: str, session_id: str) -> str | None:
        """Note a new session. The one that has to end for it, if any, which is forgotten."""
        if self._clock() - self._swept_at > SWEEP_S:
            self._forget_expired()
        sessions = self._held.setdefault(principal, OrderedDict())
        surplus = self._surplus(sessions)
        if surplus is not None:
            del sessions[surplus]
        sessions[session_id] = _Session(0, self._clock())
        return surplus

    def ended(self, principal: str, session_id: str) -> None:
        if (sessions := self._held.get(principal)) is not None:
            sessions.pop(session_id, None)
            if not sessions:
                del self._held[principal]

    def _surplus(self, sessions: OrderedDict[str, _Session]) -> str | None:
        if len(sessions) < self._most:
            return None
        return next((name for name, session in sessions.items() if not session.requests), next(iter(sessions)))

    def _forget_expired(self) -> None:
        """Those that the SDK has ended by now."""
        self._swept_at = self._clock()
        past = self._swept_at - IDLE_S
        expired = [
            (principal, name)
            for principal, sessions in self._held.items()
            for name, session in sessions.items()
            if not session.requests and session.used_at < past
        ]
        for principal, name in expired:
            self.ended(principal, name)
