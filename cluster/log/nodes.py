"""Compaction over all nodes: by a task on each, where their segments are on disks of their own.

A node that is away keeps its segments, and they come into the table when it is back. The tasks take turns at the
table's lock, and each commits its own node's segments, so all that holds for one compactor holds for them together.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Iterable, Mapping
from typing import Any

from cluster.log.retention import forget_damaged
from cluster.log.store import Log
from cluster.log.table import Compaction
from cluster.log.writer import LogUnavailable
from cluster.settings import Settings

logger = logging.getLogger(__name__)

PATIENCE_S = 60.0
"""Longest that a turn is waited for: a node that was just cut off is not known to be away yet. It may end later."""


def compact(settings: Settings) -> Compaction:
    """`Log.compact` on every node that has segments of its own; here, what all share: then all, else agents' journals.

    Raises `LogUnavailable` if no node could. Wants Ray where `settings.log` is set.
    """
    if settings.log is None:
        return Log.here(settings).compact()
    import ray
    from ray.exceptions import RayError
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    task = ray.remote(num_cpus=0, max_retries=0)(_turn)
    turns = {
        task.options(scheduling_strategy=NodeAffinitySchedulingStrategy(node, soft=False)).remote(): node
        for node in places(ray.nodes())
    }
    done, late = ray.wait(list(turns), num_returns=len(turns), timeout=PATIENCE_S)
    problems = {turns[turn]: f"no answer within {PATIENCE_S:.0f} s" for turn in late}
    made = [Log.shared(settings).compact()]
    for turn in done:
        try:
            made.append(ray.get(turn))
        except (RayError, LogUnavailable) as error:  # cut off, or its disk is full
            problems[turns[turn]] = str(error)
    for node, problem in problems.items():
        logger.warning("the segments of node %s stay where they are: %s", node, problem)
    if len(made) == 1:
        raise LogUnavailable(f"no node could compact its segments: {'; '.join(problems.values())}")
    return together(made)


def places(nodes: Iterable[Mapping[str, Any]]) -> list[str]:
    """Ids of the nodes on which a compaction has its turn, from what Ray knows of all nodes that there ever were."""
    return [node["NodeID"] for node in nodes if node["Alive"]]


def together(made: Iterable[Compaction]) -> Compaction:
    """What several turns came to: the newest version holds what all of them committed."""
    made = list(made)
    return Compaction(
        table_version=max(each.table_version for each in made),
        rows_added=sum(each.rows_added for each in made),
        segments_retired=sum(each.segments_retired for each in made),
    )


def _turn() -> Compaction:
    """What one node does for its own disk."""
    log = Log.here(Settings.from_environment())
    forget_damaged(log.own, log.settings, time.time())
    return log.compact()
