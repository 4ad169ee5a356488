from __future__ import annotations

import pytest

from cluster.arbiter import Grow, Keep, Pause, Sharing, Shrink, State, decide, divisor
from cluster.pressure import Load

RULES = Sharing(quiet_s=0.1, least_share=0.25, shrink_after_s=60, slow_ttft=2, calm_s=5, settle_s=30)
BUSY = Load(in_flight=3, waiting=1, oldest_wait_s=0.02, ttft_s=0.03, usual_ttft_s=0.03, quiet_s=0)
LULL = Load(quiet_s=0.05)
CALM = Load(quiet_s=60)
SLOW = Load(in_flight=3, ttft_s=0.09, usual_ttft_s=0.03, quiet_s=0)
STUCK = Load(in_flight=3, waiting=3, oldest_wait_s=1.5, ttft_s=0.03, usual_ttft_s=0.03, quiet_s=0)
ONE = {"workers": 1, "least": 0, "most": 1, "fitting": 1}
NONE = {"workers": 0, "least": 0, "most": 1, "fitting": 1}
TWO_OF_FOUR = {"workers": 2, "least": 1, "most": 4, "fitting": 4}

TABLE = [
    # A worker on processors that serving needs too
    ("nobody asks", ONE, {"load": CALM}, Keep("serving is calm")),
    ("nobody ever asked", ONE, {}, Keep("serving is calm")),
    ("a request comes", ONE, {"load": BUSY}, Pause("3 requests under way")),
    ("it was the only one", ONE, {"load": Load(in_flight=1)}, Pause("1 request under way")),
    ("between two requests", ONE, {"load": LULL}, Pause("more requests may come")),
    ("a long burst", ONE, {"load": BUSY, "pressed_s": 59}, Pause("3 requests under way")),
    (
        "a longer one",
        ONE,
        {"load": BUSY, "pressed_s": 60},
        Shrink(0, "serving has been busy for 60 s: 3 requests under way"),
    ),
    ("no worker may go", {**ONE, "least": 1}, {"load": BUSY, "pressed_s": 600}, Pause("3 requests under way")),
    (
        "requests never pause",
        {**ONE, "least": 1},
        {"load": BUSY, "pressed_s": 600, "share": 0.2},
        Keep("3 requests under way, but training has had 20% of the time only"),
    ),
    # A worker with a GPU of its own
    ("its GPU is its own", ONE, {"load": BUSY, "pauses": False}, Keep("serving is calm")),
    (
        "but answers get slow",
        ONE,
        {"load": SLOW, "pauses": False},
        Keep("the first token takes 90 ms instead of 30 ms; a worker's GPU is its own"),
    ),
    (
        "and stay slow",
        ONE,
        {"load": SLOW, "pauses": False, "pressed_s": 61},
        Shrink(0, "serving has been busy for 61 s: the first token takes 90 ms instead of 30 ms"),
    ),
    (
        "or do not come at all",
        ONE,
        {"load": STUCK, "pauses": False, "pressed_s": 61},
        Shrink(0, "serving has been busy for 61 s: the first token takes 1500 ms instead of 30 ms"),
    ),
    # Serving wants more of the cluster
    ("more replicas", ONE, {"wanted": "2 CPU"}, Shrink(0, "serving asks for 2 CPU")),
    ("more than it may have", {**ONE, "least": 1}, {"wanted": "2 CPU"}, Keep("serving is calm")),
    ("down to the fewest", TWO_OF_FOUR, {"wanted": "2 CPU"}, Shrink(1, "serving asks for 2 CPU")),
    # Growing
    ("calm and room", NONE, {"load": CALM}, Grow(1, "serving is calm and there is room for 1 of 1 workers")),
    ("calm for a moment only", NONE, {"load": Load(quiet_s=4)}, Keep("serving has been busy just now")),
    ("busy", NONE, {"load": BUSY}, Keep("serving has been busy just now")),
    ("slow, on GPUs", NONE, {"load": SLOW, "pauses": False}, Keep("serving has been busy just now")),
    (
        "busy, but not slow, on GPUs",
        NONE,
        {"load": BUSY, "pauses": False},
        Grow(1, "serving is calm and there is room for 1 of 1 workers"),
    ),
    ("it has just shrunk", NONE, {"load": CALM, "moved_s": 12}, Keep("it shrank 12 s ago")),
    ("no room", {**NONE, "fitting": 0}, {"load": CALM}, Keep("there is room for 0 of 1 workers")),
    ("room that serving waits for", NONE, {"load": CALM, "wanted": "1 GPU"}, Keep("serving asks for 1 GPU")),
    (
        "room for more",
        TWO_OF_FOUR,
        {"load": CALM},
        Grow(4, "serving is calm and there is room for 4 of 4 workers"),
    ),
    ("for a number that fits", {**TWO_OF_FOUR, "fitting": 3}, {"load": CALM}, Keep("there is room for 3 of 4 workers")),
    (
        "for some, where only all can go on",
        {**NONE, "most": 4, "fitting": 3, "whole": True},
        {"load": CALM},
        Keep("there is room for 3 of 4 workers"),
    ),
    (
        "for all",
        {**NONE, "most": 4, "fitting": 4, "whole": True},
        {"load": CALM},
        Grow(4, "serving is calm and there is room for 4 of 4 workers"),
    ),
    ("for too few", {**NONE, "least": 2, "most": 4}, {"load": CALM}, Keep("there is room for 1 of 4 workers")),
]  # fmt: skip


@pytest.mark.parametrize(("workers", "seen", "wanted"), [row[1:] for row in TABLE], ids=[row[0] for row in TABLE])
def test_training_takes_what_serving_does_not_need(workers, seen, wanted) -> None:
    assert decide(State(**workers, **seen), RULES) == wanted


def test_it_does_not_flap() -> None:
    """Bursts of 70 s and lulls of 20 s: it has shrunk just before a lull and does not grow in it, but in the next."""
    moves, workers, moved = [], 1, -1e9
    for second in range(600):
        burst_s = second % 90
        load = BUSY if burst_s < 70 else Load(quiet_s=burst_s - 70.0)
        pressed_s = float(burst_s) if burst_s < 70 else 0.0
        made = decide(State(workers, 0, 1, load, pressed_s=pressed_s, fitting=1, moved_s=second - moved), RULES)
        if isinstance(made, Shrink):
            workers, moved = made.workers, second
            moves.append(second)
        elif isinstance(made, Grow):
            workers = made.workers
            moves.append(second)
    assert moves == [60, 165, 240, 345, 420, 525]


@pytest.mark.parametrize(
    ("most", "fitting", "workers"), [(4, 4, 4), (4, 3, 2), (6, 5, 3), (5, 4, 1), (1, 0, 0), (2, 9, 2)]
)
def test_workers_share_a_step_evenly(most, fitting, workers) -> None:
    assert divisor(most, fitting) == workers
