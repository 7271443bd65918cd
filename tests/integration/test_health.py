"""Faults made in a real database, found as the agent, mended with the finding's own SQL, and gone."""

from __future__ import annotations

from collections.abc import AsyncIterator

import anyio
import asyncpg
import pytest

from agentdb_mcp.advice.health import Finding, Severity, Thresholds
from agentdb_mcp.bootstrap import Application, open_application
from agentdb_mcp.embedded import EmbeddedPostgres
from agentdb_mcp.errors import NotAllowed
from agentdb_mcp.execution import Statement
from agentdb_mcp.local_stack import LocalStack
from agentdb_mcp.models import Scope, Secret, Tenant
from agentdb_mcp.services import Health
from agentdb_mcp.services.health import HEALTH_TYPES, HealthType
from agentdb_mcp.settings import load_settings

ADA = Tenant("health-ada", "of-health-ada")
# In one statement, Postgres itself would leave the second out.
REPEATED = ("CREATE TABLE repeated (a int PRIMARY KEY)", "ALTER TABLE repeated ADD CONSTRAINT again UNIQUE (a)")
SMALL = Thresholds(unused_bytes=8192, unused_table_scans=3, bloated_bytes=1_000_000, transaction_s=0)


class Patient:
    """One tenant's database, as its agent sees it."""

    def __init__(self, application: Application, tenant: Tenant, thresholds: Thresholds = SMALL) -> None:
        self.application, self.tenant = application, tenant
        managed = application.with_control
        self.health = Health(application.queries, application.policy, managed.usage if managed else None, thresholds)

    async def run(self, *texts: str) -> list[list[object]]:
        """The last statement's rows; what they did is counted at once."""
        statements = [Statement(text) for text in (*texts, "SELECT pg_stat_force_next_flush()")]
        answers = [await self.application.queries.execute(self.tenant, Scope.AGENT, [each]) for each in statements]
        return answers[-2].results[0].rows

    async def findings(self, kind: HealthType, check: str, about: str = "") -> list[Finding]:
        report = await self.health.analyze(self.tenant, Scope.AGENT, [kind])
        return [each for each in report.findings if each.check == check and about in each.object]

    async def mended(self, kind: HealthType, check: str, about: str) -> Finding:
        """The one finding; its SQL is run and it is there no more."""
        (finding,) = await self.findings(kind, check, about)
        assert finding.sql, finding
        await self.run(*finding.sql)
        assert await self.findings(kind, check, about) == []
        return finding


@pytest.fixture(scope="module")
async def ada(application: Application) -> Patient:
    patient = Patient(application, ADA)
    await patient.run('CREATE TABLE first ("Odd key" int)')
    return patient


@pytest.fixture(scope="module")
async def outside(ada: Patient, stack: LocalStack) -> AsyncIterator[asyncpg.Connection]:
    """The superuser in Ada's database."""
    ((name,),) = await ada.run("SELECT current_database()")
    connection = await asyncpg.connect(stack.postgres.uri(str(name)).reveal())
    yield connection
    await connection.close()


async def test_a_new_database_has_nothing_wrong_and_says_what_could_not_be_seen(ada: Patient) -> None:
    report = await ada.health.analyze(ADA, Scope.AGENT)
    assert report.findings == []
    assert report.omitted == 0
    assert set(report.figures) >= {"connections", "oldest_transaction_age", "size_bytes", "cents_per_month", "largest"}
    assert report.figures["size_bytes"] > 1_000_000
    assert report.figures["cents_per_month"] == pytest.approx(35 * report.figures["size_bytes"] / 10**9, abs=1e-4)
    assert [each["name"] for each in report.figures["largest"]] == ["public.first"]
    for source in ("pg_stat_activity", "pg_roles", "pg_replication_slots", "pg_stat_replication"):
        assert any(source in each for each in report.not_seen), source


async def test_an_index_that_another_makes_superfluous(ada: Patient) -> None:
    await ada.run(
        'CREATE TABLE "Twice" (a int PRIMARY KEY, b int, c int)',
        'CREATE INDEX one ON "Twice" (b)',
        'CREATE INDEX "Two" ON "Twice" (b, c)',
        'CREATE UNIQUE INDEX as_key ON "Twice" (a)',
        'CREATE INDEX partly ON "Twice" (b) WHERE c > 0',
        'CREATE INDEX downwards ON "Twice" (b DESC)',
    )
    finding = await ada.mended("index", "duplicate_index", "public.one")
    assert finding.sql == ("DROP INDEX public.one",)
    assert 'public."Two" begins with its columns' in finding.why
    assert (await ada.mended("index", "duplicate_index", "as_key")).severity is Severity.WARNING
    assert await ada.findings("index", "duplicate_index") == []


async def test_a_constraint_that_repeats_the_primary_key(ada: Patient) -> None:
    await ada.run(*REPEATED)
    finding = await ada.mended("index", "duplicate_index", "again")
    assert finding.sql == ("ALTER TABLE public.repeated DROP CONSTRAINT again",)


