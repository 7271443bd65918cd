"""What an entry of the audit log is, and how entries hang together: pure."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from enum import StrEnum

GENESIS = bytes(32)
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
# Names the form that is hashed: with another form, another name.
_FORM, _FORM_WITH_REQUEST = "agentdb-audit-1", "agentdb-audit-2"


class AuditDecision(StrEnum):
    """What became of a call: it ran, it was not let run, or it failed on the way."""

    ALLOWED = "allowed"
    REFUSED = "refused"
    FAILED = "failed"


@dataclass(frozen=True, slots=True)
class AuditEntry:
    """One call: who, where, which kinds on which names, and what became of it. Never values, never SQL.

    `principal` is a token's id, `service` or `stdio`; `code` an error's code; `rows` how many were given or changed;
    `request_id` that of log lines and traces.
    The last three are set once it is stored.
    """

    user_id: str
    at: datetime
    source: str
    decision: AuditDecision
    principal: str | None = None
    tool: str | None = None
    workspace_id: str | None = None
    scope: str | None = None
    database_id: str | None = None
    kinds: tuple[str, ...] = ()
    objects: tuple[str, ...] = ()
    code: str | None = None
    sqlstate: str | None = None
    duration_ms: float = 0.0
    rows: int | None = None
    statement_hash: bytes | None = None
    request_id: str | None = None
    sequence: int = 0
    previous_hash: bytes = b""
    hash: bytes = b""

    def computed_hash(self) -> bytes:
        """What `hash` is unless somebody changed something."""
        return self.hash_at(self.sequence, self.previous_hash)

    def hash_at(self, sequence: int, previous_hash: bytes) -> bytes:
        """Of the entry at this place of its user's chain."""
        return hashlib.sha256(self.canonical(sequence, previous_hash)).digest()

    def canonical(self, sequence: int, previous_hash: bytes) -> bytes:
        """What is hashed, as one JSON list: two entries that differ never have the same."""
        fields = [
            _FORM if self.request_id is None else _FORM_WITH_REQUEST,
            previous_hash.hex(),
            self.user_id,
            sequence,
            (self.at - _EPOCH) // timedelta(microseconds=1),
            self.source,
            self.principal,
            self.tool,
            self.workspace_id,
            self.scope,
            self.database_id,
            self.kinds,
            self.objects,
            self.decision,
            self.code,
            self.sqlstate,
            float(self.duration_ms),
            self.rows,
            None if self.statement_hash is None else self.statement_hash.hex(),
        ]
        if self.request_id is not None:
            fields.append(self.request_id)
        return json.dumps(fields, separators=(",", ":")).encode()


@dataclass(frozen=True, slots=True)
class Chain:
    """Where a user's chain ends, and the newest entry that retention deleted."""

    user_id: str
    sequence: int = 0
    hash: bytes = GENESIS
    anchor_sequence: int = 0
    anchor_hash: bytes = GENESIS


@dataclass(frozen=True, slots=True)
class Broken:
    """The first entry of a chain that is not as it was written, and what is wrong with it."""

    user_id: str
    sequence: int
    what: str


@dataclass(frozen=True, slots=True)
class Verified:
    """How many entries of a chain were looked at, up to the first that is broken."""

    chain: Chain
    entries: int
    broken: Broken | None = None


class Walk:
    """A walk along a chain from its anchor, entry by entry in the order of their sequences."""

    def __init__(self, chain: Chain) -> None:
        self._chain = chain
        self._sequence = chain.anchor_sequence
        self._hash = chain.anchor_hash
        self.entries = 0

    def step(self, entry: AuditEntry) -> Broken | None:
        """What is wrong with the next entry."""
        expected = self._sequence + 1
        if entry.sequence < expected:
            was_seen = entry.sequence == self._sequence and self.entries
            return self._broken(entry.sequence, "is there twice" if was_seen else "lies before the chain's beginning")
        if expected > self._chain.sequence:
            return self._broken(entry.sequence, "was inserted after the chain's end")
        if entry.sequence > expected:
            return self._broken(expected, "is missing")
        if entry.computed_hash() != entry.hash:
            return self._broken(entry.sequence, "was changed")
        if entry.previous_hash != self._hash:
            return self._broken(entry.sequence, "does not follow from the one before it")
        self._sequence, self._hash = entry.sequence, entry.hash
        self.entries += 1
        return None

    def end(self) -> Broken | None:
        """What is wrong with the chain's end, after the last entry."""
        if self._sequence < self._chain.sequence:
            return self._broken(self._sequence + 1, "is missing")
        if self._hash != self._chain.hash:
            return self._broken(self._sequence, "is not the one that the chain ends with")
        return None

    def _broken(self, sequence: int, what: str) -> Broken:
        return Broken(self._chain.user_id, sequence, what)
