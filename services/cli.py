"""Commands that move aliases, and one that checks who did. The former ask the cluster over HTTP, as anybody does."""

from __future__ import annotations

import getpass
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from cluster.records import Decision


def _by_hand(_: click.Context, __: click.Parameter, given: str | None) -> str:
    return given or f"by hand, {getpass.getuser()}"


reason_option = click.option("--reason", callback=_by_hand, help="Kept in the decision log. [default: by hand, USER]")


@click.command()
@click.argument("version")
@click.option("--share", type=click.FloatRange(0, 1, min_open=True, max_open=True), help="Of the sessions, at first.")
@click.option("--shadow", is_flag=True, help="Answer beside the champion, seen by nobody.")
@reason_option
def canary(version: str, share: float | None, shadow: bool, reason: str) -> None:
    """Let VERSION, such as assistant@2, answer a share of the sessions until its worth is proven.

    Live feedback, errors and latency decide: it is promoted, or rolled back. `trivium status` shows how it does.
    """
    from cluster.client import Client
    from cluster.registry import parse
    from cluster.settings import Settings

    alias, _ = parse(version)
    with Client(Settings.from_environment()) as client:
        _tell(client.canary(alias, version, reason, share, shadow))


@click.command()
@click.argument("version")
@reason_option
def promote(version: str, reason: str) -> None:
    """Make VERSION, such as assistant@2, the one that its alias serves.

    Every replica loads it first; answers change from one request to the next, and none fails.
    """
    from cluster.client import Client
    from cluster.registry import parse
    from cluster.settings import Settings

    alias, _ = parse(version)
    with Client(Settings.from_environment()) as client:
        _tell(client.promote(alias, version, reason))


@click.command()
@click.argument("version")
@reason_option
def reject(version: str, reason: str) -> None:
    """Let VERSION, a staged candidate such as assistant@2, go: replicas unload it."""
    from cluster.client import Client
    from cluster.registry import parse
    from cluster.settings import Settings

    alias, _ = parse(version)
    with Client(Settings.from_environment()) as client:
        _tell(client.reject(alias, version, reason))


@click.command()
@click.argument("alias", default="assistant")
@reason_option
def rollback(alias: str, reason: str) -> None:
    """Return ALIAS to the version that it served before the present one."""
    from cluster.client import Client
    from cluster.settings import Settings

    with Client(Settings.from_environment()) as client:
        _tell(client.rollback(alias, reason))


@click.command()
@click.option(
    "--head", metavar="DIGEST", help="What an earlier audit printed: also find a log that was cut or rewritten."
)
def audit(head: str | None) -> None:
    """Check that no entry of the decision log was changed since it was written. Works without a cluster."""
    from cluster.decisions import audit as check
    from cluster.settings import Settings

    found = check(Settings.from_environment().state, head)
    if found.fault:
        raise ValueError(f"{found.fault}; the {found.entries} entries before it are sound")
    click.echo(f"{found.entries} entries, none changed; head {found.head or 'none'}")


def _tell(decision: Decision) -> None:
    match decision.action:
        case "reject":
            does = f"is no longer staged for {decision.alias}"
        case "canary" if decision.shadow:
            does = f"answers {decision.share:.0%} of the sessions of {decision.alias} unseen"
        case "canary":
            does = f"answers {decision.share:.0%} of the sessions of {decision.alias}"
        case _:
            does = f"serves {decision.alias}"
    click.echo(f"{decision.version} {does} (decision {decision.sequence}: {decision.reason})")
