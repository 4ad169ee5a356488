"""Runs the Model Context Protocol's own conformance suite on our server and our client: `make conformance`.

`python -m tests.conformance.suite NODE SUITE` writes `mcp.json` beside this file and exits 1 where a scenario failed
that a revision requires and that is not excused. NODE is the program (22 or later), SUITE the npm package's folder.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

REVISIONS = ("2026-07-28", "2025-11-25")
EXCUSED: dict[tuple[str, str, str], str] = {}
"""Why a scenario need not pass, by leg (`server`, `client`), revision and name. At most three."""
REPORT = Path(__file__).with_name("mcp.json")
HERE = Path(__file__).parents[2]

_LINE = re.compile(r"^[✓✗] (\S+): (\d+) passed, (\d+) failed", re.MULTILINE)


@dataclass(frozen=True)
class Outcome:
    """What one scenario came to."""

    scenario: str
    passed: int
    """Checks."""
    failed: int

    @property
    def good(self) -> bool:
        """Whether it passed. A scenario that checked nothing proves nothing."""
        return self.passed > 0 and self.failed == 0


def outcomes(said: str) -> dict[str, Outcome]:
    """The scenarios of one run, from the summary at its end."""
    lines = _LINE.finditer(said[said.rfind("SUMMARY ===") :])
    return {line[1]: Outcome(line[1], int(line[2]), int(line[3])) for line in lines}


def judge(leg: str, revision: str, requirements: dict[str, Any], seen: dict[str, Outcome]) -> dict[str, Any]:
    """The report of one run: what the revision requires, and what became of it."""
    required = requirements[leg]
    good = {name for name in required if name in seen and seen[name].good}
    excused = {name: EXCUSED[leg, revision, name] for name in required if (leg, revision, name) in EXCUSED}
    others = [each for each in requirements["not_scored"] if each["leg"] == leg]
    return {
        "required": len(required),
        "passed": len(good),
        "failed": sorted(set(required) - good - excused.keys()),
        "excused": {name: reason for name, reason in excused.items() if name not in good},
        "checks": sum(seen[name].passed for name in good),
        "not_scored": {
            each["scenario"]: {
                "reason": each["reason"],
                "passed": each["scenario"] in seen and seen[each["scenario"]].good,
            }
            for each in others
        },
    }


def run(node: str, suite: Path, leg: str, revision: str, options: Iterable[str]) -> dict[str, Any]:
    requirements = yaml.safe_load((suite / "requirements" / f"{revision}.yaml").read_text())
    with tempfile.TemporaryDirectory() as folder:
        command = [node, str(suite / "dist" / "index.js"), leg, *options, "--requirements", revision, "-o", folder]
        said = subprocess.run(command, cwd=HERE, capture_output=True, text=True, timeout=600)
    seen = outcomes(said.stdout)
    if not seen:
        raise SystemExit(f"the suite came to no end:\n{said.stdout[-2000:]}\n{said.stderr[-2000:]}")
    return judge(leg, revision, requirements, seen)


def main(node: str, suite: Path) -> int:
    assert len(EXCUSED) <= 3, "more is not conformance"
    python = sys.executable
    reports: dict[str, Any] = {}
    fixture = [python, "-m", "tests.conformance.everything"]
    serving = subprocess.Popen(fixture, cwd=HERE, stdout=subprocess.PIPE, text=True)
    try:
        assert serving.stdout is not None
        url = serving.stdout.readline().strip()
        for revision in REVISIONS:
            reports[f"server {revision}"] = run(node, suite, "server", revision, ["--url", url])
    finally:
        serving.terminate()
        serving.wait()
    for revision in REVISIONS:
        # All clients of a suite start at once, on however few cores there are.
        options = ["--command", f"{python} -m tests.conformance.driver", "--timeout", "180000"]
        reports[f"client {revision}"] = run(node, suite, "client", revision, options)
    return tell(json.loads((suite / "package.json").read_text())["version"], reports)


def tell(version: str, reports: dict[str, Any]) -> int:
    """Write the report and print it; 1 if anything failed."""
    total = {
        "passed": sum(report["passed"] for report in reports.values()),
        "failed": sum(len(report["failed"]) for report in reports.values()),
        "excused": sum(len(report["excused"]) for report in reports.values()),
    }
    content = {"suite": f"@modelcontextprotocol/conformance {version}", **total, "runs": reports}
    REPORT.write_text(json.dumps(content, indent=1) + "\n")
    for name, report in reports.items():
        counts = f"{report['passed']} passed, {len(report['failed'])} failed, {len(report['excused'])} excused"
        print(f"{name}: {counts} of {report['required']} required scenarios")
        for scenario in report["failed"]:
            print(f"  failed: {scenario}")
        for scenario, reason in report["excused"].items():
            print(f"  excused: {scenario}, because {reason}")
    print(f"in all: {total['passed']} passed, {total['failed']} failed, {total['excused']} excused; see {REPORT.name}")
    return 1 if total["failed"] else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1], Path(sys.argv[2])))
