"""The cluster's life: up, down, status."""

from __future__ import annotations

import fcntl
import importlib.util
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import httpx

from cluster import deploy, durable, head, hosting, network, ports, pressure
from cluster.auth import first_key, mint_key
from cluster.decisions import Alias, fold, read
from cluster.environment import client_environment, environment
from cluster.head import Head
from cluster.registry import Registry
from cluster.settings import Settings

__all__ = ["Options", "client_environment", "down", "environment", "status", "up"]

Say = Callable[[str], None]
"""Takes one line of progress."""


@dataclass(frozen=True)
class Options:
    """What `up` was asked for. None leaves what runs, or what the config file says, as it is."""

    config: str | None = None
    """Path of a Serve config file; the package's `services/serve.yaml` if None."""
    model: str | None = None
    listen: str | None = None
    replicas: int | None = None

    def over(self, former: Options) -> Options:
        return replace(former, **{name: value for name, value in vars(self).items() if value is not None})


def up(settings: Settings, options: Options, say: Say) -> None:
    """Start a Ray head or join the one that runs, and deploy the Serve config. Done again, it changes nothing.

    Raises `ValueError` with the fix in it: a busy port, a full disk, a head without the environment that this needs, a
    deployment that dies or finds no room.
    """
    if options.model:
        from cluster.models import check_model, resolve

        model = resolve(options.model)
        check_model(model)
        options = replace(options, model=str(model))
    _listen(settings, options.listen)
    with _alone(settings):
        # Before any process could: two replicas that start together must not disown each other's keys.
        first_key(settings.state), mint_key(settings.state)
        ours = _head(settings, say)
        chosen = options.over(Options(**(ours.options or {})))
        config = deploy.override(
            deploy.load(Path(chosen.config) if chosen.config else _package_config()),
            listen=_listen(settings, chosen.listen),
            port=settings.http_port,
            model=chosen.model,
            replicas=chosen.replicas,
        )
        with deploy.Serve(settings.dashboard_url, head.token(settings)) as serve:
            _wait_for_dashboard(serve, settings)
            with deploy.alone(settings.state):
                details = serve.details()
                _check_listen(details, config)
                config = _with_versions(settings, config)
                digests = deploy.digests(config)
                changes = ours.applications != digests or not deploy.running(details, set(digests))
                if changes:
                    # Names first, so that `down` ends them; what they are and were asked for only once they run: after
                    # a failure the next `up` tries again, and without the options that failed.
                    replace(ours, applications=dict.fromkeys(digests, "") | ours.applications).write(settings)
                    say("deploying" if details["applications"] else "starting Serve")
                    serve.deploy(deploy.beside(config, details, set(ours.applications)))
            if changes:
                # A head of ours never grows; where somebody else's autoscaler adds a machine, that takes minutes.
                deploy.wait(serve, set(digests), say, unplaced_s=5 if ours.mark else 600)
            replace(ours, applications=digests, options=vars(chosen)).write(settings)
        _create_aliases(settings, config)


def down(settings: Settings, say: Say) -> None:
    """End what `up` started, and nothing else: a head that it joined goes on, without the applications of `up`."""
    with _alone(settings):
        ours = Head.read(settings)
        if ours is None:
            return say("nothing to end: `trivium up` has started nothing for this state")
        if ours.mark:
            say(f"{head.end(ours)} processes ended")
        else:
            with deploy.Serve(settings.dashboard_url, head.token(settings)) as serve:
                if serve.ready():
                    with deploy.alone(settings.state):
                        names = {*ours.applications, *_version_names(settings, serve.details())}
                        serve.deploy(deploy.beside({"applications": []}, serve.details(), names))
                    say(f"applications ended: {', '.join(sorted(names))}; the Ray head was not ours and goes on")
        head.clear(settings)


