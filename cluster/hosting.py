"""Full-weight versions in service: each that is needed has a Serve application of its own. Pure, but for a look at
whether a base is a folder.

An adapter is loaded into the engine of its base; a version with weights of its own needs an engine of its own. Its
application is the one that serves its base, with other weights under another name and route: the same engine's
settings, resources and limits. Gateways forward to it, so for an alias it makes no difference what a version is.

Which are needed follows from the decision log: champions, those that a rollback leads to, and candidates. `up` and
`services/hosting.py` both come to the same.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cluster import models
from cluster.decisions import Rollout
from cluster.records import Version
from cluster.registry import parse

Config = Mapping[str, Any]
"""What Serve is told of one application."""
Find = Callable[[str], Version | None]

GATEWAY = "Gateway:"
"""How the deployments begin whose replicas are gateways."""


@dataclass(frozen=True)
class Plan:
    """What is to change."""

    start: list[Config]
    end: dict[str, str]
    """Applications by the version that each has and nothing needs any more."""


def plan(configs: Sequence[Config], rollout: Rollout, find: Find, folder: Path) -> Plan:
    """What brings the applications of full-weight versions up to the decision log.

    `configs` are all applications that Serve has, `folder` is where the registry keeps versions.
    """
    have = {version: config["name"] for config in configs if (version := hosted(config, folder))}
    others = [config for config in configs if not hosted(config, folder)]
    wanted = {version.id for version in needed(rollout, find)}
    return Plan(
        start=[c for c in applications(others, rollout, find, folder) if c["name"] not in have.values()],
        end={version: name for version, name in have.items() if version not in wanted},
    )


def applications(configs: Sequence[Config], rollout: Rollout, find: Find, folder: Path) -> list[Config]:
    """The application of each full-weight version that is needed, after the pattern of the one that serves its base.

    `configs` are the applications of bases. A version whose base none of them serves, or that one of them serves
    itself, has none.
    """
    return [
        _application(base, version, folder)
        for version in needed(rollout, find)
        if holder(configs, version.id) is None and (base := holder(configs, version.base)) is not None
    ]


def needed(rollout: Rollout, find: Find) -> list[Version]:
    """Full-weight versions that must answer."""
    found = [find(version) for version in dict.fromkeys(rollout.wanted())]
    return [version for version in found if version and version.form == "full"]


def holder(configs: Iterable[Config], wanted: str) -> Config | None:
    """The application that serves a base, or a full-weight version, under this id."""
    return next((config for config in configs if served(config) == wanted), None)


def hosted(config: Config, folder: Path) -> str | None:
    """The version that an application was made for; None for any other application, made for it by hand or not."""
    args = config.get("args") or {}
    try:
        name, number = parse(str(args.get("name", "")))
    except ValueError:
        return None
    version = f"{name}@{number}"
    ours = (config["name"], args.get("model")) == (application_name(version), str(folder / name / str(number)))
    return version if ours else None


def application_name(version: str) -> str:
    """`assistant@7` -> `assistant-v7`."""
    name, number = parse(version)
    return f"{name}-v{number}"


def deployment_name(served: str) -> str:
    """How the deployment is called that serves a base or a version, in letters that Serve and HAProxy take."""
    return GATEWAY + served.replace("/", "--").replace(".", "_").replace("@", "-v")


def served(config: Config) -> str | None:
    """Id of the base, or of the full-weight version, that an application serves."""
    args = config.get("args") or {}
    if args.get("name") or not args.get("model"):
        return args.get("name") or None
    try:
        return models.base_id(args["model"], models.resolve(args["model"]))
    except ValueError:  # it will not start, and says why
        return None


def _application(base: Config, version: Version, folder: Path) -> Config:
    name = application_name(version.id)
    route = f"/versions/{name}"
    own = {
        "model": str(folder / version.name / str(version.number)),
        "name": version.id,
        "route": route,
        "max_loras": 0,  # adapters are made for the base
    }
    args = {key: value for key, value in base["args"].items() if key != "alias"} | own
    former, deployment = deployment_name(version.base), deployment_name(version.id)
    deployments = [
        {**each, "name": deployment} if each["name"] == former else each for each in base.get("deployments") or ()
    ]
    return {
        **base,
        "name": name,
        "route_prefix": route,
        "args": args,
        **({"deployments": deployments} if deployments else {}),
    }
