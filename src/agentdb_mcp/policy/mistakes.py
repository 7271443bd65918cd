"""What is wrong with a policy, in words: the key, the value, what it must be, the key that was probably meant."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from agentdb_mcp.models import AccessMode
from agentdb_mcp.policy.sections import (
    Access,
    AnalysisRules,
    AuditRules,
    BudgetThresholds,
    CheckpointRules,
    ComputeRules,
    Extensions,
    LimitRules,
    Metering,
    Organizations,
    PriceBook,
    PricesInUse,
    SimRules,
    StatementRules,
    StateRules,
    UnknownRule,
)

_SECTIONS: Mapping[str, type[BaseModel]] = {
    "budget": BudgetThresholds,
    "organizations": Organizations,
    "prices": PricesInUse,
    "price_books.NAME": PriceBook,
    "compute": ComputeRules,
    "metering": Metering,
    "audit": AuditRules,
    "limits": LimitRules,
    "analysis": AnalysisRules,
    "access": Access,
    "checkpoints": CheckpointRules,
    "extensions": Extensions,
    "sim": SimRules,
    "statements": StatementRules,
    "statements.STATE": StateRules,
}


def explain(error: ValidationError, origin: str, policy: type[BaseModel]) -> str:
    """All mistakes in one line."""
    return f"{origin}: " + "; ".join(_sentence(detail, policy) for detail in error.errors(include_url=False))


def unknown(key: str, name: str, known: Iterable[str]) -> str:
    """A name that a key gives and nothing has."""
    close = difflib.get_close_matches(name, known, n=1)
    meant = f"; did you mean {close[0]}?" if close else ""
    return f"{key} must be of: {', '.join(known)} (got {name}{meant})"


def _sentence(detail: ErrorDetails, policy: type[BaseModel]) -> str:
    path = ".".join(str(part) for part in detail["loc"] if part != "[key]")
    key = path or "the policy"
    bounds = detail.get("ctx", {})
    kind = detail["type"]
    if kind == "extra_forbidden":
        return f"{key} is not a known key{_suggestion(key, policy)}"
    if kind == "missing":
        return f"{key} is missing"
    if kind == "value_error":
        return f"{path} {bounds['error']}".lstrip()
    wanted = {
        "greater_than_equal": f"must be at least {bounds.get('ge')}",
        "greater_than": f"must be more than {bounds.get('gt')}",
        "less_than_equal": f"must be at most {bounds.get('le')}",
        "decimal_max_places": f"must have at most {bounds.get('decimal_places')} decimals",
        "literal_error": f"must be {bounds.get('expected')}",
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


def _suggestion(key: str, policy: type[BaseModel]) -> str:
    """The key that was probably meant, of all keys there are; with its section where only that is wrong."""
    known = {
        field.alias or name: section
        for section, model in {**_SECTIONS, "": policy}.items()
        for name, field in model.model_fields.items()
    }
    last = key.rpartition(".")[2]
    close = difflib.get_close_matches(last, known, n=1, cutoff=0.7)
    if not close:
        return ""
    meant = f"{known[last]}.{last}".lstrip(".") if last in known else close[0]
    return f" (did you mean {meant}?)"
