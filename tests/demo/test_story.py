import io

from rich.console import Console

from demo.story import Story
from demo.turn import Turn, Wheel


def story() -> tuple[Story, io.StringIO]:
    screen = io.StringIO()
    return Story(Console(file=screen, width=200, highlight=False)), screen


def test_off_a_terminal_progress_is_a_few_plain_lines() -> None:
    told, screen = story()
    with told.counting("requests", 1000) as advance:
        for _ in range(1000):
            advance("")
    assert len(screen.getvalue().splitlines()) == 4
    assert "\x1b" not in screen.getvalue()


def test_each_step_of_a_turn_is_told_once() -> None:
    told, screen = story()
    with told.turning() as seen:
        for steps in ({}, {"collect": 1.0}, {"collect": 1.0, "curate": 2.5}, {"collect": 1.0, "curate": 2.5}):
            seen(Wheel(True, Turn("c1", False, "train", steps), "turning"))
    assert [line.split()[:2] for line in screen.getvalue().splitlines()] == [["collect", "1.0"], ["curate", "2.5"]]


def test_chapters_of_one_name_add_up() -> None:
    told, _ = story()
    for _ in range(2):
        with told.chapter("live", "Live"):
            pass
    assert list(told.timings_s) == ["live"]


def test_markup_in_what_the_cluster_says_is_shown_as_it_is() -> None:
    told, screen = story()
    told.verdict(None, "nothing to decide: [red] slice")
    assert "[red] slice" in screen.getvalue()
