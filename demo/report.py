"""`report.json`: what the demo measured, under fixed names. `*_s` are seconds."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from demo.agency import Run
from demo.client import Answer, Tally
from demo.turn import Turn

Done = TypeVar("Done", Answer, Run)
Pair = tuple[list[Done], list[Done]]


@dataclass(kw_only=True)
class Turned:
    """What came of the wheel."""

    champions: tuple[str, str]
    """Who served before, and who after."""
    turns: list[Turn]
    canaries: list[dict[str, Any]]
    """How each ended: candidate, promoted or not, reason, evidence, requests, seconds."""
    lineage: dict[str, Any]
    timings_s: dict[str, float]
    loss: list[tuple[int, float]] = field(default_factory=list)
    """Training step and loss, of the cycle that made the champion."""


@dataclass(kw_only=True)
class Facts(Turned):
    """All that the demo saw, before it is put in order."""

    before: list[Answer]
    after: list[Answer]
    live: Tally
    logged: int
    baseline_tool_accuracy: float
    traffic: str
    feedback: str


@dataclass(kw_only=True)
class AgentFacts(Turned):
    """The same of a shift of agents."""

    before: list[Run]
    after: list[Run]
    live: list[Run]


def assemble(facts: Facts) -> dict[str, Any]:
    """The report as JSON."""
    failures = facts.live.failures + [answer.error for answer in [*facts.before, *facts.after] if answer.error]
    return {
        "before": score(facts.before),
        "after": score(facts.after),
        "baseline_tool_accuracy": round(facts.baseline_tool_accuracy, 4),
        "by_tool": by_tool(facts.before, facts.after),
        "requests": facts.live.requests,
        "logged": facts.logged,
        "failed": len(failures),
        **_turned(facts),
        "feedback": {**facts.live.feedback, "asked": facts.feedback},
        "failures": sorted(set(failures))[:5],
        "traffic": facts.traffic,
        "live": _in_time(facts.live.answers, lambda answer: {"tool": answer.tool_right, "exact": answer.exact}),
    }


def assemble_agents(facts: AgentFacts) -> dict[str, Any]:
    """The report of a shift as JSON."""
    failures = [run.error for run in [*facts.before, *facts.live, *facts.after] if run.error]
    grouped = _grouped(facts.before, facts.after, lambda run: run.job.template.name)
    return {
        "before": successes(facts.before),
        "after": successes(facts.after),
        "by_template": {
            name: {"before": successes(old), "after": successes(new)} for name, (old, new) in grouped.items()
        },
        "jobs": len(facts.live),
        "failed": len(failures),
        "failures": sorted(set(failures))[:5],
        **_turned(facts),
        "live": _in_time(facts.live, lambda run: {"success": run.success, "turns": run.turns}),
    }


def _turned(facts: Turned) -> dict[str, Any]:
    verdicts = [turn.verdict for turn in facts.turns if turn.verdict]
    accepted = [verdict for verdict in verdicts if verdict["accepted"]]
    return {
        "champion": {"before": facts.champions[0], "after": facts.champions[1]},
        "verdict": (accepted or verdicts or [{}])[-1],
        "lineage": facts.lineage,
        "timings_s": facts.timings_s,
        "cycles": [
            {"id": turn.id, "outcome": turn.outcome, "candidate": turn.candidate, "steps_s": turn.steps_s}
            for turn in facts.turns
        ],
        "canaries": facts.canaries,
        "loss": facts.loss,
    }


def success(runs: list[Run]) -> float:
    return round(sum(run.success for run in runs) / len(runs), 4)


def successes(runs: list[Run]) -> dict[str, float]:
    return {"success": success(runs), "n": len(runs)}


def score(answers: list[Answer]) -> dict[str, float]:
    n = len(answers)
    return {
        "tool_accuracy": round(sum(answer.tool_right for answer in answers) / n, 4),
        "exact_match": round(sum(answer.exact for answer in answers) / n, 4),
        "n": n,
    }


def by_tool(before: list[Answer], after: list[Answer]) -> dict[str, dict[str, Any]]:
    """For each tool that users meant: how many rows, and both scores before and after."""
    grouped = _grouped(before, after, lambda answer: answer.wish.tool)
    return {tool: {"n": len(old), "before": score(old), "after": score(new)} for tool, (old, new) in grouped.items()}


def _grouped(before: list[Done], after: list[Done], name: Callable[[Done], str]) -> dict[str, Pair[Done]]:
    """What was measured before and after, by name, in the order of the names."""
    grouped: dict[str, Pair[Done]] = defaultdict(lambda: ([], []))
    for which, measured in enumerate((before, after)):
        for each in measured:
            grouped[name(each)][which].append(each)
    return dict(sorted(grouped.items()))


def _in_time(live: list[Done], told: Callable[[Done], dict[str, Any]]) -> list[dict[str, Any]]:
    """All that was live in order of time: when, how it came out, which version did it, how long it took."""
    begun = min((each.at_s for each in live), default=0.0)
    return [
        {
            "at_s": round(each.at_s - begun, 3),
            **told(each),
            "version": each.version,
            "latency_s": round(each.latency_s, 4),
        }
        for each in sorted(live, key=lambda each: each.at_s)
    ]


def write(report: dict[str, Any], folder: Path) -> Path:
    """Write `report.json` and `report.html`; returns the path of the page."""
    from demo import page

    folder.mkdir(parents=True, exist_ok=True)
    (folder / "report.json").write_text(json.dumps(report, indent=1, ensure_ascii=False) + "\n")
    path = folder / "report.html"
    path.write_text(page.render(report))
    return path
