"""How a run of the conformance suite is judged, and that the report which is kept is one of all its scenarios."""

from __future__ import annotations

import json

import pytest

from tests.conformance import suite
from tests.conformance.suite import Outcome, judge, outcomes

SAID = """
✓ earlier: 9 passed, 0 failed
=== SUMMARY ===
✓ tools-list: 4 passed, 0 failed
✗ auth/dpop: 2 passed, 1 failed
✓ silent: 0 passed, 0 failed

Total: 6 passed, 1 failed
"""
REQUIREMENTS = {
    "server": ["tools-list", "auth/dpop", "silent", "absent"],
    "not_scored": [{"scenario": "tasks", "leg": "server", "reason": "extension"}],
}


def test_only_the_summary_counts() -> None:
    assert outcomes(SAID) == {
        "tools-list": Outcome("tools-list", 4, 0),
        "auth/dpop": Outcome("auth/dpop", 2, 1),
        "silent": Outcome("silent", 0, 0),
    }


def test_scenario_that_checked_nothing_or_did_not_run_has_failed() -> None:
    report = judge("server", "2026-07-28", REQUIREMENTS, outcomes(SAID))
    assert (report["required"], report["passed"], report["checks"]) == (4, 1, 4)
    assert report["failed"] == ["absent", "auth/dpop", "silent"]
    assert report["not_scored"] == {"tasks": {"reason": "extension", "passed": False}}


def test_excuse_has_its_reason_and_is_not_counted_as_passed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(suite.EXCUSED, ("server", "2026-07-28", "auth/dpop"), "nobody has it")
    report = judge("server", "2026-07-28", REQUIREMENTS, outcomes(SAID))
    assert report["excused"] == {"auth/dpop": "nobody has it"}
    assert report["failed"] == ["absent", "silent"] and report["passed"] == 1


def test_report_that_is_kept_has_no_failure_and_few_excuses() -> None:
    report = json.loads(suite.REPORT.read_text())
    assert set(report["runs"]) == {f"{leg} {each}" for leg in ("server", "client") for each in suite.REVISIONS}
    assert report["failed"] == 0 and report["excused"] <= 3
    assert report["passed"] == sum(run["required"] for run in report["runs"].values()) - report["excused"]
