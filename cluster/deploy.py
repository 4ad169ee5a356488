"""Serve applications, through Serve's own configuration API: the REST interface that `serve deploy` uses."""

from __future__ import annotations

import fcntl
import hashlib
import json
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import yaml

from cluster import hosting

Config = dict[str, Any]
"""A Serve config file, parsed."""


class Serve:
    """Serve's configuration API of one cluster."""

    def __init__(self, dashboard_url: str, token: str) -> None:
        self._http = httpx.Client(
            base_url=dashboard_url,
            headers={"authorization": f"Bearer {token}"},
            timeout=60,  # the first call makes the dashboard connect to its own cluster
            trust_env=False,  # a proxy for the internet is none for loopback
        )

    def __enter__(self) -> Serve:
        return self

    def __exit__(self, *_: object) -> None:
        self._http.close()

    def ready(self) -> bool:
        """Whether the dashboard answers. Raises `ValueError` if it wants another token."""
        try:
            answer = self._http.get("/api/version", timeout=5)
        except httpx.HTTPError:
            return False
        if answer.status_code in (401, 403):
            raise ValueError(
                "the running cluster wants another token than this state's; set RAY_AUTH_TOKEN_PATH to the file with it"
            )
        return answer.is_success

    def details(self) -> dict[str, Any]:
        answer = self._http.get("/api/serve/applications/")
        answer.raise_for_status()
        return answer.json()

    def nodes(self) -> list[dict[str, Any]]:
        answer = self._http.get("/api/v0/nodes")
        answer.raise_for_status()
        return answer.json()["data"]["result"]["result"]

    def unmet(self) -> bool:
        """Whether Ray has tasks, actors or placement groups waiting that its nodes have no room for."""
        answer = self._http.get("/api/cluster_status")
        answer.raise_for_status()
        load = answer.json()["data"]["clusterStatus"].get("loadMetricsReport") or {}
        return bool(load.get("resourceDemand") or load.get("pgDemand"))

    def deploy(self, config: Config) -> None:
        """Make Serve's applications what `config` says. Raises `ValueError` if Serve does not take it."""
        for _ in range(3):
            # The first call starts Serve, which gives its proxy 60 s and fails if a busy machine needs more; the proxy
            # goes on starting, and the same call made again finds it.
            answer = self._http.put("/api/serve/applications/", json=config, timeout=180)
            if answer.status_code == 400:
                raise ValueError(f"Serve does not accept the configuration: {answer.text.strip()}")
            if answer.is_success:
                return
        raise RuntimeError(answer.text)  # the dashboard answers with Serve's trace


def load(path: Path) -> Config:
    """Read a Serve config file. Raises `ValueError` with one sentence if there is none in it."""
    try:
        config = yaml.safe_load(path.read_text())
    except OSError as error:
        raise ValueError(f"{path} cannot be read ({error.strerror}); give a Serve config file with --config") from None
    except yaml.YAMLError as error:
        raise ValueError(f"{path} is not YAML: {' '.join(str(error).split())}") from None
    if not isinstance(config, dict) or not config.get("applications"):
        raise ValueError(f"{path} has no `applications`; see services/serve.yaml for one that has")
    return config


def override(config: Config, listen: str, port: int, model: str | None, replicas: int | None) -> Config:
    """The configuration with what the command line says: about the public port, and about the application at `/`."""
    applications = [
        _given(application, model, replicas) if application.get("route_prefix", "/") == "/" else application
        for application in config["applications"]
    ]
    return {
        **config,
        "http_options": {**config.get("http_options", {}), "host": listen, "port": port},
        "applications": applications,
    }


def _given(application: Config, model: str | None, replicas: int | None) -> Config:
    """The application with another model, or another number of replicas in place of what it says of that.

    The number goes to Serve as an option of the deployment: whatever changes in `args`, Serve replaces all replicas.
    """
    changed = dict(application)
    if model is not None:
        changed["args"] = {**application.get("args", {}), "model": model}
    if replicas is not None and (served := hosting.served(changed)):  # else it will not start, and says why
        name = hosting.deployment_name(served)
        all_of_them = {each["name"]: each for each in application.get("deployments", [])}
        own = {option: value for option, value in all_of_them.get(name, {}).items() if option != "autoscaling_config"}
        all_of_them[name] = {**own, "name": name, "num_replicas": replicas}
        changed["deployments"] = list(all_of_them.values())
    return changed


