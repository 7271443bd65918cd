"""A worker: it runs jobs when they are due.

Any number of workers share the jobs. Each due time is run by one of them, under a lease that it renews; when a worker
dies, the lease ends and another runs the job again, so jobs must bear being repeated. The lease's fence tells a worker
that was stopped for a while that the job is no longer its own.
"""

from __future__ import annotations

import random
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from typing import TypeVar

import anyio

from agentdb_mcp import metrics
from agentdb_mcp.bootstrap import Application
from agentdb_mcp.errors import AgentDBError, ConfigurationError, Internal, StatementTimeout
from agentdb_mcp.logs import Identified, get_logger
from agentdb_mcp.store.jobs import JobClaim, JobStore
from agentdb_mcp.telemetry import span

log = get_logger(__name__)

FIRST_PAUSE_S = 0.5
MAX_PAUSE_S = 30.0
RELEASE_S = 2.0

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Job:
    """Something to do every `every_s` seconds, each time within `timeout_s`."""

    name: str
    every_s: float
    timeout_s: float
    run: Callable[[Application], Awaitable[None]]
    needs_provider: bool = False


@dataclass(frozen=True)
class Worker:
    """Runs jobs until it is asked to stop. Faults of jobs and of the control database end no worker."""

    application: Application
    store: JobStore
    jobs: Sequence[Job]
    lease_s: float = 30.0
    grace_s: float = 10.0
    # Sleeps are cut to this, since due times may be changed by other workers.
    poll_s: float = 5.0
    # Whether runs that succeed are worth a line for debugging only.
    quiet: bool = False
    _stopping: anyio.Event = field(init=False, default_factory=anyio.Event)
    _waiting: set[anyio.CancelScope] = field(init=False, default_factory=set)

    def stop(self) -> None:
        """Claim nothing more; what runs has `grace_s` to end."""
        self._stopping.set()
        for scope in self._waiting:
            scope.cancel()

    async def run(self) -> None:
        """Work until `stop`. Raises AgentDBError for a control database that waiting would not help."""
        async with anyio.create_task_group() as group:
            for job in self.jobs:
                group.start_soon(self._keep, job)
            await self._stopping.wait()
            group.cancel_scope.deadline = anyio.current_time() + self.grace_s

    async def _keep(self, job: Job) -> None:
        declared = False
        while not self._stopping.is_set():
            held = None
            with anyio.CancelScope() as waiting:
                self._waiting.add(waiting)
                if not declared:
                    await self._insist(lambda: self.store.declare(job.name, job.every_s), at_start=True)
                    declared = True
                held = await self._next(job)
            self._waiting.discard(waiting)
            if held is not None:
                await self._run(job, *held)

    async def _next(self, job: Job) -> tuple[JobClaim, float]:
        """Wait for the job to be due and ours; and the moment until which it surely is."""

        async def claim() -> tuple[JobClaim, float] | None:
            asked = anyio.current_time()
            claimed = await self.store.claim(job.name, self.lease_s)
            return None if claimed is None else (claimed, asked + self.lease_s)

        while True:
            if (held := await self._insist(claim)) is not None:
                return held
            seconds = await self._insist(lambda: self.store.due_in(job.name))
            if seconds is None:
                await self._insist(lambda: self.store.declare(job.name, job.every_s))
                continue
            # Above zero where another worker was faster: its lease counts from now on.
            await anyio.sleep(min(max(seconds, 0.05), self.poll_s))

    async def _run(self, job: Job, claim: JobClaim, until: float) -> None:
        """Run the job under its lease and note what became of it; interrupted, give it back."""
        begun = anyio.current_time()
        over, error = False, None
        try:
            with anyio.CancelScope(deadline=until) as held:
                async with anyio.create_task_group() as group:
                    group.start_soon(self._renew, claim, held)
                    with Identified(f"{job.name}-{claim.fence}"):
                        error = await self._outcome(job)
                    over = True
                    group.cancel_scope.cancel()
            if over:
                self._tell(job, error, anyio.current_time() - begun)
                if not await self._insist(lambda: self.store.finish(claim, error.code if error else None)):
                    log.warning("job was taken over", job=job.name)
            else:
                log.warning("job lost its lease", job=job.name, seconds=round(anyio.current_time() - begun, 3))
        except anyio.get_cancelled_exc_class():
            if not over:
                log.warning("job interrupted", job=job.name, seconds=round(anyio.current_time() - begun, 3))
                await self._release(claim)
            raise

    async def _renew(self, claim: JobClaim, held: anyio.CancelScope) -> None:
        """Push the end of the lease on; lost to another worker, or not renewed in time, it ends the run."""
        while True:
            await anyio.sleep(self.lease_s / 3)
            asked = anyio.current_time()
            try:
                renewed = await self.store.renew(claim, self.lease_s)
            except AgentDBError as error:
                log.debug("lease not renewed", job=claim.name, code=error.code)
                continue
            if not renewed:
                held.cancel()
                return
            held.deadline = asked + self.lease_s

    async def _outcome(self, job: Job) -> AgentDBError | None:
        with span(f"job {job.name}", attributes={"agentdb.job.name": job.name}) as step:
            error = await self._ended(job)
            if error is not None:
                step.fail(error.code)
        return error

    async def _ended(self, job: Job) -> AgentDBError | None:
        with anyio.move_on_after(job.timeout_s) as limit:
            try:
                await job.run(self.application)
            except Exception as error:  # noqa: BLE001  (no fault of a job ends the worker)
                return _as_ours(error, job.name)
        if limit.cancelled_caught:
            return StatementTimeout(f"It ran longer than {job.timeout_s:g} seconds and was ended.")
        return None

    def _tell(self, job: Job, error: AgentDBError | None, seconds: float) -> None:
        metrics.JOBS.add(job.name, error.code if error is not None else "ok")
        metrics.JOB_RUN_SECONDS.observe(seconds, job.name)
        fields = {"job": job.name, "seconds": round(seconds, 3)}
        if error is not None:
            log.warning("job failed", **fields, code=error.code, error=error.message, hint=error.hint)
        elif self.quiet:
            log.debug("job done", **fields)
        else:
            log.info("job done", **fields)

    async def _release(self, claim: JobClaim) -> None:
        with anyio.move_on_after(RELEASE_S, shield=True):
            try:
                await self.store.release(claim)
            except AgentDBError as error:
                log.debug("lease not given back", job=claim.name, code=error.code)

    async def _insist(self, call: Callable[[], Awaitable[T]], *, at_start: bool = False) -> T:
        """Call until the control database answers. At the start, what is wrong with it for good is raised."""
        pause = FIRST_PAUSE_S
        while True:
            try:
                answer = await call()
                if pause > FIRST_PAUSE_S:
                    log.info("the control database answers again")
                return answer
            except Exception as fault:  # noqa: BLE001  (no fault of ours ends the worker)
                error = _as_ours(fault)
                if isinstance(error, ConfigurationError) or (at_start and not error.retryable):
                    raise error from None
                if pause == FIRST_PAUSE_S:
                    log.warning("waiting for the control database", code=error.code, error=error.message)
            await anyio.sleep(pause * random.uniform(0.5, 1))
            pause = min(pause * 2, MAX_PAUSE_S)


def _as_ours(error: Exception, job: str | None = None) -> AgentDBError:
    """The first error of ours in what a task group wrapped; anything else is a fault, and logged as one."""
    found: BaseException = error
    while isinstance(found, BaseExceptionGroup):
        found = found.exceptions[0]
    if isinstance(found, AgentDBError):
        return found
    log.error("internal error", job=job, exc_info=error)
    return Internal("It has a fault, which the log shows.")
