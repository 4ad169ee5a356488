import os
import subprocess
import sys
import threading

from cluster.priority import BACKGROUND, give_way


def test_a_thread_that_gives_way_takes_its_children_along_and_nobody_else() -> None:
    before = os.getpriority(os.PRIO_PROCESS, 0)
    found: list[int] = []

    def background() -> None:
        give_way()
        give_way()
        found.append(os.getpriority(os.PRIO_PROCESS, 0))
        asked = [sys.executable, "-c", "import os; print(os.getpriority(os.PRIO_PROCESS, 0))"]
        found.append(int(subprocess.run(asked, capture_output=True, text=True, check=True).stdout))

    thread = threading.Thread(target=background)
    thread.start()
    thread.join()
    assert found == [max(before, BACKGROUND)] * 2
    assert os.getpriority(os.PRIO_PROCESS, 0) == before