async def test_an_index_whose_build_failed(ada: Patient, outside: asyncpg.Connection) -> None:
    await ada.run("CREATE TABLE numbers (n int)", "INSERT INTO numbers VALUES (1), (1)")
    with pytest.raises(asyncpg.UniqueViolationError):
        await outside.execute("CREATE UNIQUE INDEX CONCURRENTLY once ON public.numbers (n)")
    finding = await ada.mended("index", "invalid_index", "public.once")
    assert "CREATE UNIQUE INDEX once" in finding.why
    await ada.run("CREATE INDEX plain ON numbers (n)")
    await outside.execute("UPDATE pg_index SET indisvalid = false WHERE indexrelid = 'public.plain'::regclass")
    assert (await ada.mended("index", "invalid_index", "plain")).sql == ("REINDEX INDEX public.plain",)


async def test_an_index_that_nobody_uses(ada: Patient) -> None:
    await ada.run(
        "CREATE TABLE idle (a int, b int REFERENCES repeated)",
        "CREATE INDEX useless ON idle (a)",
        "CREATE INDEX for_the_key ON idle (b)",
        "INSERT INTO idle (a) SELECT generate_series(1, 1000)",
        *["SELECT count(*) FROM idle"] * 4,
    )
    assert await ada.findings("index", "unused_index", "for_the_key") == []
    finding = await ada.mended("index", "unused_index", "useless")
    assert finding.severity is Severity.INFO
    assert "cents a month" in finding.why


async def test_an_index_that_is_mostly_empty(ada: Patient, outside: asyncpg.Connection) -> None:
    await ada.run(
        "CREATE TABLE shrunk (a int, b text)",
        "CREATE INDEX airy ON shrunk (a, lower(b))",
        "INSERT INTO shrunk SELECT i, i FROM generate_series(1, 60000) AS i",
        "DELETE FROM shrunk WHERE a % 20 > 0",
    )
    await outside.execute("VACUUM ANALYZE public.shrunk")
    finding = await ada.mended("index", "bloated_index", "airy")
    assert finding.sql == ("REINDEX INDEX public.airy",)
    assert "3,000 entries" in finding.why


async def test_a_foreign_key_without_an_index(ada: Patient) -> None:
    await ada.run(
        'CREATE TABLE target (a int, "B" int, PRIMARY KEY (a, "B"))',
        'CREATE TABLE referring (x int, "Y" int, FOREIGN KEY (x, "Y") REFERENCES target)',
    )
    finding = await ada.mended("index", "foreign_key_without_index", "public.referring")
    assert finding.sql == ('CREATE INDEX ON public.referring (x, "Y")',)
    assert finding.severity is Severity.INFO


async def test_constraints_that_were_not_checked_for_older_rows(ada: Patient) -> None:
    await ada.run(
        "CREATE TABLE old (n int)",
        "INSERT INTO old VALUES (1)",
        "ALTER TABLE old ADD CONSTRAINT positive CHECK (n > 0) NOT VALID",
        "CREATE DOMAIN small AS int",
        "ALTER DOMAIN small ADD CONSTRAINT below CHECK (value < 10) NOT VALID",
    )
    assert "CHECK ((n > 0)) NOT VALID" in (await ada.mended("constraint", "unchecked_constraint", "positive")).why
    await ada.mended("constraint", "unchecked_constraint", "below")


@pytest.mark.parametrize(
    ("made", "statements"),
    [
        ("serial", 2),
        ("int GENERATED ALWAYS AS IDENTITY", 2),
        ("bigint GENERATED BY DEFAULT AS IDENTITY (MAXVALUE 1000)", 1),
        ("smallserial", 2),
    ],
)
async def test_a_sequence_near_its_end(ada: Patient, made: str, statements: int) -> None:
    await ada.run("DROP TABLE IF EXISTS counted", f"CREATE TABLE counted (id {made} PRIMARY KEY, t text)")
    await ada.run(
        "SELECT setval(seqrelid, seqmax / 10 * 8) FROM pg_sequence WHERE seqrelid = 'counted_id_seq'::regclass"
    )
    (finding,) = await ada.findings("sequence", "sequence_near_its_end", "counted")
    assert finding.severity is Severity.WARNING
    await ada.run(
        "SELECT setval(seqrelid, seqmax / 100 * 91) FROM pg_sequence WHERE seqrelid = 'counted_id_seq'::regclass"
    )
    finding = await ada.mended("sequence", "sequence_near_its_end", "public.counted_id_seq")
    assert finding.severity is Severity.CRITICAL
    assert len(finding.sql) == statements
    await ada.run("SELECT setval('counted_id_seq', 3000000000)", "INSERT INTO counted (t) VALUES ('x')")


async def test_a_sequence_of_bigint_that_an_integer_column_uses(ada: Patient) -> None:
    await ada.run(
        "CREATE TABLE narrow (id int)",
        "CREATE SEQUENCE wide OWNED BY narrow.id",
        "SELECT setval('wide', 2100000000)",
    )
    finding = await ada.mended("sequence", "sequence_near_its_end", "wide")
    assert finding.sql == ("ALTER TABLE public.narrow ALTER COLUMN id TYPE bigint",)


