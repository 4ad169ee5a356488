"""`trivium agents`: run agents and look after their runs, through the public port."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from rich.text import Text

    from cluster.client import Client
    from services.agents.settings import AgentsSettings
    from services.agents.toolbox.consent import Change

json_option = click.option("--json", "as_json", is_flag=True, help="As JSON.")

COLOURS = {"completed": "green", "failed": "red", "rejected": "red", "canceled": "yellow", "input-required": "magenta"}


@click.group()
def agents() -> None:
    """Agents: a model in a loop with tools, whose runs survive what dies."""


@agents.command()
@click.argument("name")
@click.argument("text")
@click.option("--follow", is_flag=True, help="Show what it does until it ends, or wants something.")
@click.option("--thread", help="A conversation that it is to go on with.")
@click.option("--id", "given", help="An id of your choice: given again, the same run.")
@json_option
def run(name: str, text: str, follow: bool, thread: str | None, given: str | None, as_json: bool) -> None:
    """Have the agent NAME do TEXT; prints the id of the run."""
    order = {"input": text, **({"thread": thread} if thread else {}), **({"id": given} if given else {})}
    with _client() as client:
        view = client.post(f"/agents/{_part(name)}/runs", order)
        if not follow:
            click.echo(json.dumps(view) if as_json else view["id"])
            return
        _follow(client, view["id"], as_json)


@agents.command(name="list")
@click.option("--agent", help="Only runs of this agent.")
@click.option("-n", "count", default=20, show_default=True, type=click.IntRange(1, 1000), help="How many.")
@json_option
def list_(agent: str | None, count: int, as_json: bool) -> None:
    """Show the newest runs: yours, or with an admin key everybody's."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    with _client() as client:
        found = client.get(f"/agents/runs?limit={count}{f'&agent={_part(agent)}' if agent else ''}")["runs"]
    if as_json:
        click.echo(json.dumps(found))
        return
    table = Table(box=None)
    for title in ("run", "agent", "state", "for", "turns", "tokens", "age", "task"):
        table.add_column(title, no_wrap=True, justify="right" if title in ("turns", "tokens", "age") else "left")
    for view in found:
        age = _age(time.time() - view["created"])
        table.add_row(
            view["id"],
            Text(_plain(view["agent"], 20)),
            Text(view["state"], COLOURS.get(view["state"], "")),
            Text(_plain(view["principal"], 16)),
            str(view["turns"]),
            f"{view['tokens']:,}",
            age,
            Text(_plain(view["task"], 48)),
        )
    console = Console(highlight=False)
    if not console.is_terminal:
        console.width = 200  # a pipe has none of its own, and ids must stay whole
    console.print(table)


@agents.command()
@click.argument("run")
@json_option
def follow(run: str, as_json: bool) -> None:
    """Show what RUN did and does until it ends, or wants something."""
    with _client() as client:
        _follow(client, run, as_json)


@agents.command()
@click.argument("run")
def cancel(run: str) -> None:
    """End RUN, and its sub-agents, wherever it stands."""
    with _client() as client:
        view = client.post(f"/agents/runs/{_part(run)}/cancel")
    click.echo(f"{view['id']} is {view['state']}")


@agents.command()
@click.argument("run")
@click.option("--no", "declined", is_flag=True, help="Decline.")
@click.option("--result", metavar="TEXT", help="What a call came to whose result was lost in a crash.")
@click.option("--answer", metavar="TEXT", help="In words, where RUN asked for them.")
def approve(run: str, declined: bool, result: str | None, answer: str | None) -> None:
    """Allow what RUN asks for, decline it, or answer its question."""
    if sum((declined, result is not None, answer is not None)) > 1:
        raise click.UsageError("choose one of --no, --result and --answer")
    with _client() as client:
        if answer is not None:
            view = client.post(f"/agents/runs/{_part(run)}/input", {"text": answer})
        else:
            said = {"approved": not declined, **({"result": result} if result is not None else {})}
            view = client.post(f"/agents/runs/{_part(run)}/approve", said)
    click.echo(f"{view['id']} is {view['state']}")