@contextmanager
def alone(state: Path) -> Iterator[None]:
    """One change of a cluster's applications at a time: between looking what there is and saying what there is to be,
    nobody else may say it."""
    with open(state / ".deploy.lock", "w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def declared(details: dict[str, Any]) -> list[Config]:
    """The applications that configurations have brought, but for those that end."""
    return [
        application["deployed_app_config"]
        for application in details["applications"].values()
        if application.get("source") == "declarative"
        and application.get("deployed_app_config")
        and application["status"] != "DELETING"
    ]


def beside(config: Config, details: dict[str, Any], ours: set[str]) -> Config:
    """The configuration together with the applications of others: deploying is declarative, what is not named ends."""
    names = {application["name"] for application in config["applications"]} | ours
    others = [application for application in declared(details) if application["name"] not in names]
    return {**config, "applications": [*config["applications"], *others]}


def digests(config: Config) -> dict[str, str]:
    """What each application is deployed as, to see whether a second `up` has anything to do."""
    return {
        application["name"]: hashlib.sha256(json.dumps(application, sort_keys=True).encode()).hexdigest()[:16]
        for application in config["applications"]
    }


def running(details: dict[str, Any], names: set[str]) -> bool:
    """Whether the applications run and every node's HAProxy takes requests for them."""
    found, proxies = details["applications"], details.get("proxies") or {}
    return (
        all(name in found and found[name]["status"] == "RUNNING" for name in names)
        and bool(proxies)
        and all(proxy["status"] == "HEALTHY" for proxy in proxies.values())
    )


def wait(serve: Serve, names: set[str], say: Callable[[str], None], unplaced_s: float, patience_s: float = 900) -> None:
    """Wait until the applications run; `say` gets a line whenever something changes.

    Raises `ValueError` with Serve's own message for a deployment that failed, that finds no room on the cluster for
    `unplaced_s`, or that is not there after `patience_s`.
    """
    begin, said, patience = time.monotonic(), set[str](), Patience(serve, names, unplaced_s)
    while True:
        details = serve.details()
        for line in progress(details, names):
            if line not in said:
                said.add(line)
                say(line)
        if running(details, names):
            return
        patience.look(details)
        if time.monotonic() - begin > patience_s:
            raise ValueError(f"not running after {patience_s:.0f} s: {'; '.join(progress(details, names))}")
        time.sleep(0.5)


@dataclass
class Patience:
    """Whether it makes sense to go on waiting for applications."""

    serve: Serve
    names: set[str]
    unplaced_s: float
    _since: dict[str, float] = field(default_factory=dict)
    """By deployment: since when it finds no room."""

    def look(self, details: dict[str, Any]) -> None:
        """Raises `ValueError` with Serve's own message if a deployment failed, or has found no room for too long."""
        for name, message in failed(details, self.names):
            raise ValueError(f"application {name} does not run: {message}")
        # Serve says the same of a replica without room and of one whose process is slow to start; Ray knows better.
        # And a replica that leaves makes room when it has finished its streams.
        waiting = dict(unplaced(details, self.names))
        if waiting and (leaving(details) or not self.serve.unmet()):
            waiting = {}
        self._since = {key: self._since.get(key, time.monotonic()) for key in waiting}
        for key, since in self._since.items():
            if time.monotonic() - since > self.unplaced_s:
                raise ValueError(f"there is no room on the cluster: {waiting[key]}")


def progress(details: dict[str, Any], names: set[str]) -> Iterator[str]:
    """One line for each deployment: where it stands."""
    for name in sorted(names & details["applications"].keys()):
        application = details["applications"][name]
        if not application["deployments"]:
            yield f"{name}: {application['status'].lower().replace('_', ' ')}"
        for title, deployment in application["deployments"].items():
            states = [replica["state"] for replica in deployment["replicas"]]
            up = f"{states.count('RUNNING')} of {deployment['target_num_replicas']} replicas run"
            if leaves := states.count("STOPPING"):
                up += f", {leaves} finishing"  # `up` waits for their last answers
            trouble = _gist(deployment["message"]) if deployment["status"] in ("UNHEALTHY", "DEPLOY_FAILED") else ""
            yield f"{name}/{title}: {up}{f' ({trouble})' if trouble else ''}"


def failed(details: dict[str, Any], names: set[str]) -> Iterator[tuple[str, str]]:
    for name in sorted(names & details["applications"].keys()):
        application = details["applications"][name]
        if application["status"] == "DEPLOY_FAILED":
            messages = [
                deployment["message"] for deployment in application["deployments"].values() if deployment["message"]
            ]
            yield name, "\n".join([application["message"], *messages]).strip()


def unplaced(details: dict[str, Any], names: set[str]) -> Iterator[tuple[str, str]]:
    """Deployments whose replicas have been waiting for long; Serve itself only warns."""
    for name in sorted(names & details["applications"].keys()):
        for title, deployment in details["applications"][name]["deployments"].items():
            if "to be scheduled" in deployment["message"]:
                yield f"{name}/{title}", " ".join(deployment["message"].split())


def leaving(details: dict[str, Any]) -> bool:
    """Whether any replica is on its way out."""
    return any(
        replica["state"] == "STOPPING"
        for application in details["applications"].values()
        for deployment in application["deployments"].values()
        for replica in deployment["replicas"]
    )


def _gist(message: str) -> str:
    """The last line of a traceback, the only line of anything else."""
    lines = [line.strip() for line in message.splitlines() if line.strip()]
    return lines[-1][:300] if lines else ""
