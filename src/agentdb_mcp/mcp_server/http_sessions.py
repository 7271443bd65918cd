"""Which MCP sessions are open under one principal, so that nobody takes up all that a server keeps."""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Final

MAX_SESSIONS: Final = 100
# A session ends when nobody has used it for this long, or at most LIVELY_S longer: plain calls go past the SDK, which
# hears of a session's use only once in LIVELY_S, and so is told to wait for both.
IDLE_S: Final = 30 * 60
LIVELY_S: Final = 10 * 60
ENDED_S: Final = IDLE_S + LIVELY_S
SWEEP_S: Final = 60


@dataclass(slots=True)
class _Session:
    requests: int  # now being answered, streams that only listen among them
    used_at: float
    answered_at: float  # something, by the SDK


class HeldSessions:
    """The sessions of one endpoint. For one over `most`, a principal's least recently used ends, idle ones first."""

    def __init__(self, *, most: int = MAX_SESSIONS, clock: Callable[[], float] = time.monotonic) -> None:
        self._most = most
        self._clock = clock
        self._held: dict[str, OrderedDict[str, _Session]] = {}
        self._swept_at = clock()

    @contextmanager
    def used(self, principal: str, session_id: str | None) -> Iterator[None]:
        """For the time of a request in a session; one that is not known changes nothing."""
        if session_id is None or (session := self._find(principal, session_id)) is None:
            yield
            return
        self._held[principal].move_to_end(session_id)
        session.requests += 1
        try:
            yield
        finally:
            session.requests -= 1
            session.used_at = self._clock()

    def answered(self, principal: str, session_id: str) -> None:
        """The SDK has answered a request in it."""
        if (session := self._find(principal, session_id)) is not None:
            session.answered_at = self._clock()

    def has(self, principal: str, session_id: str) -> bool:
        return self._find(principal, session_id) is not None

    def is_lively(self, principal: str, session_id: str) -> bool:
        """Whether the SDK has answered something in it so lately that it cannot have ended it for want of use."""
        session = self._find(principal, session_id)
        return session is not None and self._clock() - session.answered_at < LIVELY_S

    def opened(self, principal: str, session_id: str) -> str | None:
        """Note a new session. The one that has to end for it, if any, which is forgotten."""
        if self._clock() - self._swept_at > SWEEP_S:
            self._forget_expired()
        sessions = self._held.setdefault(principal, OrderedDict())
        surplus = self._surplus(sessions)
        if surplus is not None:
            del sessions[surplus]
        sessions[session_id] = _Session(0, self._clock(), self._clock())
        return surplus

    def ended(self, principal: str, session_id: str) -> None:
        if (sessions := self._held.get(principal)) is not None:
            sessions.pop(session_id, None)
            if not sessions:
                del self._held[principal]

    def _find(self, principal: str, session_id: str) -> _Session | None:
        sessions = self._held.get(principal)
        return None if sessions is None else sessions.get(session_id)

    def _surplus(self, sessions: OrderedDict[str, _Session]) -> str | None:
        if len(sessions) < self._most:
            return None
        return next((name for name, session in sessions.items() if not session.requests), next(iter(sessions)))

    def _forget_expired(self) -> None:
        """Those that the SDK has ended by now."""
        self._swept_at = self._clock()
        past = self._swept_at - ENDED_S
        expired = [
            (principal, name)
            for principal, sessions in self._held.items()
            for name, session in sessions.items()
            if not session.requests and session.used_at < past
        ]
        for principal, name in expired:
            self.ended(principal, name)
