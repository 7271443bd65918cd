"""Workers that share jobs: every due time is run once, whatever becomes of workers, jobs and the control database."""

from __future__ import annotations

import secrets
import signal
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import anyio
import asyncpg
import pytest

from agentdb_mcp.bootstrap import Application, open_application
from agentdb_mcp.doctor import Finding, examine
from agentdb_mcp.embedded import embedded_postgres
from agentdb_mcp.errors import ProvisioningFailed
from agentdb_mcp.jobs import Job, Worker
from agentdb_mcp.models import Secret
from agentdb_mcp.settings import load_settings
from agentdb_mcp.store import ControlDatabase, migrations
from agentdb_mcp.store.jobs import JobStore
from processes import Launch, Process

PATIENCE_S = 60
# Of what is to lose its lease; of all else longer than a loaded machine may hold a process up.
SHORT_S, LEASE_S = 1.5, 30
LONG_S = 3600

# The command itself with one job of ours, which writes into `run` and then holds, or not.
WORKER = """
import os, sys
from functools import partial
import anyio
from agentdb_mcp import cli, cli_worker
from agentdb_mcp.jobs import Job, Worker

mode, period_s, lease_s, grace_s = sys.argv[1], *map(float, sys.argv[2:5])

async def note(application):
    control = application.managed().control
    async with control.connection() as connection:
        number = await connection.fetchval(
            "INSERT INTO run (due, pid) SELECT next_run_at, $1 FROM agentdb_job RETURNING number", os.getpid()
        )
    if mode == "hold":
        await anyio.sleep(3600)
    elif mode == "wait":
        while not await _released(control):
            await anyio.sleep(0.02)
    async with control.connection() as connection:
        await connection.execute("UPDATE run SET over = true WHERE number = $1", number)

async def _released(control):
    async with control.connection() as connection:
        return await connection.fetchval("SELECT to_regclass('released') IS NOT NULL")

cli_worker.jobs_of = lambda application: [Job("note", period_s, 3600, note)]
cli_worker.Worker = partial(Worker, lease_s=lease_s, grace_s=grace_s)
sys.argv[1:] = ["worker"]
cli.main()
"""


class Place:
    """A control database of a test's own, and worker processes on it."""

    def __init__(self, uri: Secret, connection: asyncpg.Connection, folder: Path, forked: Launch) -> None:
        self.uri = uri
        self.forked = forked
        self.connection = connection
        self.folder = folder

    @asynccontextmanager
    async def worker(
        self, mode: str = "quick", *, every_s: float = LONG_S, lease_s: float = LEASE_S, grace_s: float = 10
    ) -> AsyncIterator[Process]:
        environ, log = {"AGENTDB_CONTROL_URL": self.uri.reveal()}, self.folder / secrets.token_hex(4)
        arguments = [mode, str(every_s), str(lease_s), str(grace_s)]
        async with self.forked(environ, log, *arguments, program=WORKER) as process:
            with anyio.fail_after(PATIENCE_S):
                yield process

    def log(self) -> str:
        """What all workers said."""
        return "".join(file.read_text() for file in self.folder.iterdir())

    async def until(self, condition: str, *values: object) -> None:
        """Wait for a condition in SQL."""
        with anyio.fail_after(PATIENCE_S):
            while not await self.connection.fetchval(f"SELECT {condition}", *values):
                await anyio.sleep(0.02)

    async def job(self, name: str = "note") -> asyncpg.Record:
        return await self.connection.fetchrow("SELECT * FROM agentdb_job WHERE name = $1", name)

    async def ends(self, process: Process) -> None:
        """It ends by itself with exit code 0 and leaves no connection."""
        assert await process.wait() == 0, self.log()
        assert "Traceback" not in self.log()


async def until(condition: Callable[[], bool | Awaitable[bool]]) -> None:
    with anyio.fail_after(PATIENCE_S):
        while True:
            found = condition()
            if found if isinstance(found, bool) else await found:
                return
            await anyio.sleep(0.02)


@pytest.fixture
async def place(empty_database: Secret, tmp_path: Path, forked: Launch) -> AsyncIterator[Place]:
    connection = await asyncpg.connect(empty_database.reveal())
    await migrations.apply(connection)
    await connection.execute(
        "CREATE TABLE run (number serial, due timestamptz, pid int, over bool NOT NULL DEFAULT false)"
    )
    yield Place(empty_database, connection, tmp_path, forked)
    await connection.close()


