"""`trivium seed`: rebuild the model that we ship, or write traffic for the demo."""

from __future__ import annotations

from pathlib import Path

import click


@click.group(invoke_without_command=True)
@click.option("--rebuild", is_flag=True, help="Pre-train the seed model from nothing, through Ray Train.")
@click.option("--steps", type=click.IntRange(min=1), help="Stop early, on the full run's schedule.")
@click.option(
    "--out", type=click.Path(path_type=Path), help="Folder of the new model.  [default: .trivium/models/seed]"
)
@click.option("--recipe", type=click.Path(path_type=Path), help="Another recipe than the shipped model's.")
@click.option("--workers", type=click.IntRange(min=1), default=1, show_default=True, help="Data-parallel workers.")
@click.option("--resume", is_flag=True, help="Go on at the last checkpoint in --out.")
@click.pass_context
def seed(
    ctx: click.Context,
    rebuild: bool,
    steps: int | None,
    out: Path | None,
    recipe: Path | None,
    workers: int,
    resume: bool,
) -> None:
    """The small model that Trivium ships: where it comes from."""
    if ctx.invoked_subcommand:
        return
    if not rebuild:
        click.echo(ctx.get_help())
        return
    from cluster.settings import Settings
    from pipelines.seed.rebuild import rebuild as run

    where = run(
        out or Settings.from_environment().state / "models" / "seed",
        recipe=recipe,
        steps=steps,
        workers=workers,
        resume=resume,
    )
    click.echo(f"the seed model is in {where}; serve it with --model {where}")


@seed.command()
@click.option(
    "--out", type=click.Path(path_type=Path), required=True, help="Folder for train.jsonl and validate.jsonl."
)
@click.option("--train", "train_rows", type=click.IntRange(min=1), default=2000, show_default=True)
@click.option("--validate", "validate_rows", type=click.IntRange(min=1), default=300, show_default=True)
@click.option("--seed", "number", default=0, show_default=True, help="Another seed, other requests.")
def traffic(out: Path, train_rows: int, validate_rows: int, number: int) -> None:
    """Write requests for tools that the seed model has not met: the demo's default traffic."""
    import json

    from pipelines.seed.corpus import traffic as draw

    rows = draw(train_rows + validate_rows, number)
    out.mkdir(parents=True, exist_ok=True)
    for name, part in (("train", rows[:train_rows]), ("validate", rows[train_rows:])):
        path = out / f"{name}.jsonl"
        path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in part), encoding="utf-8")
        click.echo(f"{path}: {len(part)} requests")
