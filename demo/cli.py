"""`trivium demo`: watch the wheel turn. A pure client: HTTP and the command line, nothing imported from inside."""

from __future__ import annotations

from pathlib import Path

import click


@click.command()
@click.option(
    "--traffic",
    type=click.Path(path_type=Path),
    help="Folder with train.jsonl and validate.jsonl.  [default: made by `trivium seed`]",
)
@click.option(
    "--feedback", default="1,0,0", show_default=True, help="RATE,SCORE_ONLY_SHARE,WRONG_SHARE of the users' feedback."
)
@click.option("--requests", type=click.IntRange(1), help="Live requests at most.  [default: 800, with --traffic 4000]")
@click.option(
    "--validate", type=click.IntRange(1), help="Requests to measure on, at most.  [default: 300, with --traffic all]"
)
@click.option(
    "--cycles",
    type=click.IntRange(1),
    default=2,
    show_default=True,
    help="Turns to wait for while the score is too low.",
)
@click.option(
    "--patience", type=click.FloatRange(0.1), default=20, show_default=True, help="Minutes to wait for one turn."
)
@click.option(
    "--plant-bad-candidate", "plant", is_flag=True, help="In the end, let the former version try to come back."
)
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    default=Path(".trivium/demo"),
    show_default=True,
    help="Where the report goes.",
)
def demo(
    traffic: Path | None,
    feedback: str,
    requests: int | None,
    validate: int | None,
    cycles: int,
    patience: float,
    plant: bool,
    out: Path,
) -> None:
    """Serve, be judged, learn, get better, be tried and promoted; then say why.

    Starts the cluster if it does not run, sends live traffic through the OpenAI client, gives feedback as users would,
    and waits for the wheel, which turns by itself. Writes report.json and report.html.
    """
    from demo.feedback import Dilution
    from demo.play import Play, Script

    script = Script(traffic, Dilution.parse(feedback), requests, validate, cycles, patience * 60, out, plant)
    try:
        Play(script).perform()
    except KeyboardInterrupt:
        click.echo(
            "\nStopped. The cluster is still up and what was logged is safe: `trivium demo` goes on from here, "
            "`trivium status` shows where it stands, `trivium down` ends it.",
            err=True,
        )
        raise SystemExit(130) from None