@pytest.fixture
async def store(place: Place) -> AsyncIterator[JobStore]:
    control = ControlDatabase(place.uri)
    yield JobStore(control)
    await control.close()


@asynccontextmanager
async def working(uri: Secret, *jobs: Job, **options: Any) -> AsyncIterator[Worker]:
    """A worker in this process; asked to stop at the end of the block."""
    settings = load_settings({"AGENTDB_CONTROL_URL": uri.reveal()})
    async with open_application(settings) as application, anyio.create_task_group() as group:
        worker = Worker(application, JobStore(application.managed().control), jobs, **options)
        group.start_soon(worker.run)
        with anyio.fail_after(PATIENCE_S):
            yield worker
        worker.stop()


class Counted:
    """A job that counts its runs, and fails each time with `error` if there is one."""

    def __init__(self, name: str, error: Exception | None = None) -> None:
        self.runs = 0
        self.error = error
        self.job = Job(name, 0.2, 60, self.run)

    async def run(self, _: Application) -> None:
        self.runs += 1
        if self.error is not None:
            raise self.error


async def test_two_workers_share_a_job_and_run_each_due_time_once(place: Place) -> None:
    async with place.worker(every_s=0.1) as one, place.worker(every_s=0.1) as other:
        await place.until("(SELECT count(*) FROM run WHERE over) >= 20")
        one.terminate()
        await place.ends(one)
        ended = await place.connection.fetchval("SELECT count(*) FROM run")
        await place.until("(SELECT count(*) FROM run WHERE over) >= $1 + 5", ended)
        other.terminate()
        await place.ends(other)
    rows = await place.connection.fetch("SELECT due, over FROM run ORDER BY number")
    dues = [row["due"] for row in rows]
    assert dues == sorted(set(dues))
    assert all(row["over"] for row in rows)
    periods = [(due - dues[0]).total_seconds() / 0.1 for due in dues]
    assert periods == pytest.approx([round(period) for period in periods], abs=1e-3)


async def test_a_job_that_a_killed_worker_ran_is_completed_by_another(place: Place) -> None:
    async with place.worker("hold", lease_s=SHORT_S) as one:
        await place.until("EXISTS (SELECT FROM run)")
        async with place.worker() as other:
            one.kill()
            await place.until("EXISTS (SELECT FROM run WHERE pid = $1 AND over)", other.pid)
            await place.until("(SELECT last_run_at FROM agentdb_job) IS NOT NULL")
            other.terminate()
            await place.ends(other)
    rows = await place.connection.fetch("SELECT due, over FROM run ORDER BY number")
    assert [row["over"] for row in rows] == [False, True]
    assert rows[0]["due"] == rows[1]["due"]


async def test_a_worker_stopped_past_its_lease_lets_go_of_the_job(place: Place) -> None:
    async with place.worker("hold", lease_s=SHORT_S) as one:
        await place.until("EXISTS (SELECT FROM run)")
        one.send_signal(signal.SIGSTOP)
        async with place.worker() as other:
            await place.until("EXISTS (SELECT FROM run WHERE pid = $1 AND over)", other.pid)
            await place.until("(SELECT last_run_at FROM agentdb_job) IS NOT NULL")
            done = await place.job()
            one.send_signal(signal.SIGCONT)
            await until(lambda: "job lost its lease" in place.log())
            one.terminate()
            await place.ends(one)
            other.terminate()
            await place.ends(other)
    assert await place.job() == done
    assert await place.connection.fetchval("SELECT count(*) FROM run") == 2


async def test_a_job_may_run_longer_than_the_lease(place: Place) -> None:
    async with place.worker("wait", lease_s=3) as one, place.worker("wait", lease_s=3) as other:
        await place.until("EXISTS (SELECT FROM run)")
        first = await place.job()
        await place.until(
            "(SELECT now() > $1 AND lease_expires_at > now() FROM agentdb_job)", first["lease_expires_at"]
        )
        await place.connection.execute("CREATE TABLE released ()")
        await place.until("(SELECT last_run_at FROM agentdb_job) IS NOT NULL")
        for process in (one, other):
            process.terminate()
            await place.ends(process)
    assert await place.connection.fetchval("SELECT count(*) FROM run") == 1
    assert (await place.job())["fence"] == first["fence"]