def status(settings: Settings) -> dict[str, Any]:
    """What runs, what serves, what is logged, and where. Reads only; a part that is away is None."""
    answer: dict[str, Any] = {
        "state": str(settings.state),
        "up": False,
        "addresses": {
            "api": settings.base_url,
            "dashboard": settings.dashboard_url,
            "mlflow": settings.tracking_uri,
        },
        "nodes": [],
        "applications": {},
        "aliases": {
            name: {"champion": alias.champion, "staged": alias.staged, "base": alias.base, "canary": _canary(alias)}
            for name, alias in fold(read(settings.state)).aliases.items()
        },
        "replicas": None,
        "wheel": None,
        "training": None,
        "log": _log(settings),
        "metrics": None,
    }
    ours = Head.read(settings)
    if ours is None or (ours.mark and not head.alive(ours)):
        return answer  # a dashboard whose GCS is dead takes a minute to say so
    if ours.place:  # a head of somebody else has its own places
        answer["metrics"] = {
            "address": f"http://{settings.node_ip}:{ports.fixed(settings)['ray-metrics']}/metrics",
            "config": f"{ours.place}/ray/session_latest/metrics/prometheus/prometheus.yml",
        }
    # A cluster that goes down while we ask is down.
    with suppress(httpx.HTTPError), deploy.Serve(settings.dashboard_url, head.token(settings)) as serve:
        if serve.ready():
            details = serve.details()
            answer |= {
                "up": True,
                "nodes": [
                    {"ip": node["node_ip"], "state": node["state"], "resources": node["resources_total"]}
                    for node in serve.nodes()
                ],
                "applications": {
                    name: {"status": application["status"], "message": application["message"]}
                    for name, application in details["applications"].items()
                },
            }
            # Another's application at `/`, on a head that was joined, would answer these paths too.
            routes = {application["route_prefix"] for application in details["applications"].values()}
            if "/admin/rollout" in routes:
                rollout = _ask(settings, "/admin/rollout") or {"replicas": None, "aliases": {}}
                answer["replicas"] = rollout["replicas"]
                for name in answer["aliases"].keys() & rollout["aliases"].keys():
                    answer["aliases"][name]["canary"] = rollout["aliases"][name]["canary"]  # with what was seen of it
            if "/admin/wheel" in routes:
                answer["wheel"] = _ask(settings, "/admin/wheel")
                answer["training"] = training(settings, (answer["wheel"] or {}).get("run"))
    return answer


def training(settings: Settings, run: dict[str, Any] | None) -> dict[str, Any] | None:
    """How the last run's training shares this cluster with serving; None if it never trained.

    `workers` are those that there are now of `most`; `paused` is what this machine's do just now.
    """
    if not run or not run["moves"]:
        return None
    running = run["state"] == "running" and run["steps"].get("train", {}).get("state") == "running"
    here = pressure.Node(pressure.path(settings)).trainers() if running else []
    return {
        "running": running,
        "workers": run["moves"][-1]["workers"] if running else 0,
        "most": run["moves"][-1]["most"],
        "paused": any(trainer.paused for trainer in here),
        "moves": run["moves"],
    }


def _head(settings: Settings, say: Say) -> Head:
    """The head that serves this state: the one that runs, or a new one."""
    ours = Head.read(settings)
    if ours and head.revive(settings, ours):
        say("Ray's GCS died; it goes on with what it had stored")
    elif ours and ours.mark and not head.alive(ours):
        say("the Ray head died; ending what is left of it")
        head.end(ours)
        head.clear(settings)
        ours = None
    if ours and ours.mark:
        return ours
    if gcs := head.find(settings):
        head.check_environment(settings, gcs)
        return ours or Head(None, {})
    say("starting Ray")
    return head.start(settings)


def _with_versions(settings: Settings, config: deploy.Config) -> deploy.Config:
    """The configuration with an application for each full-weight version that the decision log needs."""
    rollout, registry = fold(read(settings.state)), Registry(settings)
    versions = hosting.applications(config["applications"], rollout, registry.find, registry.root)
    return {**config, "applications": [*config["applications"], *versions]}


