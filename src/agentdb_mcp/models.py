"""The words that every room shares. Values only: no I/O, no clock."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from dataclasses import dataclass, field, replace
from datetime import date, datetime
from decimal import Decimal
from enum import StrEnum
from fractions import Fraction
from typing import Any, Generic, TypeVar

_HOUR_US = 3_600_000_000

Key = TypeVar("Key", bound=Hashable)


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


class TokenScope(StrEnum):
    """What an API token is for: an agent's tools, a person's look at data, or the account itself."""

    MCP = "mcp"
    EXPLORER = "explorer"
    ADMIN = "admin"


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
    """What one call may use: seconds of running, rows and bytes of answer.

    Beyond it, so many rows and bytes are read to be held, for `held_s` seconds at most where only that needs them.
    """

    timeout_s: float
    max_rows: int
    max_bytes: int
    held_rows: int = 0
    held_bytes: int = 0
    held_s: float = 0.0


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
class Portion:
    """So many rows, packed; `decode` makes values of what each holds, where that are not values yet."""

    rows: int
    data: bytes
    decode: Callable[[list[Any]], list[object]] | None = None


@dataclass(frozen=True, slots=True)
class Result:
    """One statement's answer: rows of JSON values, cut at the limits.

    `opening_s` is what the call waited for a connection, in its first answer. `beyond` are rows that follow where the
    limits let some be held; with `ended` there are no others. `widest` are the characters of the largest row.
    """

    columns: tuple[Column, ...]
    rows: list[list[object]]
    truncated: bool
    command_tag: str
    duration_ms: float
    bytes: int = 0
    opening_s: float = 0.0
    beyond: tuple[Portion, ...] = ()
    ended: bool = False
    widest: int = 0


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
class Quantities:
    """What a database used, in exact integers: totals are added and priced, prices are never added.

    Milli-CU × microseconds, bytes × microseconds, bytes, and branches beyond the first × microseconds. They outgrow
    64 bits: a gigabyte kept for a month is 2.7e21 byte_us.
    """

    compute_mcu_us: int = 0
    storage_byte_us: int = 0
    history_byte_us: int = 0
    egress_bytes: int = 0
    branch_us: int = 0

    @classmethod
    def of(cls, used: Consumption) -> Quantities:
        """Snapshots count as history; what was not reported counts as nothing."""
        return cls(
            compute_mcu_us=_whole(used.compute_cu_seconds, 1000 * 1_000_000),
            storage_byte_us=_whole(used.storage_byte_hours, _HOUR_US),
            history_byte_us=_whole(used.history_byte_hours, _HOUR_US, used.snapshot_byte_hours),
            egress_bytes=_whole(used.egress_bytes, 1),
            branch_us=_whole(used.extra_branch_hours, _HOUR_US),
        )

    def __add__(self, other: Quantities) -> Quantities:
        return Quantities(
            self.compute_mcu_us + other.compute_mcu_us,
            self.storage_byte_us + other.storage_byte_us,
            self.history_byte_us + other.history_byte_us,
            self.egress_bytes + other.egress_bytes,
            self.branch_us + other.branch_us,
        )

    def __neg__(self) -> Quantities:
        return Quantities(
            -self.compute_mcu_us, -self.storage_byte_us, -self.history_byte_us, -self.egress_bytes, -self.branch_us
        )

    def __sub__(self, other: Quantities) -> Quantities:
        return self + -other


@dataclass(frozen=True, slots=True)
class Activity(Generic[Key]):
    """When one meter saw a database awake in one hour, in microseconds since the epoch.

    The receiver keeps the union of all spans, and for each meter, key and hour the greatest `sent_bytes_total` (a
    running total), so that storing the same again, or late, changes nothing.
    """

    key: Key
    hour_start_us: int
    spans: tuple[tuple[int, int], ...]
    sent_bytes_total: int = 0


def _whole(amount: Decimal | None, unit: int, more: Decimal | None = None) -> int:
    """Half even; Decimal's own arithmetic would keep 28 digits only."""
    whole, parts = (amount or Decimal(0)).as_integer_ratio()
    if more:
        top, bottom = more.as_integer_ratio()
        whole, parts = whole * bottom + top * parts, parts * bottom
    return whole * unit if parts == 1 else round(Fraction(whole * unit, parts))


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A kept state of a project's data; `expires_at` is when the provider drops it, None where it never does."""

    id: str
    name: str
    created_at: datetime
    size_bytes: int = 0
    expires_at: datetime | None = None


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
    """A user's month: integers in micro-cents, by database name.

    `committed_microcents` is what stored data will cost until the period ends if it stays as large as it is.
    """

    limit_microcents: int
    used_microcents: int
    state: BudgetState
    period_start: str
    period_end: str
    tier: str
    by_database: tuple[DatabaseCost, ...] = field(default=())
    committed_microcents: int = 0


@dataclass(frozen=True, slots=True)
class DatabaseCost:
    """`cents` of all databases of a report sum to its total in cents."""

    scope: Scope
    name: str
    cost_microcents: int
    workspace_id: str | None = None
    cents: int = 0
    size_bytes: int = 0


@dataclass(frozen=True, slots=True)
class DayCost:
    """What one database cost on one day (UTC)."""

    day: date
    database: DatabaseCost

    def in_cents(self, cents: int) -> DayCost:
        return replace(self, database=replace(self.database, cents=cents))
