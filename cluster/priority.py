"""Who gives way where processors are busy: everything that nobody waits for, to what answers.

Ray starts all its workers at niceness 15, engines too, below every other program of the machine. Here they start at 0
(`cluster/environment.py`), and what works in the background gives way by itself.
"""

from __future__ import annotations

import os

BACKGROUND = 15


def give_way() -> None:
    """Lower the priority of this thread, and of the threads and processes that it starts from now on (Linux)."""
    os.setpriority(os.PRIO_PROCESS, 0, max(BACKGROUND, os.getpriority(os.PRIO_PROCESS, 0)))
