"""Commands that move aliases. They ask the cluster over HTTP, as anybody else does."""

from __future__ import annotations

import getpass
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from cluster.records import Decision


def _reason(_: click.Context, __: click.Parameter, given: str | None) -> str:
    return given or f"by hand, {getpass.getuser()}"


@click.command()
@click.argument("version")
@click.option("--reason", callback=_reason, help="Kept in the decision log. [default: by hand, USER]")
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
@click.option("--reason", callback=_reason, help="Kept in the decision log. [default: by hand, USER]")
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
@click.option("--reason", callback=_reason, help="Kept in the decision log. [default: by hand, USER]")
def rollback(alias: str, reason: str) -> None:
    """Return ALIAS to the version that it served before the present one."""
    from cluster.client import Client
    from cluster.settings import Settings

    with Client(Settings.from_environment()) as client:
        _tell(client.rollback(alias, reason))


def _tell(decision: Decision) -> None:
    serves = "is no longer staged for" if decision.action == "reject" else "serves"
    click.echo(f"{decision.version} {serves} {decision.alias} (decision {decision.sequence}: {decision.reason})")
