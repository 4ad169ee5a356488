"""What every process of the cluster, and every client of it, must have in its environment."""

from __future__ import annotations

import hashlib
import os
import secrets
import stat
import tempfile
from pathlib import Path

from cluster import balancer, durable, network, ports
from cluster.auth import first_key
from cluster.settings import Settings

CHOICES = {
    # Of Ray 2.60's switches and others', those that a user may set otherwise.
    "RAY_SERVE_HAPROXY_NBTHREAD": "1",
    "RAY_SERVE_HAPROXY_HARD_STOP_AFTER_S": "3600",  # a reload cuts streams that are older
    "RAY_SERVE_PROXY_READY_CHECK_TIMEOUT_S": "60",  # after 5 s Serve kills a proxy that starts slowly
    "RAY_SERVE_SLOW_STARTUP_WARNING_S": "10",  # Serve says where replicas find no room; after 30 s by default
    "RAY_SERVE_PROXY_HEALTH_CHECK_PERIOD_S": "0.1",  # at each look: a dead HAProxy is back in 8 s instead of 28 s
    # A request whose replica died before a word of answer goes to another one, not only where nothing was sent yet.
    "RAY_SERVE_HAPROXY_RETRY_ON": "conn-failure empty-response",
    "RAY_SERVE_HAPROXY_HEALTH_CHECK_INTER": "2s",  # HAProxy passes over a replica that hangs after 5 s instead of 15 s
    # A replica that hangs cannot finish its requests: without this they would wait for as long as the longest stream.
    "RAY_SERVE_FORCE_STOP_UNHEALTHY_REPLICAS": "1",
    "RAY_SERVE_DIRECT_INGRESS_MIN_DRAINING_PERIOD_S": "10",  # a replica that leaves is still there for late requests
    "RAY_gcs_rpc_server_reconnect_timeout_s": "3600",  # Ray's processes end when their GCS is away for longer (60)
    # A machine that is cut off counts as lost after five looks at it: 30 s instead of 65 s; what ran there starts anew.
    "RAY_health_check_timeout_ms": "3000",
    "RAY_worker_niceness": "0",  # 15 by default: engines would give way to everything (`cluster/priority.py`)
    # Serve's controller looks over everything so often; at its 0.1 s it takes 4 % of a core while nothing happens.
    "RAY_SERVE_CONTROL_LOOP_INTERVAL_S": "0.5",
    "RAY_USAGE_STATS_ENABLED": "0",
    "VLLM_CPU_KVCACHE_SPACE": "1",  # GiB
    "VLLM_NO_USAGE_STATS": "1",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "TOKENIZERS_PARALLELISM": "false",
}

TELEMETRY = ("OTEL_EXPORTER_OTLP_", "OTEL_RESOURCE_ATTRIBUTES", "OTEL_SERVICE_NAME", "OTEL_TRACES_", "OTEL_BSP_")
"""How the variables begin that say where spans go (`cluster/spans.py`)."""


