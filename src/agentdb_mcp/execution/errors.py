"""Driver errors → ours, in one place. What reaches a caller holds no host, no user and no password."""

from __future__ import annotations

import ssl

import asyncpg

from agentdb_mcp.errors import (
    AgentDBError,
    DatabaseUnavailable,
    Diagnosis,
    Internal,
    NotAllowed,
    SqlError,
    StatementTimeout,
)

MAX_MESSAGE = 2000

# What asyncpg raises for a connection that cannot be made or is gone.
CONNECTION_ERRORS = (
    OSError,
    TimeoutError,
    asyncpg.InterfaceError,
    asyncpg.InternalClientError,
    asyncpg.PostgresConnectionError,
    asyncpg.CannotConnectNowError,
    asyncpg.AdminShutdownError,
    asyncpg.CrashShutdownError,
)
# With these words a server that is suspended, stopped or crashed ends a backend.
ENDED_BY_SERVER = frozenset({"57P01", "57P02"})

# By SQLSTATE, else by its class.
_HINTS = {
    "22": "Check the values against the types, and cast or bound them in the SQL.",
    "22012": "Guard the division, for instance with NULLIF(divisor, 0).",
    "23": "Change the values so that they keep the table's constraints; get_object_details lists them.",
    "23502": "Give the column a value, or a default.",
    "23503": "Insert the row that is referred to first, or remove what refers to this one.",
    "23505": "Use another key, or INSERT … ON CONFLICT … DO UPDATE.",
    "42": "Change the statement; list_objects and get_object_details show what there is.",
    "42803": "Add the column to GROUP BY, or use it in an aggregate.",
    "42P07": "It exists already: use another name, IF NOT EXISTS, or ALTER it.",
    "53": "Make the statement smaller, or run it again later.",
    "42501": "Work in schema public or in a schema that you created; other objects are outside of your walls.",
    "42601": "Correct the syntax at the position; one call takes one statement, several go into execute_transaction.",
    "26000": "Nothing prepared outlives a call: send the statement itself, with params.",
    "25001": "This cannot run in a transaction, and each call is one.",
    "42P01": "List what there is with list_objects, and qualify the name with its schema.",
    "42703": "See the table's columns with get_object_details.",
    "42P18": "Give the parameter a type in the SQL, such as $1::text.",
    "22P02": "Check the value against the type that the message names.",
    "25006": "This call runs read-only; changes are not allowed in it.",
    "40001": "Run it again.",
    "40P01": "Run it again.",
    "55P03": "Another call holds the lock; run it again.",
}


def statement_error(error: BaseException) -> AgentDBError:
    """An error that Postgres answered to a statement, or the end of its connection."""
    if isinstance(error, CONNECTION_ERRORS):
        cause = error.__cause__  # the server's last words, where it had any
        sqlstate = getattr(cause if isinstance(cause, asyncpg.PostgresError) else error, "sqlstate", None)
        return DatabaseUnavailable(
            "The connection ended while the statement ran; nothing of it took effect.",
            hint="Run it again.",
            sqlstate=sqlstate,
            retryable=True,
        )
    sqlstate = getattr(error, "sqlstate", None) or "XX000"
    if sqlstate == "57014":
        return StatementTimeout(
            "The statement was cancelled at its time limit.",
            hint="Make it smaller: add a WHERE or LIMIT, use an index, or split it.",
            sqlstate=sqlstate,
        )
    message = _cut(error.args[0] if error.args else "Postgres refused the statement")
    detail = getattr(error, "detail", None)
    # Of prepared statements asyncpg adds advice of its own, for those who use it.
    hint, _, _ = (getattr(error, "hint", None) or "").partition("\nNOTE: pgbouncer")
    parts = [message, _cut(detail) if detail else "", _cut(hint)]
    ours = SqlError(
        ". ".join(part.rstrip(".") for part in parts if part),
        hint=_HINTS.get(sqlstate) or _HINTS.get(sqlstate[:2]) or "Change the statement and run it again.",
        sqlstate=sqlstate,
        position=_position(error),
        retryable=sqlstate in {"40001", "40P01", "55P03"},
    )
    ours.diagnosis = _diagnosis(error, message)
    return ours


