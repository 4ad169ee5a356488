"""`report.json`: what the demo measured, under fixed names. `*_s` are seconds."""

from __future__ import annotations

import json
from collections import defaultdict
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from demo.agency import Run
from demo.client import Answer, Tally
from demo.turn import Turn


@dataclass
class Facts:
    """All that the demo saw, before it is put in order."""

    before: list[Answer]
    after: list[Answer]
    live: Tally
    logged: int
    baseline_tool_accuracy: float
    champions: tuple[str, str]
    """Who served before, and who after."""
    turns: list[Turn]
    canaries: list[dict[str, Any]]
    """How each ended: candidate, promoted or not, reason, evidence, requests, seconds."""
    lineage: dict[str, Any]
    timings_s: dict[str, float]
    traffic: str
    feedback: str
    loss: list[tuple[int, float]] = field(default_factory=list)
    """Training step and loss, of the cycle that made the champion."""


@dataclass
class AgentFacts:
    """The same of a shift of agents."""

    before: list[Run]
    after: list[Run]
    live: list[Run]
    champions: tuple[str, str]
    turns: list[Turn]
    canaries: list[dict[str, Any]]
    lineage: dict[str, Any]
    timings_s: dict[str, float]
    loss: list[tuple[int, float]] = field(default_factory=list)


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
        "live": live(facts.live.answers),
    }


def assemble_agents(facts: AgentFacts) -> dict[str, Any]:
    """The report of a shift as JSON."""
    failures = [run.error for run in [*facts.before, *facts.live, *facts.after] if run.error]
    begun = min((run.at_s for run in facts.live), default=0.0)
    return {
        "before": {"success": success(facts.before), "n": len(facts.before)},
        "after": {"success": success(facts.after), "n": len(facts.after)},
        "by_template": {
            name: {
                when: {"success": success(mine), "n": len(mine)}
                for when, runs in (("before", facts.before), ("after", facts.after))
                if (mine := [run for run in runs if run.job.template.name == name])
            }
            for name in sorted({run.job.template.name for run in facts.before})
        },
        "jobs": len(facts.live),
        "failed": len(failures),
        "failures": sorted(set(failures))[:5],
        **_turned(facts),
        "live": [
            {
                "at_s": round(run.at_s - begun, 3),
                "success": run.success,
                "version": run.version,
                "turns": run.turns,
                "latency_s": round(run.latency_s, 4),
            }
            for run in sorted(facts.live, key=lambda run: run.at_s)
        ],
    }


def _turned(facts: Facts | AgentFacts) -> dict[str, Any]:
    """What came of the wheel."""
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


def score(answers: list[Answer]) -> dict[str, float]:
    n = len(answers)
    return {
        "tool_accuracy": round(sum(answer.tool_right for answer in answers) / n, 4),
        "exact_match": round(sum(answer.exact for answer in answers) / n, 4),
        "n": n,
    }


def by_tool(before: list[Answer], after: list[Answer]) -> dict[str, dict[str, Any]]:
    """For each tool that users meant: how many rows, and both scores before and after."""
    grouped: dict[str, tuple[list[Answer], list[Answer]]] = defaultdict(lambda: ([], []))
    for which, answers in enumerate((before, after)):
        for answer in answers:
            grouped[answer.wish.tool][which].append(answer)
    return {
        tool: {"n": len(old), "before": score(old), "after": score(new)} for tool, (old, new) in sorted(grouped.items())
    }


def live(answers: list[Answer]) -> list[dict[str, Any]]:
    """Every live answer in order of time: when, right or not, which version gave it, how long it took."""
    begun = min((answer.at_s for answer in answers), default=0.0)
    return [
        {
            "at_s": round(answer.at_s - begun, 3),
            "tool": answer.tool_right,
            "exact": answer.exact,
            "version": answer.version,
            "latency_s": round(answer.latency_s, 4),
        }
        for answer in sorted(answers, key=lambda answer: answer.at_s)
    ]


def write(report: dict[str, Any], folder: Path) -> Path:
    """Write `report.json` and `report.html`; returns the path of the page."""
    from demo import page

    folder.mkdir(parents=True, exist_ok=True)
    (folder / "report.json").write_text(json.dumps(report, indent=1, ensure_ascii=False) + "\n")
    path = folder / "report.html"
    path.write_text(page.render(report))
    return path
