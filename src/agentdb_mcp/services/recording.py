"""Every call of `Queries` makes one entry of the audit log, however it ends."""

from __future__ import annotations

import hashlib
import hmac
import time
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from contextvars import ContextVar
from dataclasses import dataclass, field
from datetime import datetime
from functools import cached_property

from agentdb_mcp import metrics
from agentdb_mcp.errors import (
    AgentDBError,
    BudgetExceeded,
    Internal,
    InvalidArgument,
    NotAllowed,
    RateLimited,
    StatementRefused,
)
from agentdb_mcp.execution import Statement
from agentdb_mcp.logs import request_id
from agentdb_mcp.models import Result, Scope, StatementFacts, Tenant
from agentdb_mcp.services.audit import Audit
from agentdb_mcp.services.origin import current_origin
from agentdb_mcp.store import AuditDecision, AuditEntry

REFUSALS = (StatementRefused, BudgetExceeded, RateLimited, NotAllowed, InvalidArgument)
CANCELLED = "cancelled"
MAX_OBJECTS = 16
# Three names of 63 characters and the dots between them.
MAX_OBJECT_LENGTH = 191


@dataclass(slots=True)
class Entry:
    """What is learnt of a call while it goes on."""

    kinds: set[str] = field(default_factory=set)
    objects: dict[str, None] = field(default_factory=dict)
    database_id: str | None = None
    rows: int | None = None


_CALL: ContextVar[Entry | None] = ContextVar("agentdb_call", default=None)


def found(facts: StatementFacts) -> StatementFacts:
    """What the gate found in a statement of the call, passed on."""
    if (call := _CALL.get()) is not None:
        call.kinds.update(kind.value for kind in facts.kinds)
        for name in facts.objects[: MAX_OBJECTS - len(call.objects)]:
            call.objects[_text(name)[:MAX_OBJECT_LENGTH]] = None
    return facts


def reached(database_id: str | None) -> None:
    """Which database the call is for."""
    if (call := _CALL.get()) is not None:
        call.database_id = database_id


def gave(results: list[Result]) -> None:
    """What the call came to."""
    if (call := _CALL.get()) is not None:
        call.rows = sum(_rows(result) for result in results)


@dataclass(frozen=True)
class Recorder:
    """Writes calls down. `key` keeps hashes of statements from being guessed by who knows the statement but a value."""

    audit: Audit
    key: bytes = b""

    @contextmanager
    def call(self, tenant: Tenant, scope: Scope, statements: Sequence[Statement], *kinds: str) -> Iterator[Entry]:
        """For the time of one call; `kinds` are those of statements that the gate does not see."""
        call, at, started = Entry(set(kinds)), self.audit.clock(), time.perf_counter()
        token, error = _CALL.set(call), None
        try:
            yield call
        except BaseException as caught:
            error = caught
            raise
        finally:
            _CALL.reset(token)
            entry = self._entry(tenant, scope, statements, call, at, started, error)
            self.audit.note(entry)
            _count(entry)

    def _entry(
        self,
        tenant: Tenant,
        scope: Scope,
        statements: Sequence[Statement],
        call: Entry,
        at: datetime,
        started: float,
        error: BaseException | None,
    ) -> AuditEntry:
        origin = current_origin()
        return AuditEntry(
            user_id=_text(tenant.user_id or ""),
            at=at,
            source=origin.source,
            decision=_decision(error),
            principal=_text(origin.principal),
            tool=origin.tool,
            workspace_id=None if tenant.workspace_id is None else _text(tenant.workspace_id),
            scope=scope.value,
            database_id=call.database_id,
            kinds=tuple(sorted(call.kinds)),
            objects=tuple(call.objects),
            code=_code(error),
            sqlstate=error.sqlstate if isinstance(error, AgentDBError) else None,
            duration_ms=round((time.perf_counter() - started) * 1000, 3),
            rows=call.rows if error is None else None,
            statement_hash=self._hash(statements),
            request_id=request_id(),
        )

    def _hash(self, statements: Sequence[Statement]) -> bytes:
        """Of one statement that of its text, of several that of theirs."""
        each = [self._digest(statement.sql.encode(errors="surrogatepass")) for statement in statements]
        return each[0] if len(each) == 1 else self._digest(b"".join(each))

    def _digest(self, text: bytes) -> bytes:
        hasher = self._hasher.copy()
        hasher.update(text)
        return hasher.digest()

    @cached_property
    def _hasher(self) -> hmac.HMAC | hashlib._Hash:
        """Begun once: that takes longer than the rest."""
        return hmac.new(self.key, digestmod="sha256") if self.key else hashlib.sha256()


def recorded(
    recorder: Recorder | None, tenant: Tenant, scope: Scope, statements: Sequence[Statement], *kinds: str
) -> AbstractContextManager[Entry | None]:
    """A call that is written down where there is a recorder."""
    return nullcontext() if recorder is None else recorder.call(tenant, scope, statements, *kinds)


@contextmanager
def noted_in(entry: Entry | None) -> Iterator[None]:
    """What is learnt in the block belongs to this entry, of several that are open."""
    token = _CALL.set(entry)
    try:
        yield
    finally:
        _CALL.reset(token)


def _count(entry: AuditEntry) -> None:
    outcome = entry.code or "ok"
    metrics.CALLS.add(entry.source, entry.tool or "", outcome)
    metrics.CALL_SECONDS.observe(entry.duration_ms / 1000, entry.source, entry.tool or "")
    if entry.decision is AuditDecision.REFUSED:
        metrics.REFUSED.add(outcome, "+".join(entry.kinds))


def _decision(error: BaseException | None) -> AuditDecision:
    if error is None:
        return AuditDecision.ALLOWED
    return AuditDecision.REFUSED if isinstance(error, REFUSALS) else AuditDecision.FAILED


def _code(error: BaseException | None) -> str | None:
    if error is None:
        return None
    if isinstance(error, AgentDBError):
        return error.code
    return Internal.code if isinstance(error, Exception) else CANCELLED


def _rows(result: Result) -> int:
    """Those given; of a statement that gives none, those changed, as its command tag says."""
    if result.rows:
        return len(result.rows)
    number = result.command_tag.rpartition(" ")[2]
    return int(number) if number.isascii() and number.isdecimal() else 0


def _text(value: str) -> str:
    """As Postgres can store it."""
    return value.replace("\0", "�").encode(errors="replace").decode()
