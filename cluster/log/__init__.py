"""The durable log: every answered request, and what people thought of the answer.

Each process appends to segments of its own, and an answer's last byte leaves only after its record is on disk (group
commit). A compactor moves segments into one Delta table, exactly once, and only then removes them.

**What a lost node takes with it.** A record survives whatever the disk survives that its segment is on: a killed
replica, a killed node, a power cut. Where all is under `TRIVIUM_STATE`, and that is a path that all nodes share (NFSv4,
CephFS, Lustre; it needs real `fsync`, atomic rename, and `flock` across machines), a lost node takes nothing that was
acknowledged: its segments stay, the compactor on another node sees that their writer is gone, and moves them into the
table. Where `TRIVIUM_LOG` puts the segments on the nodes' own disks, each node compacts its own (`nodes.py`): one that
is cut off brings them when it is back, one that is lost for ever takes with it what it had not compacted.
"""

from cluster.log.segments import LogSettings
from cluster.log.store import Log, LogStats
from cluster.log.writer import LogUnavailable, Writer

__all__ = ["Log", "LogSettings", "LogStats", "LogUnavailable", "Writer"]
