from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from cluster import deploy

CONFIG: deploy.Config = {
    "http_options": {"request_timeout_s": 60},
    "applications": [
        {"name": "assistant", "route_prefix": "/", "args": {"model": "seed", "alias": "assistant"}},
        {"name": "rollout", "route_prefix": "/admin/rollout"},
    ],
}


def application(
    status: str, deployments: dict[str, Any] | None = None, message: str = "", **more: Any
) -> dict[str, Any]:
    return {"status": status, "message": message, "deployments": deployments or {}, **more}


def deployment(status: str = "HEALTHY", message: str = "", states: tuple[str, ...] = ("RUNNING",)) -> dict[str, Any]:
    replicas = [{"state": state} for state in states]
    return {"status": status, "message": message, "replicas": replicas, "target_num_replicas": len(states)}


def details(proxy: str = "HEALTHY", **applications: dict[str, Any]) -> dict[str, Any]:
    return {"applications": applications, "proxies": {"node": {"status": proxy}}}


def test_command_line_changes_the_application_at_the_root_only(tmp_path: Path) -> None:
    mine = tmp_path / "mine"
    mine.mkdir()
    config = deploy.override(CONFIG, "0.0.0.0", 9000, model=str(mine), replicas=2)
    assistant, rollout = config["applications"]
    assert assistant["args"] == {"model": str(mine), "alias": "assistant"}
    assert assistant["deployments"] == [{"name": "Gateway:mine", "num_replicas": 2}]
    assert rollout == CONFIG["applications"][1]
    assert config["http_options"] == {"request_timeout_s": 60, "host": "0.0.0.0", "port": 9000}


def test_nothing_given_leaves_the_applications_as_they_are() -> None:
    config = deploy.override(CONFIG, "127.0.0.1", 8000, model=None, replicas=None)
    assert config["applications"] == CONFIG["applications"]


def test_a_number_of_replicas_takes_the_place_of_scaling() -> None:
    scaled = {"name": "Gateway:seed", "max_ongoing_requests": 9, "autoscaling_config": {"max_replicas": 4}}
    config = {**CONFIG, "applications": [{**CONFIG["applications"][0], "deployments": [scaled]}]}
    (kept,) = deploy.override(config, "127.0.0.1", 8000, model="other", replicas=None)["applications"]
    assert kept["deployments"] == [scaled]
    (changed,) = deploy.override(config, "127.0.0.1", 8000, model=None, replicas=2)["applications"]
    assert changed["args"] == CONFIG["applications"][0]["args"], "what changes there replaces all replicas"
    assert changed["deployments"] == [{"name": "Gateway:seed", "max_ongoing_requests": 9, "num_replicas": 2}]


def test_applications_of_others_stay() -> None:
    theirs = {"name": "theirs", "import_path": "their:app"}
    found = details(
        assistant=application("RUNNING", source="declarative", deployed_app_config=CONFIG["applications"][0]),
        theirs=application("RUNNING", source="declarative", deployed_app_config=theirs),
        by_hand=application("RUNNING", source="imperative", deployed_app_config=None),
        gone=application("RUNNING", source="declarative", deployed_app_config={"name": "gone"}),
        going=application("DELETING", source="declarative", deployed_app_config={"name": "going"}),
    )
    config = deploy.beside(CONFIG, found, ours={"assistant", "gone"})
    assert [each["name"] for each in config["applications"]] == ["assistant", "rollout", "theirs"]


def test_same_configuration_has_the_same_digests() -> None:
    changed = deploy.override(CONFIG, "127.0.0.1", 8000, model="other", replicas=None)
    assert deploy.digests(CONFIG) == deploy.digests({**CONFIG, "http_options": {}})
    assert deploy.digests(changed)["assistant"] != deploy.digests(CONFIG)["assistant"]
    assert deploy.digests(changed)["rollout"] == deploy.digests(CONFIG)["rollout"]


@pytest.mark.parametrize(
    ("found", "runs"),
    [
        (details(a=application("RUNNING")), True),
        (details(a=application("DEPLOYING")), False),
        (details(b=application("RUNNING")), False),
        (details("STARTING", a=application("RUNNING")), False),
        ({"applications": {"a": application("RUNNING")}, "proxies": {}}, False),
    ],
)
def test_it_runs_when_the_applications_do_and_a_proxy_takes_requests(found: dict[str, Any], runs: bool) -> None:
    assert deploy.running(found, {"a"}) is runs


def test_failure_shows_what_the_deployment_said() -> None:
    broken = deployment("DEPLOY_FAILED", "Traceback ...\nValueError: the model folder has no weights")
    found = details(a=application("DEPLOY_FAILED", {"Gateway": broken}, "Failed to update the deployments"))
    [(name, message)] = deploy.failed(found, {"a"})
    assert name == "a"
    assert "the model folder has no weights" in message


def test_progress_says_where_a_deployment_stands_and_what_its_trouble_is() -> None:
    trouble = deployment("UNHEALTHY", "died\n  because of this", ("RUNNING", "STARTING"))
    assert list(deploy.progress(details(a=application("DEPLOYING", {"Gateway": trouble})), {"a"})) == [
        "a/Gateway: 1 of 2 replicas run (because of this)"
    ]
    assert list(deploy.progress(details(a=application("NOT_STARTED")), {"a"})) == ["a: not started"]
    smaller = deployment("DOWNSCALING", "", ("RUNNING", "RUNNING", "STOPPING"))
    assert list(deploy.progress(details(a=application("DEPLOYING", {"Gateway": smaller})), {"a"})) == [
        "a/Gateway: 2 of 3 replicas run, 1 finishing"
    ]


def test_a_replica_that_leaves_will_make_room() -> None:
    assert deploy.leaving(details(a=application("RUNNING", {"Gateway": deployment(states=("RUNNING", "STOPPING"))})))
    assert not deploy.leaving(
        details(a=application("RUNNING", {"Gateway": deployment(states=("RUNNING", "STARTING"))}))
    )


def test_broken_configuration_file_is_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="cannot be read"):
        deploy.load(tmp_path / "absent.yaml")
    (tmp_path / "broken.yaml").write_text("applications: [")
    with pytest.raises(ValueError, match="is not YAML"):
        deploy.load(tmp_path / "broken.yaml")
    (tmp_path / "empty.yaml").write_text("http_options: {}")
    with pytest.raises(ValueError, match="has no `applications`"):
        deploy.load(tmp_path / "empty.yaml")