def environment(settings: Settings) -> dict[str, str]:
    """What the cluster's processes and its clients share. Makes the Ray token if there is none yet.

    `os.environ.update(environment(settings))` before Ray is imported: Ray reads most of these when it is imported.
    """
    port, haproxy = ports.fixed(settings), folder(settings) / "h"
    return {
        **{name: os.environ.get(name, value) for name, value in CHOICES.items()},
        **({} if has_gpu() else {"DS_ACCELERATOR": "cpu"}),
        **{name: value for name, value in os.environ.items() if name.startswith(TELEMETRY)},
        **{f"TRIVIUM_{name.upper()}": str(value) for name, value in settings.model_dump().items() if value is not None},
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN_PATH": str(token_path(settings)),
        **_connections(settings),
        # 0 makes Ray bind GCS, raylet, agents and workers to loopback; the name is from where it is the default.
        "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0" if settings.alone else "1",
        "AUTOSCALER_METRIC_PORT": str(port["autoscaler-metrics"]),
        "DASHBOARD_METRIC_PORT": str(port["dashboard-metrics"]),
        "RAY_SERVE_ENABLE_HA_PROXY": "1",
        "RAY_SERVE_THROUGHPUT_OPTIMIZED": "1",
        # Wraps every replica's HTTP server; the gateway refuses requests that did not come through it.
        "RAY_SERVE_HTTP_PROXY_CALLBACK_IMPORT_PATH": "services.gateway.edge:middlewares",
        **balancer.variables(),
        "RAY_SERVE_HAPROXY_STATS_PORT": str(port["haproxy-statistics"]),
        "RAY_SERVE_HAPROXY_METRICS_PORT": str(port["haproxy-metrics"]),
        "RAY_SERVE_FALLBACK_PROXY_HTTP_PORT": str(port["serve-fallback"]),
        "RAY_SERVE_DIRECT_INGRESS_MIN_HTTP_PORT": str(ports.replicas(settings).start),
        "RAY_SERVE_DIRECT_INGRESS_MAX_HTTP_PORT": str(ports.replicas(settings).stop),
        # Serve's places for these are the same for all clusters of a machine, and open to its other users.
        "RAY_SERVE_HAPROXY_CONFIG_FILE_LOC": str(haproxy / "haproxy.cfg"),
        "RAY_SERVE_HAPROXY_SOCKET_PATH": str(haproxy / "a"),
        "RAY_SERVE_HAPROXY_METRICS_SOCKET_PATH": str(haproxy / "m"),
        "RAY_SERVE_HAPROXY_SERVER_STATE_BASE": str(haproxy),
        "RAY_SERVE_HAPROXY_SERVER_STATE_FILE": str(haproxy / "server-state"),
    }


def _connections(settings: Settings) -> dict[str, str]:
    """By which way torch and vLLM connect their own processes: on one machine inside of it, else the cluster's network.

    Without it gloo takes the address that the machine's name stands for, often one that others do not reach.
    """
    through = network.interface(settings.node_ip)
    names = ("GLOO_SOCKET_IFNAME", "NCCL_SOCKET_IFNAME") if through else ()
    return {"VLLM_HOST_IP": settings.node_ip, **{name: str(through) for name in names}}


def client_environment(settings: Settings) -> dict[str, str]:
    """What `trivium env` prints: the above, and where things are for Ray's, Serve's, OpenAI's and MLflow's clients."""
    return {
        **environment(settings),
        "RAY_ADDRESS": f"{settings.node_ip}:{settings.gcs_port}",
        "RAY_API_SERVER_ADDRESS": settings.dashboard_url,
        "RAY_DASHBOARD_ADDRESS": settings.dashboard_url,
        "OPENAI_BASE_URL": settings.base_url,
        "OPENAI_API_KEY": first_key(settings.state),
        "MLFLOW_TRACKING_URI": settings.tracking_uri,
    }


def token_path(settings: Settings) -> Path:
    """Where the token is that Ray's processes and clients show each other. The user's own place for it wins."""
    given = os.environ.get("RAY_AUTH_TOKEN_PATH")
    if given and Path(given).is_file():
        return Path(given)
    path = settings.state / "secrets" / "ray_token"
    if not path.exists():
        durable.make_folder(path.parent, 0o700)
        durable.replace(path, secrets.token_hex(32).encode(), 0o600)
    return path


def folder(settings: Settings) -> Path:
    """The folder for sockets and Ray's logs, one for each state, outside it because such paths must be short.

    A Unix socket's path has at most 107 bytes, HAProxy's 97, of which Serve puts 59 behind ours and Ray 70.
    """
    digest = hashlib.sha256(str(settings.state).encode()).hexdigest()[:8]
    name = f"trivium-{os.getuid()}-{digest}"
    parent = tempfile.gettempdir()
    return Path(parent if len(parent) <= 16 else "/tmp") / name


def make_folder(settings: Settings) -> Path:
    """The same, made for this user only. Its name can be guessed, so it must not be somebody else's."""
    path = folder(settings)
    path.mkdir(mode=0o700, exist_ok=True)
    status = path.lstat()
    if not stat.S_ISDIR(status.st_mode) or status.st_uid != os.getuid() or status.st_mode & 0o077:
        raise ValueError(f"{path} is not a folder of this user alone; remove it or set TMPDIR to another place")
    return path


def has_gpu() -> bool:
    """Whether an NVIDIA driver is loaded: without importing torch, which takes seconds."""
    return Path("/proc/driver/nvidia/gpus").exists()
