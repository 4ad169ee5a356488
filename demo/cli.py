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
@click.option(
    "--agents", is_flag=True, help="An agent at work in a shop, judged by the shop's books, instead of single requests."
)
@click.option(
    "--requests",
    type=click.IntRange(1),
    help="Live requests at most, or jobs of a shift.  [default: 800, with --traffic 4000, with --agents 600]",
)
@click.option(
    "--validate",
    type=click.IntRange(1),
    help="Requests or jobs to measure on, at most.  [default: 300, with --traffic all, with --agents 120]",
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
    agents: bool,
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

    With --agents the model is a clerk with tools: it does jobs of several steps, a checker rewards what came of them,
    and one turn of the wheel later it fails less.
    """
    from demo import play, shift
    from demo.feedback import Dilution

    if agents and (traffic or plant):
        raise click.UsageError("--agents brings its own jobs; leave out --traffic and --plant-bad-candidate")
    dilution, patience_s = Dilution.parse(feedback), patience * 60
    try:
        if agents:
            shift.Shift(shift.Script(requests, validate, cycles, patience_s, out)).perform()
        else:
            play.Play(play.Script(traffic, dilution, requests, validate, cycles, patience_s, out, plant)).perform()
    except KeyboardInterrupt:
        click.echo(
            "\nStopped. The cluster is still up and what was logged is safe: `trivium demo` goes on from here, "
            "`trivium status` shows where it stands, `trivium down` ends it.",
            err=True,
        )
        raise SystemExit(130) from None