def _version_names(settings: Settings, details: dict[str, Any]) -> list[str]:
    """The applications that the rollout has started meanwhile."""
    root = Registry(settings).root
    return [each["name"] for each in deploy.declared(details) if hosting.hosted(each, root)]


def _create_aliases(settings: Settings, config: deploy.Config) -> None:
    """An application that names an alias in its `args` serves its base under it from the first `up` on."""
    from cluster.client import Client

    asked = {a["name"]: a["args"]["alias"] for a in config["applications"] if (a.get("args") or {}).get("alias")}
    existing = fold(read(settings.state)).aliases
    if any(alias not in existing for alias in asked.values()):
        with Client(settings, first_key(settings.state)) as client:
            replicas = client.rollout()["replicas"]
            for name, alias in asked.items():
                if alias not in existing:
                    client.create(alias, replicas[name][0]["base"])


def _wait_for_dashboard(serve: deploy.Serve, settings: Settings, patience_s: float = 60) -> None:
    deadline = time.monotonic() + patience_s
    while not serve.ready():
        if time.monotonic() > deadline:
            raise ValueError(
                f"Ray's dashboard does not answer at {settings.dashboard_url}; `trivium down`, then `trivium up`"
            )
        time.sleep(0.1)


def _listen(settings: Settings, asked: str | None) -> str:
    """Where Serve listens. It has one host for all machines, for HAProxy and for replicas, and each HAProxy calls the
    replicas of its own machine on loopback and those of others by their address."""
    if settings.alone:
        return asked or network.LOOPBACK
    if asked in (None, *network.EVERYWHERE):
        return asked or network.EVERYWHERE[0]
    raise ValueError(
        f"on several machines Serve has to listen on all addresses, not on {asked} alone; leave out --listen and close "
        "the ports to everybody else with `trivium firewall`, or leave out TRIVIUM_NODE_IP for one machine"
    )


def _check_listen(details: dict[str, Any], config: deploy.Config) -> None:
    """Serve takes its host and port only when it starts."""
    have, want = details.get("http_options") or {}, config["http_options"]
    if have and (have["host"], have["port"]) != (want["host"], want["port"]):
        raise ValueError(
            f"the gateway listens on {have['host']}:{have['port']} and Serve cannot move it to "
            f"{want['host']}:{want['port']} while it runs; `trivium down`, then `trivium up --listen {want['host']}`"
        )


def _package_config() -> Path:
    spec = importlib.util.find_spec("services")  # finds it without importing it: `cluster` imports neither side
    assert spec and spec.submodule_search_locations
    return Path(spec.submodule_search_locations[0]) / "serve.yaml"


def _ask(settings: Settings, path: str) -> dict[str, Any] | None:
    """What an application of ours answers; None if it is away."""
    key = first_key(settings.state)
    try:
        answer = httpx.get(
            f"http://127.0.0.1:{settings.http_port}{path}",
            headers={"authorization": f"Bearer {key}"},
            timeout=5,
            trust_env=False,
        )
        return answer.json() if answer.is_success else None
    except (httpx.HTTPError, ValueError):
        return None


def _canary(alias: Alias) -> dict[str, Any] | None:
    canary = alias.canary
    return {"share": canary.share, "shadow": canary.shadow} if canary else None


def _log(settings: Settings) -> dict[str, Any] | None:
    if not (settings.state / "log").exists():
        return None
    from cluster.log import Log

    return vars(Log.here(settings).stats())


@contextmanager
def _alone(settings: Settings) -> Iterator[None]:
    """One `up` or `down` of a state at a time."""
    durable.make_folder(settings.state)
    with open(settings.state / ".runtime.lock", "w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise ValueError(
                "another `trivium up` or `down` works on this state; wait for it to end, or press Ctrl-C there once it "
                "only says that replicas are finishing: they finish without it"
            ) from None
        yield
