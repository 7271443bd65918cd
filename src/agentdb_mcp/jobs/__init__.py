"""Background jobs, shared by any number of workers through the control database."""

from agentdb_mcp.jobs.table import JOBS, jobs_of
from agentdb_mcp.jobs.worker import Job, Worker

__all__ = ["JOBS", "Job", "Worker", "jobs_of"]
