"""The words that every room shares. Values only: no I/O, no clock."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime
from decimal import Decimal
from enum import StrEnum


class Secret:
    """A string that no repr, log or traceback shows; `reveal()` is the only way out."""

    __slots__ = ("_value",)

    def __init__(self, value: str) -> None:
        self._value = value

    def reveal(self) -> str:
        return self._value

    def __repr__(self) -> str:
        return "Secret(…)"

    __str__ = __repr__

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Secret) and other._value == self._value

    def __hash__(self) -> int:
        return hash(self._value)

    def __bool__(self) -> bool:
        return bool(self._value)

    def __reduce__(self) -> str:
        raise TypeError("a Secret is not serialized")


class Scope(StrEnum):
    """Which of a tenant's two databases a call is for."""

    AGENT = "agent"
    GLOBAL = "global"


@dataclass(frozen=True, slots=True)
class Tenant:
    """Whose call it is: from the environment (stdio) or the token (HTTP), never from an argument."""

    user_id: str | None = None
    workspace_id: str | None = None


class AccessMode(StrEnum):
    """`unrestricted`: policy decides kind by kind; `restricted`: read-only."""

    UNRESTRICTED = "unrestricted"
    RESTRICTED = "restricted"


class Kind(StrEnum):
    """What a statement does, as far as the gate can tell."""

    READ = "read"
    WRITE = "write"
    SCHEMA = "schema"
    RECLAIM = "reclaim"
    SESSION = "session"
    TRANSACTION = "transaction"
    PRIVILEGE = "privilege"
    SERVER = "server"
    UNKNOWN = "unknown"


@dataclass(frozen=True, slots=True)
class StatementFacts:
    """What the gate found in one SQL text. `certain` is False whenever a guess was needed."""

    kinds: frozenset[Kind]
    certain: bool
    objects: tuple[str, ...] = ()
    functions: tuple[str, ...] = ()
    why: str | None = None


class BudgetState(StrEnum):
    OK = "ok"
    WARNING = "warning"
    EXCEEDED = "exceeded"
    PAUSED = "paused"


@dataclass(frozen=True, slots=True)
class Limits:
    """What one call may use: seconds of running, rows and bytes of answer."""

    timeout_s: float
    max_rows: int
    max_bytes: int


@dataclass(frozen=True, slots=True)
class Decision:
    """Allow, read-only or read-write, or refuse with a code, a message and a hint."""

    allowed: bool
    read_only: bool = True
    code: str | None = None
    message: str | None = None
    hint: str | None = None


@dataclass(frozen=True, slots=True)
class DatabaseTarget:
    """How to reach one database; the secrets never leave the server.

    `uri` is the admin's where `role` is set (the agent's role is opened and sealed with it), and the
    caller's own plain login where `role` is None (a user's own database).
    """

    key: str
    uri: Secret
    role: str | None = None
    database_id: str | None = None


@dataclass(frozen=True, slots=True)
class Column:
    name: str
    type: str
    encoding: str | None = None


@dataclass(frozen=True, slots=True)
class Result:
    """One statement's answer: rows of JSON values, cut at the limits.

    `opening_s` is what the call waited for a connection, in its first answer.
    """

    columns: tuple[Column, ...]
    rows: list[list[object]]
    truncated: bool
    command_tag: str
    duration_ms: float
    bytes: int = 0
    opening_s: float = 0.0


@dataclass(frozen=True, slots=True)
class Project:
    """What a provider made for one database; `organization` is the kind of account that it is in."""

    id: str
    name: str
    branch_id: str | None = None
    created_at: str | None = None
    organization: str | None = None


@dataclass(frozen=True, slots=True)
class Quota:
    """What one project may use in a billing period: None leaves a cap as it is, 0 lifts it."""

    active_time_seconds: int | None = None
    compute_time_seconds: int | None = None
    written_data_bytes: int | None = None
    data_transfer_bytes: int | None = None
    logical_size_bytes: int | None = None


@dataclass(frozen=True, slots=True)
class ProjectSettings:
    """None leaves a setting as it is, or to the provider; `paid` chooses the account of a new project."""

    min_cu: float | None = None
    max_cu: float | None = None
    suspend_timeout_s: int | None = None
    quota: Quota = Quota()
    paid: bool | None = None


@dataclass(frozen=True, slots=True)
class Consumption:
    """What one project used from start to end; a metric that was not reported is None."""

    project_id: str
    start: datetime
    end: datetime
    compute_cu_seconds: Decimal | None = None
    storage_byte_hours: Decimal | None = None
    history_byte_hours: Decimal | None = None
    snapshot_byte_hours: Decimal | None = None
    egress_bytes: Decimal | None = None
    private_transfer_bytes: Decimal | None = None
    extra_branch_hours: Decimal | None = None


@dataclass(frozen=True, slots=True)
class ProjectAccess:
    """The admin's way into a project."""

    uri: Secret
    database_name: str
    role_name: str


class DatabaseStatus(StrEnum):
    PENDING = "pending"
    PROVISIONING = "provisioning"
    READY = "ready"
    DELETING = "deleting"
    DELETED = "deleted"


class Ownership(StrEnum):
    PLATFORM = "platform"
    USER = "user"


@dataclass(frozen=True, slots=True)
class BudgetReport:
    """A user's month: integers in micro-cents, by database name."""

    limit_microcents: int
    used_microcents: int
    state: BudgetState
    period_start: str
    period_end: str
    tier: str
    by_database: tuple[DatabaseCost, ...] = field(default=())


@dataclass(frozen=True, slots=True)
class DatabaseCost:
    scope: Scope
    name: str
    cost_microcents: int
    workspace_id: str | None = None
