"""The one error tree that reaches callers: a stable code, a sentence, a next step; never a secret.

AgentDBError
├── StatementRefused      statement_refused     policy or the gate said no
├── BudgetExceeded        budget_exceeded
├── DatabaseUnavailable   database_unavailable  no URL, no way to make one, or it does not answer
├── ProvisioningFailed    provisioning_failed
├── SqlError              sql_error             Postgres said no: sqlstate, position
├── StatementTimeout      timeout
├── ResultTooLarge        result_too_large
├── RateLimited           rate_limited
├── InvalidArgument       invalid_argument
├── NotAllowed            not_allowed
├── NotAuthenticated      not_authenticated     REST only: no valid credential
├── NotFound              not_found             REST and the command line only
├── Internal              internal
└── ConfigurationError    configuration         stops the start; names the setting
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar


class AgentDBError(Exception):
    """An error made for its reader: `message` says what was wrong, `hint` what to do next."""

    code: ClassVar[str] = "internal"
    # Whether `message` is text that came from a database, where somebody may have written it.
    untrusted: ClassVar[bool] = False

    def __init__(
        self,
        message: str,
        *,
        hint: str | None = None,
        sqlstate: str | None = None,
        position: int | None = None,
        retryable: bool = False,
    ) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint
        self.sqlstate = sqlstate
        self.position = position
        self.retryable = retryable

    def __str__(self) -> str:
        return self.message

    def as_dict(self) -> dict[str, object]:
        """`{code, message, hint, sqlstate?, position?, context?, retryable}`, as tools and REST answer it."""
        fields: dict[str, object] = {
            "code": self.code,
            "message": self.message,
            "hint": self.hint,
            "retryable": self.retryable,
        }
        if self.sqlstate is not None:
            fields["sqlstate"] = self.sqlstate
        if self.position is not None:
            fields["position"] = self.position
        return fields


class StatementRefused(AgentDBError):
    """The gate read the statement and policy does not let it run."""

    code = "statement_refused"


class BudgetExceeded(AgentDBError):
    """The user's budget does not pay for this any more in the current period."""

    code = "budget_exceeded"


class DatabaseUnavailable(AgentDBError):
    """No database is configured for this scope, or it cannot be reached."""

    code = "database_unavailable"
    # Whether the connection was lost while the caller's statement ran, which costs like any other.
    ran = False


class ProvisioningFailed(AgentDBError):
    """The provider could not make, find or remove a database."""

    code = "provisioning_failed"


@dataclass(frozen=True, slots=True)
class Diagnosis:
    """Postgres's error in its parts, all of them somebody's text; `statement` is which of the call's it was."""

    message: str
    context: str = ""
    schema: str | None = None
    table: str | None = None
    column: str | None = None
    type_name: str | None = None
    constraint: str | None = None
    statement: int = 0


class SqlError(AgentDBError):
    """Postgres refused or failed the statement; the message is its own, and may be an agent's.

    So is `context`: lines on the place in the text, and what the catalog knows of the names.
    """

    code = "sql_error"
    untrusted = True
    diagnosis: Diagnosis | None = None
    context: str | None = None

    def as_dict(self) -> dict[str, object]:
        return super().as_dict() | ({"context": self.context} if self.context else {})


class StatementTimeout(AgentDBError):
    """The statement ran longer than its limit and was ended."""

    code = "timeout"


class ResultTooLarge(AgentDBError):
    """The answer passed a limit that no shorter page could keep."""

    code = "result_too_large"


class RateLimited(AgentDBError):
    """Too many calls in the policy's window."""

    code = "rate_limited"


class InvalidArgument(AgentDBError):
    """An argument is missing, unknown, of the wrong type or out of bounds."""

    code = "invalid_argument"


class NotAllowed(AgentDBError):
    """The caller may not do this."""

    code = "not_allowed"


class NotAuthenticated(AgentDBError):
    """The call carries no valid credential; which of the ways in which it is not valid stays unsaid."""

    code = "not_authenticated"


class NotFound(AgentDBError):
    """There is no such thing, or it is somebody else's."""

    code = "not_found"


class Internal(AgentDBError):
    """A fault of ours; details are in the log only."""

    code = "internal"


class ConfigurationError(AgentDBError):
    """A setting is missing or wrong; names the setting, never its value."""

    code = "configuration"
