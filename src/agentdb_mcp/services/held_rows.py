"""Rows that were read and not given yet, in this process's memory: compressed, bounded, oldest out first."""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable
from dataclasses import dataclass, field

from agentdb_mcp.errors import InvalidArgument
from agentdb_mcp.models import Column, Portion, Scope, Tenant
from agentdb_mcp.policy import LimitRules

# What a result takes beside its rows and the names of its columns.
OVERHEAD_BYTES, PORTION_OVERHEAD_BYTES = 1500, 150


@dataclass(frozen=True, slots=True)
class Held:
    """One statement's rows from number `first` (the statement's first row is 0) up to `end`; `ended`: it gave no more.

    `database` is the target's key, `page_rows` how many the caller gets at a time unless told.
    """

    tenant: Tenant
    scope: Scope
    database: str
    columns: tuple[Column, ...]
    portions: tuple[Portion, ...]
    first: int
    ended: bool
    page_rows: int

    @property
    def end(self) -> int:
        return self.first + sum(portion.rows for portion in self.portions)

    @property
    def size(self) -> int:
        names = sum(4 * len(column.name) + 200 for column in self.columns)
        return OVERHEAD_BYTES + names + sum(PORTION_OVERHEAD_BYTES + len(each.data) for each in self.portions)


def nothing_held(held_s: float) -> InvalidArgument:
    """For a handle that is unknown, expired, another process's or another tenant's: who asks is not told which."""
    return InvalidArgument(
        "Nothing is held for this handle.",
        hint=f"Rows are held for {held_s:g} s, in the server's memory, for whoever ran the statement. Run it again, or"
        " ask for what follows with ORDER BY on a key and a WHERE past the last key seen.",
    )


@dataclass(slots=True)
class _Entry:
    held: Held
    size: int
    until: float


@dataclass(slots=True)
class _OfUser:
    """Tokens, the oldest first."""

    tokens: dict[str, None] = field(default_factory=dict)
    size: int = 0


class HeldRows:
    """Results by token, which is what a caller has to know beside being who it was."""

    def __init__(self, limits: LimitRules, clock: Callable[[], float] = time.monotonic) -> None:
        self._limits = limits
        self._clock = clock
        self._entries: dict[str, _Entry] = {}  # oldest first
        self._of_user: dict[str | None, _OfUser] = {}
        self.size = 0

    def put(self, held: Held) -> str | None:
        """A new token; None where the rows are more than one user may have held."""
        size = held.size
        if size > min(self._limits.held_bytes_per_user, self._limits.held_bytes):
            return None
        self._expire()
        user = held.tenant.user_id
        while (own := self._of_user.get(user)) and own.size + size > self._limits.held_bytes_per_user:
            self._drop(next(iter(own.tokens)))
        while self.size + size > self._limits.held_bytes:
            self._drop(next(iter(self._entries)))
        token = secrets.token_urlsafe(18)
        self._entries[token] = _Entry(held, size, self._clock() + self._limits.held_s)
        own = self._of_user.setdefault(user, _OfUser())
        own.tokens[token] = None
        own.size += size
        self.size += size
        return token

    def get(self, tenant: Tenant, scope: Scope, token: str) -> Held | None:
        """What that tenant had held in that scope under the token."""
        self._expire()
        entry = self._entries.get(token)
        if entry is None or (entry.held.tenant, entry.held.scope) != (tenant, scope):
            return None
        return entry.held

    def _expire(self) -> None:
        now = self._clock()
        while self._entries and (oldest := next(iter(self._entries.items())))[1].until <= now:
            self._drop(oldest[0])

    def _drop(self, token: str) -> None:
        entry = self._entries.pop(token)
        user = entry.held.tenant.user_id
        own = self._of_user[user]
        del own.tokens[token]
        own.size -= entry.size
        if not own.tokens:
            del self._of_user[user]
        self.size -= entry.size
