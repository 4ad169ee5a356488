import json
import re
from pathlib import Path
from typing import Any

import pytest

from demo import page, report
from demo.agency import Run
from demo.client import Answer, Tally
from demo.jobs import HELD_OUT, LEARNT, Job, Template
from demo.shop import Item
from demo.traffic import Wish
from demo.turn import Turn

PLAY, RATE = Wish("play 1959", "Play", {"year": "1959"}), Wish("rate it 5", "Rate <b>", {"score": "5"})
VERDICT = {
    "accepted": True, "reasons": ["gain & confidence"], "candidate": "assistant@1", "champion": "assistant@0",
    "rows": 40, "candidate_score": 0.8, "champion_score": 0.1, "gain": 0.7, "gain_low": 0.6, "well_formed": 1.0,
    "slices": {"Play": {"rows": 40.0, "candidate": 0.8, "champion": 0.1}},
}  # fmt: skip
CANARY = {
    "candidate": "assistant@1", "promoted": True, "reason": "users like it better", "requests": 400, "took_s": 30.0,
    "evidence": {"candidate_score": 0.9, "champion_score": 0.1},
}  # fmt: skip
LINEAGE = {"rows": 500, "table_version": 3, "dataset_digest": "abc"}


def answer(wish: Wish, right: bool, at_s: float = 0.0, version: str = "assistant@0") -> Answer:
    return Answer(wish, at_s, 0.1, "req-1", version, wish.tool, wish.arguments if right else {}, calls=1)


def facts(**changes: Any) -> report.Facts:
    live = Tally([answer(PLAY, at > 1, at, f"assistant@{int(at > 1)}") for at in range(4)])
    given: dict[str, Any] = {
        "before": [answer(PLAY, False), answer(RATE, False)],
        "after": [answer(PLAY, True), answer(RATE, False)],
        "live": live,
        "logged": 4,
        "baseline_tool_accuracy": 0.976,
        "champions": ("assistant@0", "assistant@1"),
        "turns": [Turn("c1", True, None, {"train": 90.0}, "promoted", "assistant@1", VERDICT)],
        "canaries": [CANARY],
        "lineage": LINEAGE,
        "timings_s": {"up": 50.0, "cycle 1/train": 90.0, "total": 200.0},
        "traffic": "sample",
        "feedback": "1,0,0",
        "loss": [(1, 2.0), (2, 1.0)],
    }
    return report.Facts(**{**given, **changes})


def test_report_holds_the_agreed_keys() -> None:
    found = report.assemble(facts())
    assert found["before"] == {"tool_accuracy": 1.0, "exact_match": 0.0, "n": 2}
    assert found["after"] == {"tool_accuracy": 1.0, "exact_match": 0.5, "n": 2}
    assert found["by_tool"]["Play"]["after"]["exact_match"] == 1.0
    assert (found["requests"], found["logged"], found["failed"]) == (4, 4, 0)
    assert found["champion"] == {"before": "assistant@0", "after": "assistant@1"}
    assert found["verdict"] == VERDICT
    assert found["canaries"] == [CANARY]
    assert found["lineage"] == LINEAGE
    assert found["baseline_tool_accuracy"] == 0.976
    assert all(isinstance(seconds, float) for seconds in found["timings_s"].values())


def test_verdict_is_the_one_that_made_the_champion() -> None:
    rejected = {**VERDICT, "accepted": False, "candidate": "assistant@2"}
    turns = [Turn("c1", True, verdict=VERDICT), Turn("c2", True, verdict=rejected)]
    assert report.assemble(facts(turns=turns))["verdict"]["candidate"] == "assistant@1"
    assert report.assemble(facts(turns=turns[1:]))["verdict"]["candidate"] == "assistant@2"


