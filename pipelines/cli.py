"""`trivium cycle | wheel | lineage`."""

from __future__ import annotations

import sys

import click


@click.command()
@click.option("--recipe", default="default", show_default=True, help="A shipped recipe's name, or a YAML file.")
@click.option("--here", is_flag=True, help="Run in this process, not as a job of the cluster.")
def cycle(recipe: str, here: bool) -> None:
    """Turn the wheel once: collect, curate, train, evaluate, gate, publish.

    \b
    Submits itself to the cluster as a Ray job and follows it; the same as
        ray job submit -- trivium cycle --recipe FILE
    A cycle that was killed goes on at the step that it lost. Ends with 0 for any verdict, and with 1 if it failed.
    """
    from cluster.settings import Settings
    from pipelines.job import Jobs, inside
    from pipelines.recipe import Recipe, find

    settings = Settings.from_environment()
    path = find(recipe)
    Recipe.load(path)  # a typo is reported here, not by a job
    if here or inside():
        import os

        from cluster.environment import environment
        from cluster.priority import give_way

        os.environ.update(environment(settings))  # before Ray is imported
        give_way()
        from pipelines.cycle import turn

        turn(settings, recipe, inside())
        return
    jobs = Jobs(settings)
    job = jobs.submit(str(path.absolute()) if path.suffix else recipe)
    click.echo(f"job {job}; `ray job stop {job}` ends it, and the next cycle goes on where it was")
    if not jobs.follow(job, lambda lines: click.echo(lines, nl=False)):
        sys.exit(1)


@click.group()
def wheel() -> None:
    """Whether cycles start by themselves."""


@wheel.command()
def on() -> None:
    """Let cycles start by themselves."""
    _tell("POST", "on")


@wheel.command()
def off() -> None:
    """Start no more cycles. One that runs comes to its end."""
    _tell("POST", "off")


@wheel.command()
def status() -> None:
    """Whether it turns, and why not."""
    _tell("GET", "")


def _tell(method: str, action: str) -> None:
    from cluster.client import Client
    from cluster.settings import Settings

    with Client(Settings.from_environment()) as client:
        state = client.get("/admin/wheel") if method == "GET" else client.post(f"/admin/wheel/{action}")
    click.echo(f"wheel {'on' if state['on'] else 'off'}: {state['reason']}")
    if run := state["run"]:
        click.echo(f"last cycle {run['id']}: {run['error'] or run['outcome'] or run['state']}")


@click.command()
@click.argument("version", required=False)
@click.option("--record", metavar="ID", help="A request id: which datasets and versions saw this record?")
@click.option("--json", "as_json", is_flag=True, help="As JSON.")
def lineage(version: str | None, record: str | None, as_json: bool) -> None:
    """Where VERSION, such as assistant@2, comes from; or where a record went."""
    if bool(version) == bool(record):
        raise click.UsageError("give either a version, such as assistant@2, or --record ID")
    from rich.console import Console

    from cluster.settings import Settings
    from pipelines.lineage import describe, render, seen_by

    settings = Settings.from_environment()
    answer = describe(settings, version) if version else seen_by(settings, record or "")
    if as_json:
        import json

        click.echo(json.dumps(answer, indent=1, ensure_ascii=False, default=str))
    else:
        render(answer, Console())
