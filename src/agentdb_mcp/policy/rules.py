"""One policy: all sections, and what they say about each other."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Annotated, Self

from pydantic import AfterValidator, BeforeValidator, Field, ValidationError, model_validator

from agentdb_mcp.errors import ConfigurationError
from agentdb_mcp.policy.mistakes import explain, unknown
from agentdb_mcp.policy.sections import (
    Access,
    AnalysisRules,
    AuditRules,
    BudgetThresholds,
    Cents,
    CheckpointRules,
    ComputeRules,
    Extensions,
    LimitRules,
    Metering,
    Organizations,
    PriceBook,
    PricesInUse,
    Section,
    SimRules,
    StatementRules,
    Text,
    versioned,
)


class Policy(Section):
    """Everything an operator decides. `tiers` are cents a month."""

    name: Text
    version: Text
    tiers: Annotated[Mapping[Text, Cents], Field(min_length=1), AfterValidator(MappingProxyType)]
    budget: BudgetThresholds
    organizations: Organizations
    prices_in_use: Annotated[PricesInUse, Field(alias="prices")]
    price_books: Annotated[Mapping[Text, PriceBook], BeforeValidator(versioned), AfterValidator(MappingProxyType)]
    compute: ComputeRules
    metering: Metering
    audit: AuditRules
    limits: LimitRules
    analysis: AnalysisRules
    access: Access
    checkpoints: CheckpointRules
    sim: SimRules
    extensions: Extensions
    statements: StatementRules

    @model_validator(mode="after")
    def _names_are_known(self) -> Self:
        if (book := self.prices_in_use.book) not in self.price_books:
            raise ValueError(unknown("prices.book", book, self.price_books))
        for tier in sorted(self.organizations.paid_tiers - self.tiers.keys()):
            raise ValueError(unknown("organizations.paid_tiers", tier, self.tiers))
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
            raise ConfigurationError(explain(error, "price override", type(self))) from None
        books = MappingProxyType({**self.price_books, version: prices})
        return self.model_copy(update={"prices_in_use": PricesInUse(book=version), "price_books": books})
