"""`policies/*.toml` → typed, validated rules: tiers, budget, prices, limits, what may run in which state.

A file states what differs from the shipped `default.toml`; everything else is taken from there.
"""

from __future__ import annotations

import datetime
import difflib
import tomllib
from collections.abc import Iterable, Mapping
from decimal import Decimal, InvalidOperation
from enum import StrEnum
from pathlib import Path
from types import MappingProxyType
from typing import Annotated, Any, Self

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    StringConstraints,
    ValidationError,
    model_validator,
)
from pydantic_core import ErrorDetails

from agentdb_mcp.errors import ConfigurationError
from agentdb_mcp.models import AccessMode, BudgetState, Kind, Limits

DEFAULT = "default.toml"
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


class _Section(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)


class BudgetThresholds(_Section):
    """Percent of the budget from which each state begins."""

    warning_percent: Positive
    exceeded_percent: Positive
    paused_percent: Positive

    @model_validator(mode="after")
    def _in_order(self) -> Self:
        if not self.warning_percent <= self.exceeded_percent <= self.paused_percent:
            raise ValueError("must rise: warning_percent, exceeded_percent, paused_percent")
        return self


class Organizations(_Section):
    """Tiers whose projects belong to the paid organization."""

    paid_tiers: Names


class PriceBook(_Section):
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


def _versioned(books: object) -> object:
    if not isinstance(books, Mapping):
        return books
    for name, book in books.items():
        if isinstance(book, Mapping) and "version" in book:
            raise ValueError(f"must not state a version: that of {name} is its name")
    return {name: {**book, "version": name} if isinstance(book, Mapping) else book for name, book in books.items()}


class PricesInUse(_Section):
    """Which of the price books counts."""

    book: Text


class ComputeRules(_Section):
    """The computes that are provisioned; the largest size decides what a second can cost."""

    max_cu: Size
    suspend_timeout_s: Annotated[int, Field(ge=0)]

    @property
    def max_mcu(self) -> int:
        """In milli-CU, exact."""
        return int(self.max_cu * 1000)


class Metering(_Section):
    """How often usage is stored and looked at, and when the provider's figures are taken for final; seconds."""

    flush_s: Seconds
    settle_s: Annotated[int, Field(ge=0)]
    size_sample_s: Seconds


class LimitRules(_Section):
    """What one call, one text and one database's connections may use."""

    timeout_s: Seconds
    max_rows: Positive
    max_bytes: Positive
    max_sql_bytes: Positive
    max_nesting: Positive
    max_comment_openers: Annotated[int, Field(ge=0)]
    max_statements: Positive
    pool_size: Positive
    connection_limit: Positive
    idle_s: Seconds
    calls_per_window: Annotated[int, Field(ge=0)]
    window_s: Seconds
    concurrent_calls: Annotated[int, Field(ge=0)]

    @model_validator(mode="after")
    def _pool_fits(self) -> Self:
        if self.pool_size > self.connection_limit:
            raise ValueError("pool_size must not be larger than connection_limit")
        return self

    def for_call(self) -> Limits:
        return Limits(self.timeout_s, self.max_rows, self.max_bytes)


class Access(_Section):
    mode: Annotated[AccessMode, _member(AccessMode)]


class Extensions(_Section):
    """Extensions that CREATE EXTENSION may name."""

    allow: Names


class UnknownRule(StrEnum):
    """What happens to a statement that the gate cannot read with certainty."""

    READ_WRITE = "read_write"
    READ_ONLY = "read_only"
    REFUSE = "refuse"


class StateRules(_Section):
    """What may run in one state of the budget."""

    allow: Annotated[frozenset[Kind], BeforeValidator(_kinds)]
    unknown: Annotated[UnknownRule, _member(UnknownRule)]


class StatementRules(_Section):
    ok: StateRules
    warning: StateRules
    exceeded: StateRules
    paused: StateRules

    def of(self, state: BudgetState) -> StateRules:
        rules: StateRules = getattr(self, state.value)
        return rules


class Policy(_Section):
    """Everything an operator decides. `tiers` are cents a month."""

    name: Text
    version: Text
    tiers: Annotated[Mapping[Text, Cents], Field(min_length=1), AfterValidator(MappingProxyType)]
    budget: BudgetThresholds
    organizations: Organizations
    prices_in_use: Annotated[PricesInUse, Field(alias="prices")]
    price_books: Annotated[Mapping[Text, PriceBook], BeforeValidator(_versioned), AfterValidator(MappingProxyType)]
    compute: ComputeRules
    metering: Metering
    limits: LimitRules
    access: Access
    extensions: Extensions
    statements: StatementRules

    @model_validator(mode="after")
    def _names_are_known(self) -> Self:
        if (book := self.prices_in_use.book) not in self.price_books:
            raise ValueError(_unknown("prices.book", book, self.price_books))
        for tier in sorted(self.organizations.paid_tiers - self.tiers.keys()):
            raise ValueError(_unknown("organizations.paid_tiers", tier, self.tiers))
        return self

    @property
    def prices(self) -> PriceBook:
        """The price book in use."""
        return self.price_books[self.prices_in_use.book]

    def with_prices(self, *, compute: str | None = None, storage: str | None = None) -> Policy:
        """The policy with prices from elsewhere, in dollars; ConfigurationError where they are none."""
        given = {"compute_per_cu_hour": compute, "storage_per_gb_month": storage}
        changed = {key: value for key, value in given.items() if value is not None}
        if not changed:
            return self
        version = f"{self.prices.version}+env"
        try:
            prices = PriceBook.model_validate({**self.prices.model_dump(), **changed, "version": version})
        except ValidationError as error:
            raise ConfigurationError(_explain(error, "price override")) from None
        books = MappingProxyType({**self.price_books, version: prices})
        return self.model_copy(update={"prices_in_use": PricesInUse(book=version), "price_books": books})


