"""The sections of a policy file, typed and validated one by one."""

from __future__ import annotations

import datetime
from collections.abc import Mapping
from decimal import Decimal, InvalidOperation
from enum import StrEnum
from typing import Annotated, Literal, Self

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, StringConstraints, model_validator

from agentdb_mcp.models import AccessMode, BudgetState, Kind, Limits

MICROCENTS_PER_DOLLAR = 100_000_000
_PRICE_DECIMALS = 8


def _decimal(value: object) -> object:
    """Prices are strings: a float has lost the price before it gets here."""
    if isinstance(value, Decimal):
        return value
    if not isinstance(value, str):
        raise ValueError('must be a decimal number in quotes, such as "0.106"')
    try:
        return Decimal(value)
    except InvalidOperation:
        raise ValueError('must be a decimal number, such as "0.106"') from None


def _member(enum: type[StrEnum]) -> BeforeValidator:
    """Strict models take no strings for enumerations; files hold nothing else."""
    return BeforeValidator(lambda value: enum(value) if value in list(enum) else value)


def _kinds(value: object) -> object:
    if not isinstance(value, list):
        return value
    known = [kind.value for kind in Kind if kind is not Kind.UNKNOWN]
    for name in value:
        if name not in known:
            raise ValueError(f"may hold {', '.join(known)} (got {name!r})")
    return frozenset(Kind(name) for name in value)


Dollars = Annotated[Decimal, BeforeValidator(_decimal), Field(ge=0, decimal_places=_PRICE_DECIMALS)]
Size = Annotated[Decimal, BeforeValidator(_decimal), Field(gt=0, le=56, decimal_places=3)]
Text = Annotated[str, StringConstraints(min_length=1, max_length=200)]
Names = Annotated[
    frozenset[Text], BeforeValidator(lambda value: frozenset(value) if isinstance(value, list) else value)
]
Seconds = Annotated[float, Field(gt=0, allow_inf_nan=False)]
Positive = Annotated[int, Field(ge=1)]
Cents = Annotated[int, Field(ge=0)]


class Section(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)


class BudgetThresholds(Section):
    """Percent of the budget from which each state begins."""

    warning_percent: Positive
    exceeded_percent: Positive
    paused_percent: Positive

    @model_validator(mode="after")
    def _in_order(self) -> Self:
        if not self.warning_percent <= self.exceeded_percent <= self.paused_percent:
            raise ValueError("must rise: warning_percent, exceeded_percent, paused_percent")
        return self


class Organizations(Section):
    """Tiers whose projects belong to the paid organization."""

    paid_tiers: Names


class PriceBook(Section):
    """Dollars, with a date; the version is the name that the policy gives the book."""

    version: Text
    date: datetime.date
    source: Text
    compute_per_cu_hour: Dollars
    storage_per_gb_month: Dollars
    history_per_gb_month: Dollars
    egress_per_gb: Dollars
    egress_free_gb: Annotated[int, Field(ge=0)]
    branch_month: Dollars


def versioned(books: object) -> object:
    if not isinstance(books, Mapping):
        return books
    for name, book in books.items():
        if isinstance(book, Mapping) and "version" in book:
            raise ValueError(f"must not state a version: that of {name} is its name")
    return {name: {**book, "version": name} if isinstance(book, Mapping) else book for name, book in books.items()}


class PricesInUse(Section):
    """Which of the price books counts."""

    book: Text


class ComputeRules(Section):
    """The computes that are provisioned; the largest size decides what a second can cost."""

    max_cu: Size
    suspend_timeout_s: Annotated[int, Field(ge=0)]

    @property
    def max_mcu(self) -> int:
        """In milli-CU, exact."""
        return int(self.max_cu * 1000)


class Metering(Section):
    """How often usage is stored and looked at, and when the provider's figures are taken for final; seconds."""

    flush_s: Seconds
    settle_s: Annotated[int, Field(ge=0)]
    size_sample_s: Seconds


class AuditRules(Section):
    """How long the log of what callers did is kept."""

    keep_days: Annotated[int, Field(ge=1, le=36_500)]


class AnalysisRules(Section):
    """Advice on plans and indexes: how long one may take, how much it may try, and on how large tables.

    Indexes are built, and rolled back, where hypopg is not installed and the table has at most `build_max_bytes`.
    """

    timeout_s: Seconds
    max_trials: Positive
    workload_queries: Annotated[int, Field(ge=1, le=100)]
    build_max_bytes: Annotated[int, Field(ge=0)]


class LimitRules(Section):
    """What one call, one text and one database's connections may use."""

    timeout_s: Seconds
    export_timeout_s: Seconds
    copy_timeout_s: Seconds
    copy_max_bytes: Positive
    max_rows: Positive
    max_bytes: Positive
    max_value: Annotated[int, Field(ge=1000)]
    held_rows: Annotated[int, Field(ge=0)]
    held_row_bytes: Positive
    held_bytes: Positive
    held_bytes_per_user: Positive
    held_s: Seconds
    max_sql_bytes: Positive
    max_nesting: Positive
    max_comment_openers: Annotated[int, Field(ge=0)]
    max_statements: Positive
    pool_size: Positive
    max_connections: Positive
    connection_limit: Positive
    idle_s: Seconds
    calls_per_window: Annotated[int, Field(ge=0)]
    window_s: Seconds
    concurrent_calls: Annotated[int, Field(ge=0)]
    explorer_calls_per_window: Annotated[int, Field(ge=0)]
    explorer_window_s: Seconds

    @model_validator(mode="after")
    def _pool_fits(self) -> Self:
        if self.pool_size > self.connection_limit:
            raise ValueError("pool_size must not be larger than connection_limit")
        if self.pool_size > self.max_connections:
            raise ValueError("pool_size must not be larger than max_connections")
        return self

    def for_call(self) -> Limits:
        return Limits(self.timeout_s, self.max_rows, self.max_bytes)


class CheckpointRules(Section):
    """Which states of their databases tenants may keep; `max_copy_bytes` bounds those that are whole copies."""

    enabled: bool
    max_per_database: Positive
    keep_days: Annotated[int, Field(ge=1, le=365)]
    max_copy_bytes: Positive


class Access(Section):
    mode: Annotated[AccessMode, _member(AccessMode)]


class Extensions(Section):
    """Extensions that CREATE EXTENSION may name."""

    allow: Names


class SimRules(Section):
    """What Sim Studio's variables hold, and for how many days an archived workspace's database is kept.

    Variables never hold a connection string, since Sim shows them to people.
    """

    variables: Literal["reference", "token"]
    token_days: Annotated[int, Field(ge=2, le=3650)]
    archived_keep_days: Annotated[int, Field(ge=0, le=36_500)]


class UnknownRule(StrEnum):
    """What happens to a statement that the gate cannot read with certainty."""

    READ_WRITE = "read_write"
    READ_ONLY = "read_only"
    REFUSE = "refuse"


class StateRules(Section):
    """What may run in one state of the budget."""

    allow: Annotated[frozenset[Kind], BeforeValidator(_kinds)]
    unknown: Annotated[UnknownRule, _member(UnknownRule)]


class StatementRules(Section):
    ok: StateRules
    warning: StateRules
    exceeded: StateRules
    paused: StateRules

    def of(self, state: BudgetState) -> StateRules:
        rules: StateRules = getattr(self, state.value)
        return rules


def to_microcents(dollars: Decimal) -> int:
    """Exact for every price that a policy can hold."""
    return int(dollars * MICROCENTS_PER_DOLLAR)
