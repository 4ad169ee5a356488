"""The story in the terminal: live and coloured on a screen, plain lines everywhere else."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn
from rich.table import Table

from demo.turn import Wheel

LEARNS = {
    "collect": "pins the log's table and joins requests with feedback",
    "curate": "chooses, scrubs and de-duplicates rows; sets a holdout aside",
    "train": "tunes a LoRA adapter on what was worth learning",
    "evaluate": "replays the holdout through the live deployment",
    "gate": "asks whether the candidate is better, with 95 % confidence",
    "publish": "lets some users try it, or nobody",
}


class Story:
    """Tells what happens; `timings_s` keeps how long each chapter took."""

    def __init__(self, console: Console | None = None) -> None:
        self.console = console or Console(highlight=False, soft_wrap=True)
        self.timings_s: dict[str, float] = {}

    def title(self, text: str) -> None:
        self.console.print(f"\n[bold]{text}[/bold]")

    def say(self, text: str) -> None:
        self.console.print(f"  {text}")

    @contextmanager
    def chapter(self, name: str, title: str) -> Iterator[None]:
        """A stretch of the story, timed under `name` (stretches of one name add up)."""
        self.title(title)
        begun = time.monotonic()
        try:
            yield
        finally:
            self.timings_s[name] = round(self.timings_s.get(name, 0) + time.monotonic() - begun, 2)

    @contextmanager
    def counting(self, what: str, total: int) -> Iterator[Callable[[str], None]]:
        """Progress over `total` requests; call what this yields once for each, with a note."""
        if self.console.is_terminal:
            columns = (SpinnerColumn(), TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
            with Progress(
                TextColumn(" "), *columns, TimeElapsedColumn(), TextColumn("{task.fields[note]}"), console=self.console
            ) as progress:
                task = progress.add_task(what, total=total, note="")
                yield lambda note: progress.update(task, advance=1, note=note)
            return
        done = 0

        def advance(note: str) -> None:
            nonlocal done
            done += 1
            if done % max(1, total // 4) == 0:
                self.say(f"{what}: {done} of {total}  {note}")

        yield advance

    @contextmanager
    def waiting(self) -> Iterator[Callable[[str], None]]:
        """For something that reports in lines of its own."""
        if self.console.is_terminal:
            with self.console.status("starting") as status:
                yield lambda line: status.update(escape(line))
            return
        yield lambda line: self.say(escape(line)) if line.strip() else None

    @contextmanager
    def turning(self) -> Iterator[Callable[[Wheel], None]]:
        """The wheel's steps as they happen."""
        told: set[str] = set()

        def tell(wheel: Wheel) -> None:
            """One line for each step that has ended, and one for each reason to wait."""
            if wheel.turn:
                for step in (step for step in wheel.turn.steps_s if f"{wheel.turn.id} {step}" not in told):
                    told.add(f"{wheel.turn.id} {step}")
                    self.say(f"{step:<9} {wheel.turn.steps_s[step]:6.1f} s  [dim]{LEARNS.get(step, '')}[/dim]")

        if not self.console.is_terminal:
            yield tell
            return
        with self.console.status("waiting for the wheel") as status:

            def show(wheel: Wheel) -> None:
                tell(wheel)
                running = wheel.turn.step if wheel.turn and not wheel.turn.done else None
                status.update(f"[bold]{running}[/bold]: {LEARNS.get(running, '')}" if running else escape(wheel.reason))

            yield show

    def scores(self, report: dict[str, Any]) -> None:
        """Before and after, by tool."""
        table = Table(box=None, padding=(0, 2), title_justify="left")
        for heading in ("", "requests", "right tool", "", "exact call", ""):
            table.add_column(heading, justify="left" if not heading and not table.columns else "right")
        rows = {**report["by_tool"], "all": {**report["before"], "before": report["before"], "after": report["after"]}}
        for tool, row in rows.items():
            before, after = row["before"], row["after"]
            table.add_row(
                f"[bold]{tool}[/bold]" if tool == "all" else escape(tool),
                str(row["n"]),
                percent(before["tool_accuracy"]),
                f"-> [bold]{percent(after['tool_accuracy'])}[/bold]",
                percent(before["exact_match"]),
                f"-> [bold]{percent(after['exact_match'])}[/bold]",
            )
        self.console.print(table)

    def successes(self, report: dict[str, Any]) -> None:
        """Before and after, by the way a job is put."""
        table = Table(box=None, padding=(0, 2))
        for heading in ("", "jobs", "done right", ""):
            table.add_column(heading, justify="right" if table.columns else "left")
        for name, row in {**report["by_template"], "all": report}.items():
            table.add_row(
                f"[bold]{name}[/bold]" if name == "all" else escape(name),
                str(row["after"]["n"]),
                percent(row["before"]["success"]),
                f"-> [bold]{percent(row['after']['success'])}[/bold]",
            )
        self.console.print(table)

    def verdict(self, verdict: dict[str, Any] | None, outcome: str | None) -> None:
        if not verdict:
            self.say(escape(outcome or "the cycle ended without a verdict"))
            return
        word = "[green]accepted[/green]" if verdict["accepted"] else "[red]rejected[/red]"
        self.say(
            f"{verdict['candidate']} {word}: {verdict['candidate_score']:.3f} against {verdict['champion_score']:.3f} "
            f"of {verdict['champion']} on {verdict['rows']} held-out rows; gain {verdict['gain']:+.3f}, "
            f"with 95 % confidence at least {verdict['gain_low']:+.3f}"
        )
        for reason in verdict["reasons"]:
            self.say(f"[dim]{escape(reason)}[/dim]")

    def canary(self, ended: dict[str, Any]) -> None:
        word = "[green]promoted[/green]" if ended["promoted"] else "[red]rolled back[/red]"
        self.say(f"{ended['candidate']} {word} after {ended['requests']} requests: {escape(ended['reason'])}")


def percent(share: float) -> str:
    return f"{100 * share:.1f} %"
