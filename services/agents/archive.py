"""Journals as the log has them: what this process does not remember, and what others left behind.

Steps are found by columns that every table of the log has: `kind`, `session` (a run's thread), `source` (who wrote the
step) and `request_id` (`RUN/NUMBER`). What is not compacted yet stands in segments whose names begin with `agents-`.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Iterable, Iterator
from functools import reduce
from operator import and_

from cluster.log import Log
from cluster.log.entries import decode
from cluster.records import Step
from services.agents import journal
from services.agents.journal import Progress

logger = logging.getLogger(__name__)

_PLAIN = re.compile(r"[A-Za-z0-9_.:-]+")
"""What stands in JSON as it is."""
WRITER = "agents"
"""Name of the log writers of those who run agents."""


class Archive:
    """Reads; blocking, so in a thread."""

    def __init__(self, log: Log) -> None:
        self._log = log

    def steps(
        self,
        *,
        run: str | None = None,
        threads: Iterable[str] | None = None,
        source: str | None = None,
        first: bool = False,
        since: float = float("-inf"),
    ) -> Iterator[Step]:
        """Those that fit all that is given. `first`: only the first step of each run."""
        chosen = None if threads is None else set(threads)
        view = self._log.table().view(f"{WRITER}-")
        if view.table_version is not None:
            where = _where(run, chosen, source, first)
            for (body,) in self._log.table().rows(("body",), view.table_version, since, where):
                step = decode(body)
                if isinstance(step, Step):
                    yield step
        sure = [run, source, *(chosen if chosen and len(chosen) == 1 else ())]
        needles = [f'"{word}"'.encode() for word in sure if word and _PLAIN.fullmatch(word)]
        for payload in view.payloads:
            # A look at the bytes before anything is parsed: most steps are others'.
            if b'"kind":"step"' in payload and all(needle in payload for needle in needles):
                step = decode(payload)
                if (
                    isinstance(step, Step)
                    and step.time >= since
                    and (run is None or step.run == run)
                    and (source is None or step.source == source)
                    and (chosen is None or step.session in chosen)
                    and not (first and step.number)
                ):
                    yield step

    def run(self, run: str) -> list[Step]:
        """One journal; empty if there is none."""
        return journal.counted(self.steps(run=run))

    def thread(self, thread: str, principal: str) -> list[Progress]:
        """The runs of a thread that worked for this principal, oldest first."""
        mine = (step for step in self.steps(threads=[thread]) if step.principal == principal)
        return sorted(_folded(mine), key=lambda run: run.created)

    def newest(self, principal: str | None, agent: str | None, most: int) -> list[Progress]:
        """The last runs of a principal (None: of all), of an agent (None: of all), newest first."""
        starts = [
            step
            for step in self.steps(first=True)
            if principal in (None, step.principal) and agent in (None, step.agent)
        ]
        starts = sorted(starts, key=lambda step: step.time, reverse=True)[:most]
        wanted = {step.run for step in starts}
        since = min((step.time for step in starts), default=0.0)
        steps = self.steps(threads={step.session for step in starts}, since=since) if starts else iter(())
        found = _folded(step for step in steps if step.run in wanted)
        return sorted(found, key=lambda run: run.created, reverse=True)

    def unfinished(self, owner: str, since: float) -> list[list[Step]]:
        """The journals of the runs that `owner` was the last to own and that have no end. All began after `since`."""
        open_runs: dict[str, str] = {}
        for step in self.steps(source=owner, since=since):
            if step.event == "end":
                open_runs[step.run] = ""
            else:
                open_runs.setdefault(step.run, step.session)
        threads = {thread for thread in open_runs.values() if thread}
        found: dict[str, list[Step]] = {}
        for step in self.steps(threads=threads, since=since) if threads else ():
            if open_runs.get(step.run):
                found.setdefault(step.run, []).append(step)
        return [whole for steps in found.values() if (whole := _whole(steps, owner))]


def _whole(steps: list[Step], owner: str) -> list[Step]:
    """The journal, if this owner has it; one that is broken must not keep all others waiting."""
    try:
        kept = journal.counted(steps)
        return kept if journal.fold(kept).owner == owner else []
    except ValueError:
        logger.exception("run %s cannot be gone on with", steps[0].run)
        return []


def _folded(steps: Iterable[Step]) -> list[Progress]:
    by_run: dict[str, list[Step]] = {}
    for step in steps:
        by_run.setdefault(step.run, []).append(step)
    return [journal.fold(each) for each in by_run.values() if any(step.event == "start" for step in each)]


def _where(run: str | None, threads: set[str] | None, source: str | None, first: bool) -> object:
    import pyarrow.compute as pc
    import pyarrow.dataset as ds

    named = [ds.field("kind") == "step"]
    if run is not None:
        # The second half is for statistics, which know ranges and no prefixes.
        named.append(pc.match_substring_regex(ds.field("request_id"), f"^{re.escape(run)}/"))
        named += [ds.field("request_id") >= f"{run}/", ds.field("request_id") < f"{run}0"]
    if threads is not None:
        named.append(ds.field("session").isin(sorted(threads)))
    if source is not None:
        named.append(ds.field("source") == source)
    if first:
        named.append(pc.ends_with(ds.field("request_id"), "/0"))
    return reduce(and_, named)