@pytest.mark.parametrize("sign", [signal.SIGTERM, signal.SIGINT])
async def test_a_worker_that_is_asked_to_end_gives_back_what_takes_too_long(place: Place, sign: signal.Signals) -> None:
    async with place.worker("hold", grace_s=0.3) as one:
        await place.until("EXISTS (SELECT FROM run)")
        one.send_signal(sign)
        await place.ends(one)
    job = await place.job()
    assert (job["lease_expires_at"], job["last_run_at"]) == (None, None)
    assert job["next_run_at"] == await place.connection.fetchval("SELECT due FROM run")
    await place.until("(SELECT count(*) = 1 FROM pg_stat_activity WHERE datname = current_database())")


async def test_a_worker_that_is_asked_to_end_lets_the_running_job_end(place: Place) -> None:
    async with place.worker("wait") as one:
        await place.until("EXISTS (SELECT FROM run)")
        one.terminate()
        await place.connection.execute("CREATE TABLE released ()")
        await place.ends(one)
    assert await place.connection.fetchval("SELECT over FROM run")
    assert (await place.job())["last_run_at"] is not None


async def test_a_second_signal_ends_a_worker_at_once(place: Place) -> None:
    async with place.worker("hold", grace_s=LONG_S) as one:
        await place.until("EXISTS (SELECT FROM run)")
        one.terminate()
        await until(lambda: "worker asked to end" in place.log())
        one.terminate()
        await place.ends(one)
    assert (await place.job())["lease_expires_at"] is None


@pytest.fixture
def data_dir() -> Iterator[Path]:
    """A folder that does not exist yet, where an unprivileged account may go."""
    with tempfile.TemporaryDirectory(prefix="jobs-") as folder:
        Path(folder).chmod(0o755)
        yield Path(folder) / "data"


async def test_the_control_database_may_go_away_and_come_back(data_dir: Path) -> None:
    """What runs meanwhile is noted afterwards, and not run again."""
    begun, released, idle = anyio.Event(), anyio.Event(), Counted("idle")
    runs = 0

    async def run(_: Application) -> None:
        nonlocal runs
        runs += 1
        begun.set()
        await released.wait()

    async with AsyncExitStack() as stack:
        server = await stack.enter_async_context(embedded_postgres(data_dir))
        async with working(server.uri(), Job("long", LONG_S, 60, run), idle.job):
            await begun.wait()
            await until(lambda: idle.runs >= 2)
            await stack.aclose()
            released.set()
            before = idle.runs
            async with embedded_postgres(data_dir) as again:
                assert again.uri().reveal() == server.uri().reveal()
                await until(lambda: idle.runs > before + 1)
                connection = await asyncpg.connect(again.uri().reveal())
                noted = "SELECT true FROM agentdb_job WHERE name = 'long' AND last_run_at IS NOT NULL"
                while not await connection.fetchval(noted):
                    await anyio.sleep(0.02)
                await connection.close()
    assert runs == 1


async def test_a_worker_waits_for_a_control_database_that_is_not_there_yet(place: Place, free_tcp_port: int) -> None:
    absent = Place(
        Secret(f"postgresql://u:p@127.0.0.1:{free_tcp_port}/d"), place.connection, place.folder, place.forked
    )
    async with absent.worker() as one:
        await until(lambda: "waiting for the control database" in place.log())
        assert one.returncode is None
        one.terminate()
        await place.ends(one)


async def test_a_worker_that_may_not_log_in_ends_with_one_line(place: Place) -> None:
    wrong = Secret(place.uri.reveal().replace("postgres:", "postgres:not", 1))
    async with Place(wrong, place.connection, place.folder, place.forked).worker() as one:
        assert await one.wait() == 1
    assert "agentdb-mcp: The control database refused the login." in place.log()
    assert "Traceback" not in place.log()


async def test_a_job_that_fails_comes_again_and_stops_no_other(place: Place, caplog: pytest.LogCaptureFixture) -> None:
    away = Counted("away", ProvisioningFailed("Neon is away."))
    fault = Counted("fault", ExceptionGroup("", [ValueError("a bug")]))
    good = Counted("good")
    caplog.set_level("INFO")
    async with working(place.uri, away.job, fault.job, good.job):
        await until(lambda: min(away.runs, fault.runs, good.runs) >= 3)
    errors = await place.connection.fetch("SELECT name, last_error FROM agentdb_job ORDER BY name")
    assert [tuple(row) for row in errors] == [
        ("away", "provisioning_failed"),
        ("fault", "internal"),
        ("good", None),
    ]
    said = [record.getMessage() for record in caplog.records]
    assert any("job failed" in line and "away" in line and "provisioning_failed" in line for line in said)
    assert any("job done" in line and "good" in line and "seconds" in line for line in said)


