"""`trivium up | down | status | env | firewall`."""

from __future__ import annotations

import json
import shlex
import sys
import time
from typing import TYPE_CHECKING, Any

import click

from cluster.settings import Settings

if TYPE_CHECKING:
    from cluster.log.recent import Pace


@click.command()
@click.option("--model", help="Hugging Face id or folder of the base model (default: what the config names).")
@click.option("--listen", metavar="HOST", help="Open the gateway on this address (default: this machine only).")
@click.option("--replicas", type=click.IntRange(min=1), help="Replicas of the engine.")
@click.option("--config", type=click.Path(), help="Serve config file (default: the package's services/serve.yaml).")
def up(model: str | None, listen: str | None, replicas: int | None, config: str | None) -> None:
    """Start the cluster and serve. Done again, it changes nothing."""
    from pathlib import Path

    from cluster.runtime import Options
    from cluster.runtime import up as start

    settings, begin = Settings.from_environment(), time.monotonic()

    def say(line: str) -> None:
        click.echo(f"{time.monotonic() - begin:6.1f} s  {line}")

    config = str(Path(config).absolute()) if config else None
    start(settings, Options(config, model, listen, replicas), say)
    say("up")
    click.echo(f"\n  API        {settings.base_url}\n  key        {settings.state / 'secrets' / 'api_key'} (a file)")
    click.echo(f"  dashboard  {settings.dashboard_url}\n")
    click.echo('  eval "$(trivium env)" sets a shell up for the openai client, `ray job submit` and `serve status`.')


@click.command()
def down() -> None:
    """End what `up` started, and nothing else."""
    from cluster.runtime import down as stop

    stop(Settings.from_environment(), click.echo)


@click.command()
@click.option("--json", "as_json", is_flag=True, help="As JSON.")
@click.option("--watch", is_flag=True, help="Live, with the last minute's answers by version; `q` ends it.")
@click.option("--refreshes", type=click.IntRange(min=1), help="With --watch: end after showing it so often.")
def status(as_json: bool, watch: bool, refreshes: int | None) -> None:
    """Nodes, applications, versions, log, wheel, addresses."""
    from cluster.runtime import status as look

    if watch and as_json:
        raise click.UsageError("--watch draws for people; leave out --json")
    settings = Settings.from_environment()
    if watch:
        from cluster.log.recent import Recent
        from cluster.watch import show

        recent = Recent(settings.log or settings.state / "log")
        return show(lambda: _table(look(settings), recent.paces(time.time())), refreshes)
    found = look(settings)
    click.echo(json.dumps(found, indent=2) if as_json else _table(found))
    if not found["up"]:
        sys.exit(1)


@click.command()
def env() -> None:
    """Print lines for `eval "$(trivium env)"`. They hold the API key: do not log them."""
    from cluster.environment import client_environment, make_folder

    settings = Settings.from_environment()
    # A Ray that starts with these lines has its sockets there, and would make the folder for everybody to look into.
    make_folder(settings)
    for name, value in client_environment(settings).items():
        click.echo(f"export {name}={shlex.quote(value)}")


@click.command()
@click.option("--allow", multiple=True, metavar="CIDR", help="Network of the cluster's other nodes (repeatable).")
def firewall(allow: tuple[str, ...]) -> None:
    """Print nftables rules that close what Ray and HAProxy open to the network."""
    from cluster.firewall import rules

    click.echo(rules(Settings.from_environment(), allow), nl=False)


