"""A cycle as a Ray job: submitted, found again, followed. The cluster carries it, whoever asked for it may go."""

from __future__ import annotations

import asyncio
import json
import os
import shlex
import sys
import time
from collections.abc import Callable
from typing import TYPE_CHECKING

from cluster.environment import environment
from cluster.settings import Settings

if TYPE_CHECKING:
    from ray.job_submission import JobStatus, JobSubmissionClient

MARK = {"trivium": "cycle"}
"""Metadata by which a cycle's job is known."""


def inside() -> str | None:
    """The id of the Ray job that this process is the driver of; None outside of one."""
    config = os.environ.get("RAY_JOB_CONFIG_JSON_ENV_VAR")  # Ray's name for it, set by its job supervisor
    return json.loads(config).get("metadata", {}).get("job_submission_id") if config else None


class Jobs:
    """The cluster's job server. Raises `ValueError` when it does not answer."""

    def __init__(self, settings: Settings) -> None:
        os.environ.update(environment(settings))  # before Ray is imported: it reads how to show its token then
        from ray.job_submission import JobSubmissionClient

        try:
            self._client: JobSubmissionClient = JobSubmissionClient(settings.dashboard_url)
        except ConnectionError:
            raise ValueError(f"no cluster answers at {settings.dashboard_url}; start it with `trivium up`") from None

    def submit(self, recipe: str) -> str:
        """Start a cycle; the same as `ray job submit -- trivium cycle --recipe RECIPE`. Returns the job's id."""
        # This Python by its path: a cluster's processes need not have the environment's `bin` on their PATH.
        command = shlex.join([sys.executable, "-m", "trivium", "cycle", "--recipe", recipe])
        return self._client.submit_job(entrypoint=command, metadata={**MARK, "recipe": recipe})

    def current(self) -> str | None:
        """The cycle's job that has not ended yet, if there is one."""
        open_jobs = [
            job
            for job in self._client.list_jobs()
            if MARK.items() <= (job.metadata or {}).items() and not job.status.is_terminal()
        ]
        newest = max(open_jobs, key=lambda job: job.start_time or 0, default=None)
        return newest.submission_id if newest else None

    def status(self, job: str) -> JobStatus:
        return self._client.get_job_status(job)

    def message(self, job: str) -> str:
        """Why a job ended as it did, in Ray's words: the exit code and the last lines of its log."""
        return self._client.get_job_info(job).message or ""

    def follow(self, job: str, say: Callable[[str], None]) -> bool:
        """Hand on the job's log as it grows, until the job ends. True if it succeeded."""

        async def tail() -> None:
            async for lines in self._client.tail_job_logs(job):
                say(lines)

        asyncio.run(tail())
        # The log may close a moment before the job's last state is written.
        deadline = time.monotonic() + 30
        while not (status := self.status(job)).is_terminal() and time.monotonic() < deadline:
            time.sleep(0.2)
        return status.value == "SUCCEEDED"
