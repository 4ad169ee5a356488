"""`trivium log`: look at the log, and carry it in and out."""

from __future__ import annotations

import json
import re
import time
from pathlib import Path
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from rich.text import Text

    from cluster.log import Log
    from cluster.records import Entry, Message


@click.group()
def log() -> None:
    """The durable log of requests and feedback."""


@log.command()
@click.option("-n", "count", default=10, show_default=True, help="How many entries.")
@click.option("-f", "--follow", is_flag=True, help="Go on showing entries as they come, until Ctrl-C.")
def tail(count: int, follow: bool) -> None:
    """Show the newest entries."""
    from rich.console import Console

    from cluster.log.tail import Tail

    console = Console(highlight=False)
    newest = Tail(_log())
    for entry in newest.last(count):
        console.print(_line(entry))
    while follow:
        time.sleep(0.5)
        for entry in newest.new():
            console.print(_line(entry))


@log.command()
@click.option("--json", "as_json", is_flag=True, help="One line of JSON.")
def stats(as_json: bool) -> None:
    """Count what is in the log, and what is not compacted yet."""
    from dataclasses import asdict

    from rich.console import Console
    from rich.table import Table

    counts = asdict(_log().stats())
    if as_json:
        click.echo(json.dumps(counts))
        return
    table = Table(show_header=False, box=None)
    for name, value in counts.items():
        table.add_row(name.replace("_", " "), "-" if value is None else f"{value:,}")
    Console().print(table)


@log.command()
def compact() -> None:
    """Move what segments hold into the Delta table now. The wheel does this by itself."""
    done = _log().compact()
    click.echo(f"{done.rows_added:,} rows added, {done.segments_retired:,} segments retired")
    click.echo(f"table version {done.table_version}")


@log.command(name="import")
@click.argument("files", nargs=-1, required=True, type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option("--alias", default="assistant", show_default=True, help="Alias that the rows are examples for.")
def import_(files: tuple[Path, ...], alias: str) -> None:
    """Bring in chat logs, fine-tuning files or an export: JSONL or Parquet.

    All of them or, if a line is broken, nothing. What the log has already is left out.
    """
    from cluster.log.exchange import import_files

    done = import_files(_log(), files, alias)
    steps = f", {done.steps:,} steps" if done.steps else ""
    click.echo(f"{done.records:,} records and {done.feedback:,} feedback{steps} imported, {done.known:,} known already")


@log.command()
@click.option("--out", required=True, type=click.Path(dir_okay=False, path_type=Path), help="File to write.")
@click.option(
    "--format",
    "form",
    type=click.Choice(["jsonl", "parquet", "openai"]),
    default="jsonl",
    show_default=True,
    help="openai: a fine-tuning file of corrected and well-liked answers.",
)
@click.option("--since", help="Only entries from then on: 2026-05-01, 2026-05-01T12:00, or 30m, 12h, 7d ago.")
def export(out: Path, form: str, since: str | None) -> None:
    """Write the log to a file."""
    from cluster.log.exchange import export

    rows = export(_log(), out, form, since_time(since, time.time()) if since else float("-inf"))  # type: ignore[arg-type]
    click.echo(f"{rows:,} rows in {out}")


def since_time(text: str, now: float) -> float:
    """Unix seconds of an ISO date (local time, if it names no zone) or of an age like `7d`. Raises `ValueError`."""
    from datetime import datetime

    if age := re.fullmatch(r"(\d+)([smhd])", text):
        return now - int(age[1]) * {"s": 1, "m": 60, "h": 3600, "d": 86400}[age[2]]
    try:
        return datetime.fromisoformat(text).timestamp()
    except ValueError:
        raise ValueError(f"--since {text}: give a date like 2026-05-01, or an age like 30m, 12h, 7d") from None


def _log() -> Log:
    from cluster.log import Log
    from cluster.settings import Settings

    return Log.here(Settings.from_environment())


def _line(entry: Entry) -> Text:
    from rich.text import Text

    from cluster.records import Record, Step

    clock = time.strftime("%H:%M:%S", time.localtime(entry.time))
    if isinstance(entry, Record):
        outcome = "green" if entry.status == 200 and not entry.disconnected else "red"
        asked = _text(entry.messages[-1]) if entry.messages else "(not stored)"
        answer = entry.error or (_text(entry.answer) if entry.answer else "(none)")
        return Text.assemble(
            (f"{clock} ", "dim"),
            (f"{entry.version:<14} ", "cyan"),
            (f"{entry.status} ", outcome),
            (f"{entry.latency_s:6.2f} s  ", "dim"),
            _clean(asked, 60),
            (" -> ", "dim"),
            (_clean(answer, 60), outcome),
        )
    if isinstance(entry, Step):
        said = entry.body.get("message") or {"content": entry.body.get("answer") or entry.body.get("content")}
        return Text.assemble(
            (f"{clock} ", "dim"),
            (f"{_clean(entry.agent, 14):<14} ", "yellow"),
            f"{_clean(entry.event, 10):<10} {_clean(entry.request_id, 44)} ",
            (_clean(_text(said), 60), "dim"),
        )
    said = f" {_clean(_text(entry.correction), 60)}" if entry.correction else ""
    return Text.assemble(
        (f"{clock} ", "dim"),
        (f"{'feedback':<14} ", "magenta"),
        f"{entry.score:.2f} by {_clean(entry.source, 20)} on {_clean(entry.request_id, 44)}{said}",
    )


def _text(message: Message) -> str:
    """A message on one line: its tool calls, or its text."""
    calls = [call.get("function", {}) for call in message.get("tool_calls") or []]
    if calls:
        return " ".join(f"{call.get('name')}({call.get('arguments')})" for call in calls)
    content = message.get("content")
    if isinstance(content, list):
        content = " ".join(str(part.get("text", f"[{part.get('type')}]")) for part in content)
    return str(content or "")


def _clean(text: str, width: int) -> str:
    """Without control characters: what users wrote must not steer the operator's terminal."""
    plain = " ".join(
        "".join(c if c.isprintable() or c.isspace() else "\N{REPLACEMENT CHARACTER}" for c in text).split()
    )
    return plain if len(plain) <= width else plain[: width - 1] + "…"
