"""`doctor`: is everything set and reachable, and if not, what to do."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from typing import Any

from agentdb_mcp.bootstrap import Application
from agentdb_mcp.credentials.cipher import DecryptionError
from agentdb_mcp.errors import AgentDBError
from agentdb_mcp.execution import catalog
from agentdb_mcp.jobs import jobs_of
from agentdb_mcp.models import Scope
from agentdb_mcp.store import migrations
from agentdb_mcp.store.jobs import JobRow, JobStore

# A job that is due for longer than this many of its periods is not being run.
OVERDUE_PERIODS = 3


@dataclass(frozen=True, slots=True)
class Finding:
    """One check; `ok` is None where there is nothing to check."""

    check: str
    ok: bool | None
    message: str
    hint: str | None = None

    def as_dict(self) -> dict[str, object]:
        return {"check": self.check, "ok": self.ok, "message": self.message, "hint": self.hint}


async def examine(application: Application) -> AsyncIterator[Finding]:
    """Check settings, control database, migrations, the provider's key and the tenant's plain URLs; changes nothing."""
    yield Finding("policy", True, f"policy {application.policy.name}, version {application.policy.version}")
    yield _keys(application)
    async for finding in _control(application):
        yield finding
    yield await _provider(application)
    for scope, url in (
        (Scope.AGENT, application.settings.agent_db_url),
        (Scope.GLOBAL, application.settings.global_db_url),
    ):
        if url is not None:
            async for finding in _database(application, scope):
                yield finding


def _keys(application: Application) -> Finding:
    count = len(application.settings.encryption_keys)
    if count:
        return Finding("encryption", True, f"{count} encryption key{'s' if count > 1 else ''}")
    if application.with_control is None:
        return Finding("encryption", None, "no encryption keys; none are needed without a control database")
    return Finding(
        "encryption",
        False,
        "AGENTDB_ENCRYPTION_KEYS is missing.",
        "Set it to a key of 64 hexadecimal characters; `openssl rand -hex 32` prints one.",
    )


async def _control(application: Application) -> AsyncIterator[Finding]:
    if application.with_control is None:
        yield Finding("control database", None, "AGENTDB_CONTROL_URL is not set: plain URLs only")
        return
    try:
        async with application.with_control.control.connection() as connection:
            pending, newer = await migrations.pending(connection), await migrations.newer(connection)
    except AgentDBError as error:
        yield Finding("control database", False, error.message, "Check AGENTDB_CONTROL_URL and that it is running.")
        return
    yield Finding("control database", True, "reachable")
    if pending:
        yield Finding("migrations", False, f"{len(pending)} to apply", "Run `agentdb-mcp migrate`.")
        return
    if newer:
        yield Finding(
            "migrations",
            None,
            f"the control database is newer than this version: it has step {newer[-1]:04}",
            "Fine while versions are being replaced; after that, run the newest everywhere.",
        )
    else:
        yield Finding("migrations", True, "up to date")
    if application.settings.encryption_keys:
        yield await _stored(application)
    yield await _sim_variables(application)
    async for finding in _jobs(application):
        yield finding


async def _stored(application: Application) -> Finding:
    """Whether the keys open what is stored; counts alone, no rows."""
    check = "stored connection strings"
    report = await application.managed().keys.check()
    if report.unreadable:
        return Finding(
            check,
            False,
            f"{report.unreadable} of {report.total} open with none of the keys.",
            "Add the key that they were written with at the end of AGENTDB_ENCRYPTION_KEYS.",
        )
    if report.older:
        older = f"{report.older} of {report.total} are under an older key"
        return Finding(check, None, older, "Run `agentdb-mcp keys rotate`, then leave that key out.")
    return Finding(check, True, f"{report.total} under the first key")


async def _sim_variables(application: Application) -> Finding:
    """Whether Sim will be able to read what is written into its variables."""
    check, variables = "sim variables", application.managed().lifecycle.variables
    try:
        if not await variables.store.installed():
            return Finding(check, None, "no tables of Sim's here: no variables are written")
        if variables.cipher is None:
            return Finding(
                check,
                False,
                "Sim's tables are here and ENCRYPTION_KEY is missing: AGENT_DB_URL and GLOBAL_DB_URL are not written.",
                "Set ENCRYPTION_KEY to the value that Sim has.",
            )
        sample = await variables.store.sample()
        if sample is not None:
            variables.cipher.decrypt(sample)
    except DecryptionError:
        return Finding(
            check,
            False,
            "ENCRYPTION_KEY does not open a variable of Sim's: Sim could not read what is written with it.",
            "Set ENCRYPTION_KEY to the value that Sim has.",
        )
    except AgentDBError as error:
        return Finding(check, False, error.message, error.hint)
    return Finding(check, True, f"written as {variables.rules.variables} under Sim's key")


async def _jobs(application: Application) -> AsyncIterator[Finding]:
    """Of the jobs that these settings need, those that a worker ever ran."""
    known = {job.name for job in jobs_of(application)}
    rows = [row for row in await JobStore(application.managed().control).all() if row.name in known]
    if known and not rows:
        yield Finding("jobs", None, "no worker ever ran", "Keep `agentdb-mcp worker` running.")
    for row in rows:
        yield _job(row)


def _job(row: JobRow) -> Finding:
    check = f"job {row.name}"
    last = "never ran to its end" if row.last_run_at is None else f"last ran at {row.last_run_at:%Y-%m-%dT%H:%M:%SZ}"
    if row.last_error is not None:
        last += f" and failed ({row.last_error})"
    if row.overdue_s > OVERDUE_PERIODS * row.period_s:
        late = f"overdue by {row.overdue_s:.0f} seconds, wanted every {row.period_s:g}"
        return Finding(check, False, f"{last}; {late}", "Keep `agentdb-mcp worker` running.")
    if row.last_error is not None:
        return Finding(check, None, last, "The worker's log says why; it comes again at its next time.")
    return Finding(check, True, last)


async def _provider(application: Application) -> Finding:
    settings = application.settings
    check, answer = "neon", f"{settings.neon_api_host} accepts the key"
    if settings.provider_url is not None:
        check, answer = "postgres provider", "the cluster of AGENTDB_PROVIDER_URL lets us make databases"
    provider = application.with_control.provider if application.with_control else None
    if provider is None:
        return Finding(check, None, "no provider with a control database: nothing can be made on first use")
    try:
        await provider.check()
    except AgentDBError as error:
        return Finding(check, False, error.message, error.hint)
    return Finding(check, True, answer)


async def _database(application: Application, scope: Scope) -> AsyncIterator[Finding]:
    """A database that somebody brought: does it answer, and what may its login do that an agent should not."""
    name = "AGENT_DB_URL" if scope is Scope.AGENT else "GLOBAL_DB_URL"
    try:
        (answer,) = await application.queries.catalog(application.tenant, scope, [catalog.login_powers()])
    except AgentDBError as error:
        yield Finding(name, False, error.message, error.hint)
        return
    yield Finding(name, True, "answers")
    if not answer.rows:
        return
    powers = dict(zip((column.name for column in answer.columns), answer.rows[0], strict=True))
    for finding in _excess(name, powers):
        yield finding


def _excess(name: str, powers: dict[str, Any]) -> Iterator[Finding]:
    """What a plain login has beyond its own objects, with the SQL that takes it away."""
    login = _quoted(powers["login"])
    for attribute in ("superuser", "createrole", "createdb", "bypassrls", "replication"):
        if powers[attribute]:
            yield Finding(
                f"{name} login",
                False,
                f"the login has {attribute.upper()}",
                f"ALTER ROLE {login} NO{attribute.upper()};",
            )
    if not powers["superuser"]:
        for role in powers["memberships"]:
            revoke = f"REVOKE {_quoted(role)} FROM {login};"
            yield Finding(f"{name} login", False, f"the login is a member of {role}", revoke)
    if powers["other_databases"]:
        count = powers["other_databases"]
        yield Finding(
            f"{name} server",
            False,
            f"the login may connect to {count} other database{'s' if count > 1 else ''} of its server",
            "REVOKE CONNECT ON DATABASE … FROM PUBLIC; for each of them.",
        )


def _quoted(name: object) -> str:
    return '"' + str(name).replace('"', '""') + '"'