def test_failures_wherever_they_happen_are_counted() -> None:
    live = Tally([answer(PLAY, True)], failures=["APIError: 500"])
    broken = Answer(PLAY, 0.0, 0.1, error="APIError: 503")
    found = report.assemble(facts(live=live, after=[broken, answer(RATE, True)]))
    assert found["failed"] == 2
    assert found["failures"] == ["APIError: 500", "APIError: 503"]


@pytest.mark.parametrize("calls", [0, 2])
def test_exact_means_one_call(calls: int) -> None:
    given = Answer(PLAY, 0.0, 0.1, tool="Play", arguments=PLAY.arguments, calls=calls)
    assert not given.exact


def test_page_is_whole_and_loads_nothing(tmp_path: Path) -> None:
    path = report.write(report.assemble(facts()), tmp_path)
    html = path.read_text()
    assert json.loads((tmp_path / "report.json").read_text())["requests"] == 4
    assert html.count("<svg") == 4
    assert "The wheel turned." in html and "assistant@1" in html and "gain &amp; confidence" in html
    assert not re.search(r"""(?:src|href)\s*=\s*["']?https?:""", re.sub(r'xmlns(:\w+)?="[^"]*"', "", html))


def test_page_tells_of_a_champion_that_stayed() -> None:
    still = facts(champions=("assistant@0", "assistant@0"), turns=[], lineage={}, loss=[], live=Tally())
    html = page.render(report.assemble(still))
    assert "The champion stayed." in html and "<h2>The verdict</h2>" not in html


def run(success: bool, template: Template = HELD_OUT[0], at_s: float = 0.0, **more: Any) -> Run:
    return Run(Job(template, "Ada", Item("old <b>", 1, 1), 2), at_s, 0.5, "run-1", "completed", 3, success, **more)


def shift(**changes: Any) -> report.AgentFacts:
    given: dict[str, Any] = {
        "before": [run(False), run(False, HELD_OUT[1]), run(True, HELD_OUT[1])],
        "after": [run(True), run(True, HELD_OUT[1]), run(False, HELD_OUT[1])],
        "live": [run(at > 3, LEARNT[0], at, version=f"clerk@{int(at > 3)}") for at in range(8)],
        "champions": ("clerk@0", "clerk@1"),
        "turns": [Turn("c1", True, None, {"train": 90.0}, "canary", "clerk@1", VERDICT)],
        "canaries": [CANARY],
        "lineage": LINEAGE,
        "timings_s": {"up": 50.0, "cycle 1/train": 90.0, "total": 200.0},
        "loss": [(1, 2.0), (2, 1.0)],
    }
    return report.AgentFacts(**{**given, **changes})


def test_report_of_a_shift_counts_jobs_by_the_way_they_are_put() -> None:
    found = report.assemble_agents(shift())
    assert (found["before"], found["after"]) == ({"success": 0.3333, "n": 3}, {"success": 0.6667, "n": 3})
    assert found["by_template"][HELD_OUT[1].name] == {
        "before": {"success": 0.5, "n": 2},
        "after": {"success": 0.5, "n": 2},
    }
    assert (found["jobs"], found["failed"], found["champion"]["after"]) == (8, 0, "clerk@1")
    assert [each["success"] for each in found["live"]] == [False] * 4 + [True] * 4
    lost = Run(run(False).job, 0.0, 0.1, error="ConnectError: nobody there")
    assert report.assemble_agents(shift(live=[lost]))["failures"] == ["ConnectError: nobody there"]


def test_page_of_a_shift_is_whole_too(tmp_path: Path) -> None:
    html = report.write(report.assemble_agents(shift()), tmp_path).read_text()
    assert html.count("<svg") == 4 and "The agent learned from its work." in html and HELD_OUT[0].name in html
    assert not re.search(r"""(?:src|href)\s*=\s*["']?https?:""", re.sub(r'xmlns(:\w+)?="[^"]*"', "", html))
    still = shift(champions=("clerk@0", "clerk@0"), turns=[], canaries=[], lineage={}, loss=[])
    assert "The champion stayed." in page.render(report.assemble_agents(still))