def _table(found: dict[str, Any], paces: list[Pace] | None = None) -> str:
    rows: list[tuple[str, str]] = [("state", found["state"]), ("cluster", "up" if found["up"] else "down")]
    rows += [("node", f"{node['ip']} {node['state'].lower()}") for node in found["nodes"]]
    rows += [
        (f"application {name}", f"{application['status'].lower()} {application['message']}".strip())
        for name, application in found["applications"].items()
    ]
    rows += [(f"alias {name}", _alias_line(alias)) for name, alias in found["aliases"].items()]
    rows += [(f"{pace.version} {pace.arm}", _pace_line(pace)) for pace in paces or ()]
    rows += [("last minute", "no requests")] if paces == [] else []
    if log := found["log"]:
        rows.append(("log", _log_line(log)))
    if wheel := found["wheel"]:
        rows.append(("wheel", _wheel_line(wheel)))
        rows += [("cycle", _cycle_line(wheel["run"]))] if wheel["run"] else []
    if training := found["training"]:
        rows.append(("training", _training_line(training)))
    rows += list(found["addresses"].items())
    if found["addresses"]["mlflow"].startswith("sqlite:"):
        # No server of its own: it would take half a GiB for pages that are looked at now and then.
        rows.append(("", f"(`mlflow ui --backend-store-uri {found['addresses']['mlflow']}` shows it)"))
    if metrics := found["metrics"]:
        rows += [
            ("metrics", metrics["address"]),
            ("", f"(`prometheus --config.file={metrics['config']}` collects them)"),
        ]
    width = max(len(name) for name, _ in rows)
    return "\n".join(f"{name:<{width}}  {value}" for name, value in rows)


def _alias_line(alias: dict[str, Any]) -> str:
    match alias:
        case {"canary": {"share": share, "shadow": shadow}}:
            part = f"{'unseen, ' if shadow else ''}{share:.0%} of the sessions"
            seen = f": {alias['canary']['reason']}" if "reason" in alias["canary"] else ""
            return f"{alias['champion']}, {alias['staged']} in its canary ({part}){seen}"
        case {"staged": str(staged)}:
            return f"{alias['champion']}, {staged} staged"
    return alias["champion"]


def _pace_line(pace: Pace) -> str:
    line = f"{pace.requests / pace.window_s:.1f} requests/s, p50 {pace.p50_s * 1000:,.0f} ms"
    return line + (f", {pace.failed:,} of {pace.requests:,} failed" if pace.failed else "")


def _log_line(log: dict[str, Any]) -> str:
    line = f"{log['records']:,} records, {log['feedback']:,} feedback; "
    if log["table_version"] is not None:
        line += f"{log['table_rows']:,} rows in table version {log['table_version']}, "
    line += f"{log['lag_entries']:,} entries ({log['lag_bytes'] / 1024:,.0f} KiB) wait to be compacted"
    return line + (f"; {log['damaged']:,} damaged segments put aside" if log["damaged"] else "")


def _wheel_line(wheel: dict[str, Any]) -> str:
    score = "" if wheel["live_score"] is None else f", live score {wheel['live_score']:.3f}"
    return (
        f"{'on: ' if wheel['on'] else ''}{wheel['reason']}; recipe {wheel['recipe']}, "
        f"{wheel['fresh']:,} fresh of {wheel['min_feedback']:,} wanted{score}"
    )


def _training_line(training: dict[str, Any]) -> str:
    last = training["moves"][-1]
    line = f"{training['workers']} of {training['most']} workers" if training["running"] else "over"
    line += ", paused" if training["paused"] else ""
    took = "" if last["seconds"] is None else f"{last['times']} times, {last['seconds']:.1f} s; "
    when = time.strftime("%H:%M:%S", time.localtime(last["time"]))
    verb = {"pause": "paused", "shrink": f"shrank to {last['workers']}", "grow": f"grew to {last['workers']}"}
    return f"{line}; last move at {when}: {verb[last['kind']]} ({took}{last['reason']})"


def _cycle_line(run: dict[str, Any]) -> str:
    if run["state"] == "failed":
        came = f"failed: {run['error']}"
    elif run["state"] == "running":
        at = ((name, step) for name, step in run["steps"].items() if step["state"] == "running")
        came = next((f"at {name} for {time.time() - step['started']:.0f} s" for name, step in at), "begins")
    else:
        came = " ".join(filter(None, (run["outcome"], run["candidate"])))
    took = ", ".join(f"{name} {seconds:.0f} s" for name, seconds in run["timings_s"].items() if seconds >= 0.5)
    return f"{run['id']} {came}" + (f" ({took})" if took else "")