async def test_dead_rows_of_a_table_without_autovacuum(ada: Patient) -> None:
    await ada.run(
        "CREATE TABLE dirty (n int) WITH (autovacuum_enabled = off)",
        "INSERT INTO dirty SELECT generate_series(1, 2000)",
        "UPDATE dirty SET n = n + 1",
    )
    finding = await ada.mended("vacuum", "autovacuum_off", "public.dirty")
    assert "2,000 dead rows" in finding.why
    (refused,) = await ada.findings("vacuum", "stale_statistics", "dirty")
    assert refused.sql == ("ANALYZE public.dirty",)
    await ada.mended("vacuum", "stale_statistics", "dirty")


async def test_a_transaction_that_stays_open(ada: Patient) -> None:
    async with anyio.create_task_group() as group:
        group.start_soon(ada.run, "SELECT pg_sleep(12) AS of_the_sleeper")
        with anyio.fail_after(10):
            while not (found := await ada.findings("connection", "long_transaction")):
                await anyio.sleep(0.02)
        group.cancel_scope.cancel()
    (finding,) = found
    assert "of_the_sleeper" in finding.why
    assert finding.severity is Severity.INFO
    assert await ada.findings("connection", "long_transaction") == []


async def test_storage_that_takes_much_of_the_budget(ada: Patient) -> None:
    patient = Patient(ada.application, ADA, Thresholds(storage_warning=0.0001))
    (finding,) = (await patient.health.analyze(ADA, Scope.AGENT, ["growth"])).findings
    assert finding.check == "storage"
    assert "of the user's budget" in finding.why


async def test_extensions_own_objects_are_left_out(ada: Patient, outside: asyncpg.Connection) -> None:
    await outside.execute("CREATE SCHEMA of_extension; GRANT USAGE ON SCHEMA of_extension TO PUBLIC")
    await outside.execute("CREATE TABLE of_extension.theirs (a int PRIMARY KEY)")
    await outside.execute("ALTER TABLE of_extension.theirs ADD UNIQUE (a)")
    (before,) = await ada.findings("index", "duplicate_index", "of_extension")
    assert before.sql == ()
    assert before.why.endswith("Only its owner may mend it.")
    await outside.execute("ALTER EXTENSION plpgsql ADD TABLE of_extension.theirs")
    assert await ada.findings("index", "duplicate_index", "of_extension") == []
    await outside.execute("ALTER EXTENSION plpgsql DROP TABLE of_extension.theirs; DROP SCHEMA of_extension CASCADE")


@pytest.mark.parametrize("kind", HEALTH_TYPES)
async def test_each_part_can_be_looked_at_alone(ada: Patient, kind: HealthType) -> None:
    report = await ada.health.analyze(ADA, Scope.AGENT, [kind])
    assert ("size_bytes" in report.figures) == (kind == "growth")


async def test_where_something_else_is_forbidden_the_rest_is_seen(ada: Patient, outside: asyncpg.Connection) -> None:
    await outside.execute("REVOKE ALL ON pg_catalog.pg_statio_user_tables FROM PUBLIC")
    report = await ada.health.analyze(ADA, Scope.AGENT)
    await outside.execute("GRANT SELECT ON pg_catalog.pg_statio_user_tables TO PUBLIC")
    assert "buffers (this role may not read them)" in report.not_seen
    assert "size_bytes" in report.figures


async def test_a_database_that_the_user_brought_has_no_price_and_hides_nothing(
    postgres: EmbeddedPostgres, project_uri: Secret
) -> None:
    async with open_application(load_settings({"AGENT_DB_URL": project_uri.reveal()})) as application:
        patient = Patient(application, Tenant())
        await patient.run(*REPEATED)
        report = await patient.health.analyze(Tenant(), Scope.AGENT)
        assert "cents_per_month" not in report.figures
        assert report.not_seen == []
        assert [each.check for each in report.findings] == ["duplicate_index"]
        assert "cents" not in report.findings[0].why
        with pytest.raises(NotAllowed) as missing:
            await patient.health.top_queries(Tenant(), Scope.AGENT, "resources", 10, 100)
    assert (missing.value.hint or "").endswith("or the database's owner runs: CREATE EXTENSION pg_stat_statements;")


async def test_where_access_is_read_only_findings_say_who_could_mend_them(
    project_uri: Secret, tmp_path_factory: pytest.TempPathFactory
) -> None:
    inside = await asyncpg.connect(project_uri.reveal())
    await inside.execute("; ".join(REPEATED))
    await inside.close()
    policy = tmp_path_factory.mktemp("policy") / "read.toml"
    policy.write_text('name = "read"\nversion = "1"\n[access]\nmode = "restricted"\n')
    settings = load_settings({"AGENT_DB_URL": project_uri.reveal(), "AGENTDB_POLICY": str(policy)})
    async with open_application(settings) as application:
        (finding,) = (await Patient(application, Tenant()).health.analyze(Tenant(), Scope.AGENT)).findings
    assert finding.sql == ()
    assert "access is read-only" in finding.why