def _diagnosis(error: BaseException, message: str) -> Diagnosis:
    def part(name: str) -> str | None:
        return getattr(error, name, None) or None

    return Diagnosis(
        message,
        _cut(part("context") or ""),
        schema=part("schema_name"),
        table=part("table_name"),
        column=part("column_name"),
        type_name=part("data_type_name"),
        constraint=part("constraint_name"),
    )


def connection_error(error: BaseException) -> AgentDBError:
    """A login that failed or a connection that broke; says what kind, never where."""
    return _tls_error(error) or _proxy_error(error) or _login_error(error)


def _login_error(error: BaseException) -> AgentDBError:
    match error:
        case asyncpg.InvalidPasswordError() | asyncpg.InvalidAuthorizationSpecificationError():
            return DatabaseUnavailable(
                "The database refused the login.", hint="Its credentials changed; whoever runs the platform sets them."
            )
        case asyncpg.TooManyConnectionsError():
            return DatabaseUnavailable("The database has no free connection.", hint="Run it again.", retryable=True)
        case asyncpg.InvalidCatalogNameError():
            return DatabaseUnavailable("The database does not exist any more.")
        case asyncpg.ObjectNotInPrerequisiteStateError():
            return DatabaseUnavailable("The database is paused.", hint="get_budget tells until when.")
        case TimeoutError():
            return DatabaseUnavailable("The database did not answer in time.", hint="Run it again.", retryable=True)
        case asyncpg.InsufficientPrivilegeError():
            return NotAllowed("The database does not let this login in.")
        case (
            OSError()
            | asyncpg.PostgresConnectionError()
            | asyncpg.CannotConnectNowError()
            | asyncpg.AdminShutdownError()
            | asyncpg.CrashShutdownError()
        ):
            return DatabaseUnavailable("The database cannot be reached.", hint="Run it again later.", retryable=True)
        case ValueError() | IndexError():
            return DatabaseUnavailable(
                "The database's URL cannot be read.", hint="Percent-encode special characters of user and password."
            )
        case asyncpg.InterfaceError() | asyncpg.InternalClientError():
            return DatabaseUnavailable("The connection to the database broke.", hint="Run it again.", retryable=True)
        case _:
            return Internal(f"The database connection failed ({type(error).__name__}).")


def _tls_error(error: BaseException) -> DatabaseUnavailable | None:
    """The driver's words are the only sign of some; they name the host, so they are not passed on."""
    text = str(error)
    if isinstance(error, ssl.SSLCertVerificationError):
        return DatabaseUnavailable(
            "The database's TLS certificate is not trusted, or is not for the host that the URL names.",
            hint="Whoever set the URL: name the authority's certificate in sslrootcert, or correct the host.",
        )
    if isinstance(error, ssl.SSLError):
        return DatabaseUnavailable(
            "The TLS handshake with the database failed.", hint="Whoever set the URL: check its ssl options."
        )
    if isinstance(error, ConnectionError) and text.endswith("rejected SSL upgrade"):
        return DatabaseUnavailable(
            "The database's URL requires TLS, and the server does not offer TLS.",
            hint="Switch TLS on at the server, or correct sslmode in the URL.",
        )
    if isinstance(error, asyncpg.InterfaceError) and text.startswith("root certificate file"):
        return DatabaseUnavailable(
            "The database's URL asks to verify the server's certificate, and there is no root certificate to do it by.",
            hint="Whoever set the URL: name the file in sslrootcert.",
        )
    return None


def _proxy_error(error: BaseException) -> DatabaseUnavailable | None:
    """Neon's proxy says XX000 of a project that is over its quota, gone, or not to be woken now (facts: neon §3)."""
    if not isinstance(error, asyncpg.InternalServerError):
        return None
    said = str(error).lower()
    if "quota" in said:
        return DatabaseUnavailable("The database is paused.", hint="get_budget tells until when.")
    if "could not be found" in said:
        return DatabaseUnavailable("The database does not exist any more.")
    return DatabaseUnavailable("The database takes no connection now.", hint="Run it again later.", retryable=True)


def _position(error: asyncpg.PostgresError) -> int | None:
    position = getattr(error, "position", None)
    return int(position) if position and str(position).isdigit() else None


def _cut(text: str) -> str:
    return text if len(text) <= MAX_MESSAGE else text[:MAX_MESSAGE] + " …"