def to_microcents(dollars: Decimal) -> int:
    """Exact for every price that a policy can hold."""
    return int(dollars * MICROCENTS_PER_DOLLAR)


def load_policy(path: Path | None) -> Policy:
    """A policy file over the shipped default, or the default alone; ConfigurationError names file and key."""
    shipped = default_path()
    document = _read(shipped)
    if path is not None:
        own = _read(path)
        if "name" not in own:
            raise ConfigurationError(f"{path}: name is missing")
        _refuse_changed_books(document, own, path)
        document = _merge(document, own)
    try:
        return Policy.model_validate(document)
    except ValidationError as error:
        raise ConfigurationError(_explain(error, str(path or shipped))) from None


def default_path() -> Path:
    """Beside this module in an installed package, at the top of a checkout."""
    here = Path(__file__).resolve().parent
    packaged = here / "policies" / DEFAULT
    return packaged if packaged.is_file() else here.parents[1] / "policies" / DEFAULT


def _read(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ConfigurationError(f"{path}: there is no such file") from None
    except OSError as error:
        raise ConfigurationError(f"{path}: cannot be read ({error.strerror})") from None
    except UnicodeDecodeError:
        raise ConfigurationError(f"{path}: is not UTF-8 text") from None
    except tomllib.TOMLDecodeError as error:
        raise ConfigurationError(f"{path}: is not valid TOML: {error}") from None


def _merge(base: dict[str, Any], own: dict[str, Any]) -> dict[str, Any]:
    merged = dict(base)
    for key, value in own.items():
        below = merged.get(key)
        if isinstance(below, dict) and isinstance(value, dict):
            merged[key] = _merge(below, value)
        else:
            merged[key] = value
    return merged


def _refuse_changed_books(shipped: dict[str, Any], own: dict[str, Any], path: Path) -> None:
    """A shipped book's name means its figures, wherever they were recorded."""
    before, after = shipped["price_books"], _merge(shipped, own)["price_books"]
    for name in before if isinstance(after, dict) else ():
        if after[name] != before[name]:
            raise ConfigurationError(f"{path}: price_books.{name} is shipped as it is: give your book another name")


def _unknown(key: str, name: str, known: Iterable[str]) -> str:
    close = difflib.get_close_matches(name, known, n=1)
    meant = f"; did you mean {close[0]}?" if close else ""
    return f"{key} must be of: {', '.join(known)} (got {name}{meant})"


def _explain(error: ValidationError, origin: str) -> str:
    return f"{origin}: " + "; ".join(_sentence(detail) for detail in error.errors(include_url=False))


def _sentence(detail: ErrorDetails) -> str:
    path = ".".join(str(part) for part in detail["loc"] if part != "[key]")
    key = path or "the policy"
    bounds = detail.get("ctx", {})
    kind = detail["type"]
    if kind == "extra_forbidden":
        return f"{key} is not a known key{_suggestion(key)}"
    if kind == "missing":
        return f"{key} is missing"
    if kind == "value_error":
        return f"{path} {bounds['error']}".lstrip()
    wanted = {
        "greater_than_equal": f"must be at least {bounds.get('ge')}",
        "greater_than": f"must be more than {bounds.get('gt')}",
        "less_than_equal": f"must be at most {bounds.get('le')}",
        "decimal_max_places": f"must have at most {bounds.get('decimal_places')} decimals",
        "finite_number": "must be a finite number",
        "int_type": "must be a whole number",
        "float_type": "must be a number",
        "string_type": "must be text in quotes",
        "date_type": "must be a date, such as 2026-01-31",
        "is_instance_of": f"must be one of: {_choices(key)}",
        "enum": f"must be one of: {_choices(key)}",
        "frozen_set_type": "must be a list",
        "model_type": "must be a table",
        "mapping_type": "must be a table",
        "dict_type": "must be a table",
    }.get(kind, detail["msg"])
    return f"{key} {wanted} (got {str(detail['input'])[:60]})"


def _choices(key: str) -> str:
    return ", ".join(UnknownRule if key.endswith("unknown") else AccessMode)


_SECTIONS: Mapping[str, type[_Section]] = {
    "": Policy,
    "budget": BudgetThresholds,
    "organizations": Organizations,
    "prices": PricesInUse,
    "price_books.NAME": PriceBook,
    "compute": ComputeRules,
    "metering": Metering,
    "limits": LimitRules,
    "access": Access,
    "extensions": Extensions,
    "statements": StatementRules,
    "statements.STATE": StateRules,
}


def _suggestion(key: str) -> str:
    """The key that was probably meant, of all keys there are; with its section where only that is wrong."""
    known = {
        field.alias or name: section
        for section, model in _SECTIONS.items()
        for name, field in model.model_fields.items()
    }
    last = key.rpartition(".")[2]
    close = difflib.get_close_matches(last, known, n=1, cutoff=0.7)
    if not close:
        return ""
    meant = f"{known[last]}.{last}" if last in known else close[0]
    return f" (did you mean {meant}?)"
