"""`trivium keys create | list | revoke`: works on the state folder; a cluster that runs follows at once."""

from __future__ import annotations

import json
import time

import click

from cluster.auth import MOST_PRIORITY, SCOPES, Entry, Keys, Limits
from cluster.settings import Settings


@click.group()
def keys() -> None:
    """Who may call, what, and how much."""


@keys.command()
@click.argument("name")
@click.option(
    "--scope", "scopes", multiple=True, type=click.Choice(SCOPES), help="Repeatable. [default: infer, feedback]"
)
@click.option("--requests-per-minute", type=click.IntRange(min=1), help="[default: no limit]")
@click.option("--tokens-per-minute", type=click.IntRange(min=1), help="Prompt and completion. [default: no limit]")
@click.option("--concurrent", type=click.IntRange(min=1), help="Requests at once. [default: no limit]")
@click.option(
    "--priority",
    type=click.IntRange(-MOST_PRIORITY, MOST_PRIORITY),
    default=0,
    show_default=True,
    help="Lower is served first.",
)
def create(
    name: str,
    scopes: tuple[str, ...],
    requests_per_minute: int | None,
    tokens_per_minute: int | None,
    concurrent: int | None,
    priority: int,
) -> None:
    """Make a key for NAME, the principal that records will name. Only the key goes to standard output.

    \b
    KEY=$(trivium keys create app --requests-per-minute 600)
    """
    limits = Limits(requests_per_minute=requests_per_minute, tokens_per_minute=tokens_per_minute, concurrent=concurrent)
    store = Keys(Settings.from_environment().state)
    click.echo(store.create(name, scopes or ("infer", "feedback"), limits, priority))
    click.echo("This is the only time that the key is shown.", err=True)


@keys.command("list")
@click.option("--json", "as_json", is_flag=True, help="As JSON.")
def show(as_json: bool) -> None:
    """The keys that are valid, without their secrets."""
    entries = Keys(Settings.from_environment().state).entries()
    if as_json:
        click.echo(json.dumps([entry.model_dump(exclude={"digest"}) for entry in entries], indent=2))
    else:
        head = ("id", "name", "scopes", "requests/min", "tokens/min", "at once", "priority", "created")
        rows = [head, *map(_row, entries)]
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
        for row in rows:
            click.echo("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())


@keys.command()
@click.argument("key", metavar="NAME|ID")
def revoke(key: str) -> None:
    """Refuse a key from now on. Requests that it has under way end as they would have."""
    gone = Keys(Settings.from_environment().state).revoke(key)
    click.echo(f"{gone.name} ({gone.id}) is revoked")


def _row(entry: Entry) -> tuple[str, ...]:
    limits = (entry.limits.requests_per_minute, entry.limits.tokens_per_minute, entry.limits.concurrent)
    return (
        entry.id,
        entry.name,
        " ".join(entry.scopes),
        *("-" if limit is None else f"{limit:,}" for limit in limits),
        str(entry.priority),
        time.strftime("%Y-%m-%d %H:%M", time.localtime(entry.created)),
    )