async def test_an_overlong_run_is_ended_at_its_timeout_and_comes_again(place: Place) -> None:
    ended = 0

    async def run(_: Application) -> None:
        nonlocal ended
        try:
            await anyio.sleep_forever()
        finally:
            ended += 1

    async with working(place.uri, Job("slow", 0.2, 0.1, run)):
        await until(lambda: ended >= 2)
        await place.until("(SELECT last_error FROM agentdb_job) = 'timeout'")


async def test_due_times_that_nobody_ran_are_made_up_for_by_one_run(place: Place, store: JobStore) -> None:
    await store.declare("late", 100)
    await place.connection.execute("UPDATE agentdb_job SET next_run_at = now() - interval '1050 s'")
    before = await place.job("late")
    claim = await store.claim("late", 30)
    assert claim is not None
    assert await store.finish(claim, None)
    after = await place.job("late")
    assert (after["next_run_at"] - before["next_run_at"]).total_seconds() == pytest.approx(1100)
    assert await store.claim("late", 30) is None
    assert await store.due_in("late") == pytest.approx(50, abs=20)


async def test_of_many_claims_at_once_one_wins(place: Place, store: JobStore) -> None:
    await store.declare("wanted", 100)
    won: list[object] = []

    async def claim() -> None:
        if (claimed := await store.claim("wanted", 30)) is not None:
            won.append(claimed)

    async with anyio.create_task_group() as group:
        for _ in range(20):
            group.start_soon(claim)
    assert len(won) == 1


async def test_who_lost_a_claim_changes_nothing(place: Place, store: JobStore) -> None:
    await store.declare("lost", 100)
    stale, live = await store.claim("lost", 0), await store.claim("lost", 30)
    assert stale is not None
    assert live is not None
    before = await place.job("lost")
    assert not await store.renew(stale, 30)
    assert not await store.finish(stale, "timeout")
    assert not await store.release(stale)
    assert await place.job("lost") == before
    assert await store.renew(live, 30)


async def test_a_shorter_period_counts_from_now_and_a_longer_one_from_the_next_time(
    place: Place, store: JobStore
) -> None:
    await store.declare("changed", 1000)
    claim = await store.claim("changed", 30)
    assert claim is not None
    await store.finish(claim, None)
    await store.declare("changed", 10)
    soon = await store.due_in("changed")
    assert soon is not None
    assert 0 < soon <= 10
    await store.declare("changed", 5000)
    later = await store.due_in("changed")
    assert later is not None
    assert later <= soon
    assert (await place.job("changed"))["period_s"] == 5000


async def test_a_row_that_somebody_removed_is_declared_again(place: Place) -> None:
    counted = Counted("removed")
    async with working(place.uri, counted.job):
        await until(lambda: counted.runs >= 1)
        await place.connection.execute("DELETE FROM agentdb_job")
        runs = counted.runs
        await until(lambda: counted.runs >= runs + 2)


async def findings(environ: dict[str, str]) -> dict[str, Finding]:
    async with open_application(load_settings(environ), migrate=False) as application:
        return {finding.check: finding async for finding in examine(application) if finding.check.startswith("job")}


async def test_doctor_says_when_a_job_last_ran_and_warns_when_it_is_overdue(
    environ: dict[str, str], application: Application
) -> None:
    store = JobStore(application.managed().control)
    assert (await store.all()) == []
    assert {name: finding.ok for name, finding in (await findings(environ)).items()} == {"jobs": None}
    await store.declare("reconcile", 900)
    claim = await store.claim("reconcile", 30)
    assert claim is not None
    await store.finish(claim, None)
    await store.declare("of another version", 0.001)
    found = await findings(environ)
    assert list(found) == ["job reconcile"]
    assert found["job reconcile"].ok
    assert "last ran at 2" in found["job reconcile"].message
    async with application.managed().control.connection() as connection:
        await connection.execute(
            "UPDATE agentdb_job SET next_run_at = now() - interval '2710 s', last_error = 'timeout'"
        )
        late = (await findings(environ))["job reconcile"]
        await connection.execute("UPDATE agentdb_job SET lease_expires_at = now() + interval '30 s'")
        running = (await findings(environ))["job reconcile"]
        await connection.execute("DELETE FROM agentdb_job")
    assert late.ok is False
    assert "failed (timeout); overdue by 27" in late.message
    assert late.hint
    assert running.ok is None
