"""Where things are. `Strict` is the base of every setting; `Settings` is what the environment says."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Self

import yaml
from pydantic import BaseModel, ConfigDict, ValidationError, field_validator

from cluster import network


class Strict(BaseModel):
    """Frozen settings in which an unknown key is an error, so that a typo never passes for a default."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    @classmethod
    def load(cls, path: Path) -> Self:
        """Read one YAML file. Raises `ValueError` with one sentence that names the file and the key."""
        try:
            text = path.read_text()
        except OSError as error:
            raise ValueError(f"{path} cannot be read ({error.strerror}); give the path of a YAML file") from None
        try:
            return cls.model_validate(yaml.safe_load(text) or {})
        except yaml.YAMLError as error:
            raise ValueError(f"{path} is not YAML: {str(error).splitlines()[0]}") from None
        except ValidationError as error:
            raise ValueError(f"{path}: {explain(error)}") from None


def explain(error: ValidationError) -> str:
    """The first complaint of a validation, as one sentence: where, and what is wrong there."""
    first = error.errors()[0]
    where = ".".join(str(part) for part in first["loc"]) or "the document"
    return f"{where}: {first['msg']}"


class Settings(Strict):
    """What the environment says. Every process of the cluster sees the same values (`runtime.environment`)."""

    state: Path
    """Where everything that must last lives (`TRIVIUM_STATE`, absolute; a shared path serves a cluster)."""
    http_port: int = 8000
    """The public port (`TRIVIUM_HTTP_PORT`): HAProxy, then the gateway."""
    dashboard_port: int = 8265
    """Ray's dashboard and job server (`TRIVIUM_DASHBOARD_PORT`)."""
    gcs_port: int = 6379
    """Ray's head (`TRIVIUM_GCS_PORT`)."""
    node_ip: str = network.LOOPBACK
    """Address by which other machines reach this one (`TRIVIUM_NODE_IP`; or the network that joins them, 10.0.0.0/24,
    in which each machine finds its own). On loopback Ray listens nowhere else."""
    log: Path | None = None
    """A folder on each node's own disk for the log's segments (`TRIVIUM_LOG`); left out: under state, as the rest of
    the log. An fsync there is quicker than one on a shared path, but what it holds comes and goes with the node."""
    mlflow_uri: str | None = None
    """An MLflow server to use instead of the SQLite file under state (`TRIVIUM_MLFLOW_URI`)."""

    @field_validator("node_ip")
    @classmethod
    def _own(cls, given: str) -> str:
        return network.address(given)

    @property
    def alone(self) -> bool:
        """Whether no other machine can join."""
        return self.node_ip == network.LOOPBACK

    @classmethod
    def from_environment(cls) -> Self:
        """Read `TRIVIUM_*`. Raises `ValueError` that names a variable which does not fit."""
        variables = {name: f"TRIVIUM_{name.upper()}" for name in cls.model_fields}
        given = {name: os.environ[variable] for name, variable in variables.items() if variable in os.environ}
        given["state"] = given.get("state", ".trivium")
        given |= {name: str(Path(given[name]).absolute()) for name in ("state", "log") if name in given}
        try:
            return cls.model_validate(given)
        except ValidationError as error:
            raise ValueError(f"environment variable TRIVIUM_{explain(error)}") from None

    @property
    def base_url(self) -> str:
        """What an OpenAI client on this machine takes as `base_url`."""
        return f"http://127.0.0.1:{self.http_port}/v1"

    @property
    def dashboard_url(self) -> str:
        return f"http://127.0.0.1:{self.dashboard_port}"

    @property
    def tracking_uri(self) -> str:
        return self.mlflow_uri or f"sqlite:///{self.state}/registry/mlflow.db"