@agents.command()
@click.argument("files", nargs=-1, required=True, type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option("--for", "principal", default="owner", show_default=True, help="Key, by its name, whose agents find it.")
def remember(files: tuple[Path, ...], principal: str) -> None:
    """Store text FILES in the memory in which agents look things up. A file again replaces what it said before."""
    import asyncio

    from cluster.client import find_key
    from cluster.settings import Settings
    from services.agents.memory.remember import ingest, memories

    cluster, settings = Settings.from_environment(), _deployed().memory
    key = find_key(cluster) if settings.embeddings and not settings.embeddings.key_variable else None
    stored = asyncio.run(ingest(memories(settings, cluster, key), principal, list(files)))
    for source, passages in stored:
        click.echo(f"{source}: {passages} passages")


@agents.command()
@click.argument("server")
@click.option("--yes", is_flag=True, help="Consent without being asked.")
def consent(server: str, yes: bool) -> None:
    """Look at the tools of an MCP SERVER that the settings name, and let agents use them as they are now.

    A model reads a tool's description as if you had written it. So a tool that is new, or told in other words than you
    have seen, is not offered before you have looked at it. Runs that begin from then on may use it.
    """
    import asyncio
    import getpass

    from cluster.settings import Settings
    from services.agents.toolbox.mcp_tools import ask_consent

    def agree(changes: list[Change]) -> bool:
        for change in changes:
            click.secho(f"{change.kind}: {change.tool}", bold=True)
            click.echo(_plain(change.diff, 100_000, lines=True))
        return yes or click.confirm("consent?")

    servers, state = _deployed().tools.mcp, Settings.from_environment().state
    given = asyncio.run(ask_consent(server, servers, state, getpass.getuser(), agree))
    click.echo(f"{len(given.tools)} tools of {server} may be used" if given else f"no tool of {server} may be used")


def _deployed() -> AgentsSettings:
    """The settings that the running application has."""
    from cluster.deploy import Serve
    from cluster.environment import token_path
    from cluster.settings import Settings
    from services.agents.settings import AgentsSettings

    settings = Settings.from_environment()
    with Serve(settings.dashboard_url, token_path(settings).read_text().strip()) as serve:
        if not serve.ready():
            raise ValueError(f"no cluster answers at {settings.dashboard_url}; start it with `trivium up`")
        found = serve.details()["applications"].get("agents")
    if found is None:
        raise ValueError("the cluster runs no application `agents`; add it to the Serve config")
    return AgentsSettings.model_validate(found["deployed_app_config"]["args"])


def _client() -> Client:
    from cluster.client import Client
    from cluster.settings import Settings

    return Client(Settings.from_environment())


def _follow(client: Client, run: str, as_json: bool) -> None:
    """Each step as a line; at last the answer, or what is wanted. A run that failed fails the command."""
    from rich.console import Console

    console = Console(highlight=False)
    for step in client.events(f"/agents/runs/{_part(run)}/events"):
        if as_json:
            click.echo(json.dumps(step))
        else:
            console.print(_line(step))
    view = client.get(f"/agents/runs/{_part(run)}")
    if as_json:
        click.echo(json.dumps(view))
    elif view["state"] == "completed":
        console.print(_plain(view["answer"] or "", 100_000, lines=True), markup=False)
    elif view["state"] == "input-required":
        console.print(_plain(view["question"] or "", 4000), style="magenta", markup=False)
        how = "--answer TEXT" if view["wants"] == "words" else "[--no | --result TEXT]"
        click.echo(f"answer with: trivium agents approve {view['id']} {how}")
    if view["state"] in ("failed", "canceled", "rejected"):
        raise click.ClickException(f"{view['id']} is {view['state']}: {_plain(view['reason'] or '', 2000)}")


def _line(step: dict[str, Any]) -> Text:
    from rich.text import Text

    clock = time.strftime("%H:%M:%S", time.localtime(step["time"]))
    return Text.assemble((f"{clock} ", "dim"), (f"{step['event']:<9} ", "cyan"), _plain(_gist(step), 120))


def _gist(step: dict[str, Any]) -> str:
    """What a step is about, in a line."""
    body = step["body"]
    match step["event"]:
        case "model":
            calls = [call["function"] for call in body["message"].get("tool_calls") or ()]
            said = " ".join(f"{call['name']}({call['arguments']})" for call in calls)
            return said or str(body["message"].get("content") or "")
        case "decision":
            return f"{body['tool']}: {body['effect']} ({', '.join(body['policies']) or 'no policy'}) {body['reason']}"
        case "call":
            return str(body["tool"])
        case "result":
            return f"{body['tool']}: {body['content']}"
        case "ask":
            return str(body["question"])
        case "end":
            return f"{body['state']} {body.get('reason') or ''}"
        case _:
            return " ".join(f"{name}={value}" for name, value in body.items() if isinstance(value, str | float | bool))


def _age(seconds: float) -> str:
    for size, unit in ((86400, "d"), (3600, "h"), (60, "m")):
        if seconds >= size:
            return f"{seconds / size:.0f}{unit}"
    return f"{max(seconds, 0):.0f}s"


def _part(text: str) -> str:
    """As a part of a path."""
    from urllib.parse import quote

    return quote(text, safe="")


def _plain(text: str, width: int, lines: bool = False) -> str:
    """Without control characters: what models and users wrote must not steer the operator's terminal."""
    kept = "".join(c if c.isprintable() or (lines and c == "\n") else " " for c in text)
    kept = kept if lines else " ".join(kept.split())
    return kept if len(kept) <= width else kept[: width - 1] + "…"
