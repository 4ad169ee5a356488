"""The durable log: every answered request, and what people thought of the answer.

Each process appends to segments of its own, and an answer's last byte leaves only after its record is on disk (group
commit). A compactor moves segments into one Delta table, exactly once, and only then removes them.

**What a lost node takes with it.** A record survives whatever the disk under `TRIVIUM_STATE` survives: a killed
replica, a killed node, a power cut. If that disk is local to a node, and the node is lost for ever, everything on the
disk goes with it: the table, if it is the node that keeps it, and otherwise the segments that nobody had compacted. Put
`TRIVIUM_STATE` on a path that all nodes share (NFSv4, CephFS, Lustre; it needs real `fsync`, atomic rename, and `flock`
across machines) and a lost node takes nothing that was acknowledged: its segments stay, the compactor on another node
sees that their writer is gone, and moves them into the table.
"""

from cluster.log.segments import LogSettings
from cluster.log.store import Log, LogStats
from cluster.log.writer import LogUnavailable, Writer

__all__ = ["Log", "LogSettings", "LogStats", "LogUnavailable", "Writer"]
