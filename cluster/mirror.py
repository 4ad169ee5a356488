"""MLflow as a mirror: runs with their metrics, versions with their lineage, aliases; for people to look at.

Nothing that serves or decides reads it, so every call here is best effort: while MLflow is away it logs a warning and
gives up after seconds. Aliases and versions are compared each time, so the next mirroring repairs what was missed.
"""

from __future__ import annotations

import fcntl
import logging
import math
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, TypeVar

from cluster import durable
from cluster.decisions import fold
from cluster.records import Decision, Version
from cluster.settings import Settings

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities.model_registry import ModelVersion

logger = logging.getLogger(__name__)

T = TypeVar("T")


class Mirror:
    """The MLflow of one state folder: SQLite under it, or the server that `TRIVIUM_MLFLOW_URI` names."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._client: MlflowClient | None = None

    def show_version(self, version: Version, run_id: str | None) -> bool:
        """Register a version, its lineage as tags. False if MLflow is away."""

        def bring(client: MlflowClient) -> bool:
            if version.id not in _shown(client, version.name):
                _register(client, version, run_id)
            return True

        return self._try(version.id, bring) is not None

    def show_decisions(self, decisions: Sequence[Decision], versions: Callable[[str], list[Version]]) -> bool:
        """Bring versions, verdicts and the aliases `champion` and `candidate` up to the decision log."""

        def bring(client: MlflowClient) -> bool:
            verdicts = {decision.version: decision for decision in decisions if decision.verdict is not None}
            for alias in fold(decisions).aliases.values():
                shown = _shown(client, alias.name)
                for version in versions(alias.name):
                    if version.id not in shown:
                        shown[version.id] = _register(client, version, None)
                    _tag(client, shown[version.id], _verdict_tags(verdicts.get(version.id)))
                wanted = {"champion": alias.champion, "candidate": alias.staged}
                _point(client, alias.name, {name: shown.get(version or "") for name, version in wanted.items()})
            return True

        return self._try("the newest decisions", bring) is not None

    def show_run(
        self, version: str, parameters: Mapping[str, Any], history: Sequence[Mapping[str, float]]
    ) -> str | None:
        """One training as a run: its parameters and, by `step`, its metrics. Returns the run's id."""
        return self._try(f"the run of {version}", lambda client: self._log_run(client, version, parameters, history))

    def _try(self, what: str, act: Callable[[MlflowClient], T]) -> T | None:
        try:
            with self._connection() as client:
                return act(client)
        except Exception as error:  # whatever a database or a server can throw: the mirror is not worth an outage
            logger.warning("MLflow does not show %s: %s", what, error)
            return None

    @contextmanager
    def _connection(self) -> Iterator[MlflowClient]:
        """The client, for one process at a time: a first connection makes the tables, and two would clash."""
        # MLflow's own patience with a server that is away is minutes.
        os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "1")
        os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "10")
        folder = self._settings.state / "registry"
        durable.make_folder(folder)
        with open(folder / ".mirror.lock", "w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if self._client is None:
                from mlflow import MlflowClient

                self._client = MlflowClient(self._settings.tracking_uri, registry_uri=self._settings.tracking_uri)
            yield self._client

    def _log_run(
        self,
        client: MlflowClient,
        version: str,
        parameters: Mapping[str, Any],
        history: Sequence[Mapping[str, float]],
    ) -> str:
        from mlflow.entities import Metric, Param

        name = version.partition("@")[0]
        found = client.get_experiment_by_name(name)
        # Without a place of its own SQLite's experiments would put artifacts into `mlruns` wherever a process stands.
        place = None if self._settings.mlflow_uri else (self._settings.state / "registry" / "artifacts").as_uri()
        experiment = found.experiment_id if found else client.create_experiment(name, place)
        run = client.create_run(experiment, run_name=version, tags={"trivium.version": version}).info.run_id
        now = int(time.time() * 1000)
        client.log_batch(run, params=[Param(key, str(value)) for key, value in parameters.items()])
        metrics = [
            Metric(key, value, now, int(entry.get("step", at)))
            for at, entry in enumerate(history)
            for key, value in entry.items()
            if key != "step" and math.isfinite(value)
        ]
        for first in range(0, len(metrics), 1000):  # MLflow's limit for one batch
            client.log_batch(run, metrics=metrics[first : first + 1000])
        client.set_terminated(run)
        return run


def _shown(client: MlflowClient, name: str) -> dict[str, ModelVersion]:
    """MLflow's entry for each of our ids: it counts its versions by itself, so our id is a tag."""
    entries = client.search_model_versions(f"name='{name}'")
    return {entry.tags["trivium.version"]: entry for entry in entries if "trivium.version" in entry.tags}


def _register(client: MlflowClient, version: Version, run_id: str | None) -> ModelVersion:
    if not client.search_registered_models(f"name='{version.name}'"):
        client.create_registered_model(version.name)
    tags = {f"trivium.{key}": value for key, value in _tags(version).items()}
    # An MLflow server refuses local paths as a source (they would be paths on its own disk), so ours is an id.
    return client.create_model_version(version.name, f"trivium:/{version.id}", run_id=run_id, tags=tags)


def _point(client: MlflowClient, name: str, wanted: Mapping[str, ModelVersion | None]) -> None:
    present = client.get_registered_model(name).aliases if any(wanted.values()) else {}
    for alias, entry in wanted.items():
        if entry is None and alias in present:
            client.delete_registered_model_alias(name, alias)
        elif entry is not None and str(present.get(alias)) != str(entry.version):
            client.set_registered_model_alias(name, alias, str(entry.version))


def _tag(client: MlflowClient, entry: ModelVersion, tags: Mapping[str, str]) -> None:
    for key, value in tags.items():
        if entry.tags.get(key) != value:
            client.set_model_version_tag(entry.name, str(entry.version), key, value)


def _verdict_tags(decision: Decision | None) -> dict[str, str]:
    if decision is None or decision.verdict is None:
        return {}
    verdict = decision.verdict
    return {
        "trivium.verdict": "accepted" if verdict.accepted else "rejected",
        "trivium.verdict.gain": f"{verdict.gain:.4f}",
        "trivium.verdict.gain_low": f"{verdict.gain_low:.4f}",
        "trivium.verdict.rows": str(verdict.rows),
        "trivium.decision": str(decision.sequence),
    }


def _tags(version: Version) -> dict[str, str]:
    """A version as MLflow's flat tags: its own fields and its lineage's, without the metrics, which the run has."""
    lineage = version.lineage.model_dump(exclude={"metrics"}) if version.lineage else {}
    own = {"version": version.id, "base": version.base, "form": version.form, "rank": version.rank}
    return {key: str(value) for key, value in {**own, "parent": version.parent, **lineage}.items() if value is not None}
