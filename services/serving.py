"""Serving: vLLM on Ray Serve behind HAProxy, with the gateway's chain inside of every replica.

`build` is what `services/serve.yaml` names, once for each base. No router and no ingress of its own stands between
HAProxy and the engine: `serve.ingress()` makes the engine's own ASGI app, in the gateway's chain, the application.
Measured against bare vLLM at 16 clients this keeps 0.85 of the throughput; Ray Serve LLM's default ingress keeps 0.23.

Ray Serve LLM's own server is a part of a replica (`services/engine.py`), not its base class: importing it imports vLLM,
and whoever builds the application would pay for that, 14 s at each start.
"""

from __future__ import annotations

import asyncio
import logging
import os
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, ValidationError
from ray import serve
from ray.serve import Application
from starlette.types import ASGIApp

from cluster import auth, models, pressure, telemetry
from cluster.auth import Keys
from cluster.decisions import Alias
from cluster.hosting import deployment_name
from cluster.log import Log
from cluster.settings import Settings, Strict, explain
from services import prefork
from services.gateway.adapters import Adapters
from services.gateway.bounds import Bounds
from services.gateway.chain import Parts, chain, prove_closed
from services.gateway.desired import Desired
from services.gateway.edge import CALLBACK
from services.gateway.forward import HttpForwarder
from services.gateway.keeper import Keeper
from services.gateway.limits import Meter
from services.gateway.load import beat
from services.gateway.versions import Shelf
from services.gateway.warm import warm_up
from services.limiter import RayBook

logger = logging.getLogger("ray.serve")

NEEDED = ("TRIVIUM_STATE", "RAY_SERVE_ENABLE_HA_PROXY", CALLBACK[0])
"""Without these variables the cluster would serve, but not through our chain: nothing is served instead."""
LATE_S = 15
"""A replica that leaves takes late requests for 10 s (`RAY_SERVE_DIRECT_INGRESS_MIN_DRAINING_PERIOD_S`), and then
finishes them too."""


class ServingSettings(Strict):
    """`args` of one application in services/serve.yaml."""

    model: str
    """`seed`, a folder, or a Hugging Face id."""
    name: str = ""
    """The base's id for clients and in records; default: `seed`, the Hugging Face id, or the folder's last part. A
    full-weight version is served under its own id, `assistant@5` (`cluster/hosting.py`)."""
    alias: str | None = None
    """An alias that means this base until the decision log says otherwise."""
    route: str = "/"
    """The application's `route_prefix`: gateways of other bases forward to it."""
    replicas: int = Field(1, ge=1)
    """How many, unless the config's `deployments` say it or let Serve scale them."""
    accelerator: Literal["auto", "cpu", "gpu"] = "auto"
    """`auto`: GPU where the cluster has one."""
    threads: int = Field(0, ge=0)
    """Threads of the CPU engine; 0: one less than this machine's cores, because the gateway, HAProxy and vLLM's
    scheduler need one too."""
    kv_cache_gib: int = Field(1, ge=1)
    """Key-value cache of the CPU engine."""
    tool_parser: str = "hermes"
    """vLLM's parser for the model's tool calls (`hermes`: the seed model, Qwen; `llama3_json`, `mistral`, ...)."""
    tool_strictness: Literal["auto", "function", "parameter"] = "auto"
    """What vLLM enforces of tool calls beyond what a request asks for with `tool_choice` and `strict`: the form and the
    names (`function`), the arguments too (`parameter`)."""
    max_model_len: int | None = None
    """Longest prompt and answer together, tokens; default: the model's."""
    max_loras: int = Field(4, ge=0)
    """Adapters that one batch may mix; 0: none. Champion, former champion and candidate are three."""
    max_lora_rank: int = 32
    most_adapters: int = Field(8, ge=1)
    """Adapters held at once; beyond it, the least recently used that no alias needs goes."""
    longest_stream_s: float = 600
    """A replica that leaves finishes its streams for so long."""
    poll_s: float = Field(0.25, gt=0, le=0.5)
    """How often a replica looks for new decisions by itself, beside being told."""
    most_body_bytes: int = 4 * 2**20
    most_choices: int = 8
    """Largest `n`."""
    most_tokens: int | None = Field(None, ge=1)
    """Longest answer, tokens, reasoning included; default: what is left of the model's length."""
    most_grammar_bytes: int = 64 * 1024
    """Largest schema of an answer or a tool, and largest expression."""
    most_grammar_steps: int = 2000
    """What patterns and bounds of a request's schemas may unroll to: about 1 ms of compilation each for a vocabulary of
    2,048 tokens on two cores, some tens for one of 150,000 (services/gateway/grammars.py has the figures)."""
    caller_grammars: bool = False
    """Whether callers may send `grammar` and `structural_tag`. The engine runs them between two tokens of everybody,
    and some take 100 ms for each token: only where all callers mean well."""
    most_ongoing: int = 1024
    """Requests that one replica takes at once; beyond it callers get 503 at once."""
    shared_prefix_cache: bool = False
    """Whether principals share prefix-cache entries. It saves work where their prompts begin alike, and lets one tell
    by the time to the first token what another has asked."""
    engine: dict[str, Any] = {}
    """More of vLLM's engine arguments, as they are."""


def build(args: dict[str, Any]) -> Application:
    """The application of one base. Raises `ValueError` with the fix in it."""
    missing = [name for name in NEEDED if not os.environ.get(name)]
    if missing:
        raise ValueError(
            f"the cluster runs without {', '.join(missing)} in its environment; start it with `trivium up`"
        )
    try:
        settings = ServingSettings.model_validate(args)
    except ValidationError as error:
        raise ValueError(f"args of services.serving:build: {explain(error)}") from None
    if "trust_remote_code" in settings.engine:
        raise ValueError("`trust_remote_code` runs code of whoever made the model; convert the model instead")
    source = models.resolve(settings.model)
    if isinstance(source, Path):
        models.check_model(source)
    settings = settings.model_copy(update={"name": settings.name or models.base_id(settings.model, source)})
    gpu = _on_gpu(settings)
    deployment: Any = serve.deployment(
        serve.ingress()(Gateway),
        name=deployment_name(settings.name),
        num_replicas=settings.replicas,
        max_ongoing_requests=10**9,  # the chain bounds them, with an answer that says so
        health_check_period_s=1,
        health_check_timeout_s=10,  # three in a row that are not answered, and Serve ends the replica
        graceful_shutdown_timeout_s=settings.longest_stream_s + LATE_S,
        graceful_shutdown_wait_loop_s=0.5,
        **_place(settings, str(source), gpu),
    )
    # Without the number of replicas: Serve replaces replicas whose arguments change, even where it should add one.
    return deployment.bind(settings.model_dump(exclude={"replicas"}), str(source), gpu)


def _on_gpu(settings: ServingSettings) -> bool:
    if settings.accelerator != "auto":
        return settings.accelerator == "gpu"
    import ray

    return ray.cluster_resources().get("GPU", 0) > 0


def _place(settings: ServingSettings, source: str, gpu: bool) -> dict[str, Any]:
    """The resources and the environment of a replica and its engine, as Serve's deployment options."""
    if gpu:
        from services import engine

        return engine.placement(settings, source)
    # Ray Serve LLM would ask for one more, for a worker process that we do not have; asking it imports vLLM.
    devices = settings.engine.get("tensor_parallel_size", 1) * settings.engine.get("pipeline_parallel_size", 1)
    return {
        # An update starts a new replica before it ends an old one. Of GPUs there are seldom enough for that.
        "max_surge_percent": 25,
        "placement_group_bundles": [{"CPU": 1 if devices == 1 else 2}, *({"CPU": 1} for _ in range(devices - 1))],
        "placement_group_strategy": "PACK",
        "ray_actor_options": {"num_cpus": 1, "runtime_env": {"env_vars": cpu_environment(settings)}},
    }


def cpu_environment(settings: ServingSettings) -> dict[str, str]:
    """What vLLM reads of a CPU engine's settings."""
    return {
        "VLLM_CPU_KVCACHE_SPACE": str(settings.kv_cache_gib),
        # vLLM would pin its threads to cores, the same ones in every replica. The operating system does better.
        "VLLM_CPU_OMP_THREADS_BIND": "nobind",
        "OMP_NUM_THREADS": str(settings.threads or max(1, (os.cpu_count() or 1) - 1)),
    }


class Gateway:
    """A replica: vLLM's app behind the gateway's chain. Nothing else of it can be called."""

    async def __init__(  # type: ignore[misc]  # Serve awaits it
        self, settings: dict[str, Any], source: str, gpu: bool
    ) -> None:
        self._engine = self._import_engine(gpu)
        self._settings = ServingSettings.model_validate(settings)
        self._source = source
        self._proven = False
        self._tasks: list[asyncio.Task[None]] = []
        self._server = self._engine.server(self._settings, source, gpu)
        await self._server.start()

    @staticmethod
    def _import_engine(gpu: bool) -> Any:
        """`services.engine`. Benchmarks and tests put something else in its place, which need not import vLLM."""
        import services.early  # noqa: F401  # before vLLM

        if not gpu:
            prefork.begin()
        from services import engine

        return engine

    async def __serve_build_asgi_app__(self) -> ASGIApp:
        engine = await self._server.__serve_build_asgi_app__()
        here, settings = Settings.from_environment(), self._settings
        default = Alias(settings.alias, settings.name, f"{settings.alias}@0") if settings.alias else None
        self._desired = Desired(here.state, default)
        self._shelf = shelf = Shelf(here.state / "models")
        self._adapters = Adapters(
            self._engine.VllmAdapters(engine, shelf, self._source, settings.max_lora_rank), settings.most_adapters
        )
        self._replica = serve.get_replica_context().replica_tag
        self._writer = Log.here(here).writer(f"gateway-{self._replica}")
        self._keeper = Keeper(self._writer)
        mint_key = auth.mint_key(here.state)
        self._forward = HttpForwarder(here.base_url.removesuffix("/v1"), mint_key)
        self._meter = Meter(self._replica, RayBook())
        self._gauge = pressure.Gauge(pressure.path(here))
        app = chain(
            engine,
            Parts(
                served=settings.name,
                keys=Keys(here.state),
                mint_key=mint_key,
                desired=self._desired,
                shelf=shelf,
                adapters=self._adapters,
                forward=self._forward,
                keeper=self._keeper,
                meter=self._meter,
                bounds=Bounds(
                    choices=settings.most_choices,
                    tokens=settings.most_tokens,
                    grammar_bytes=settings.most_grammar_bytes,
                    grammar_steps=settings.most_grammar_steps,
                    caller_grammars=settings.caller_grammars,
                ),
                gauge=self._gauge,
                most_bytes=settings.most_body_bytes,
                most_ongoing=settings.most_ongoing,
                shared_prefix_cache=settings.shared_prefix_cache,
            ),
        )
        await warm_up(engine, settings.name)
        await self.reconcile(-1)  # last, so that a replica that becomes ready knows the newest decision
        self._publish()
        follow = self._desired.follow(lambda: self.reconcile(-1), settings.poll_s)
        running = (follow, self._meter.beat(), beat(self._gauge), self._end_with(engine.state.engine_client))
        self._tasks = [asyncio.create_task(each) for each in running]
        return app

    async def reconcile(self, sequence: int) -> dict[str, Any]:
        """Follow the decision log up to `sequence` at least, if it is there, and say what this replica holds."""
        await asyncio.to_thread(self._desired.refresh)
        rollout, base = self._desired.rollout, self._settings.name
        if self._settings.max_loras:
            wanted = [v for v in rollout.wanted(base) if not v.endswith("@0") and not self._shelf.is_full(v)]
            await self._adapters.want(wanted)
        if base in rollout.wanted() and base not in self._desired.routes:
            self._publish()  # nothing needed it for a moment, and its route was withdrawn
        telemetry.adapters(len(self._adapters.versions))
        weights = [f"{alias.name}@0" for alias in rollout.aliases.values() if alias.base == base]
        return {
            "replica": self._replica,
            "base": base,
            "sequence": rollout.sequence,
            "versions": sorted({*weights, *self._adapters.versions}),
            "errors": self._adapters.errors,
            "unreached": await self._unreached(),
        }

    def _publish(self) -> None:
        self._desired.publish(self._settings.name, self._settings.route)

    async def _unreached(self) -> list[str]:
        """Full-weight versions that this replica would have to forward to, and cannot yet."""
        wanted = sorted({*self._desired.rollout.wanted()} - {self._settings.name})
        full = [version for version in wanted if self._shelf.is_full(version)]
        reached = await asyncio.gather(*(self._forward.reaches(self._desired.routes.get(v)) for v in full))
        return [version for version, there in zip(full, reached, strict=True) if not there]

    async def check_health(self) -> None:
        """Serve asks once before the replica is ready, then every second."""
        await self._server.check_health()
        if not self._proven:
            app = getattr(self, "app", None)  # what `serve.ingress` serves; none if somebody built us in another way
            if app is None:
                raise RuntimeError(
                    "refusing to serve: the gateway is not the ingress; build it with services.serving:build"
                )
            await prove_closed(app)
            self._proven = True

    async def __del__(self) -> None:
        """Serve awaits it when the replica has finished its requests."""
        for task in getattr(self, "_tasks", ()):
            task.cancel()
        if gauge := getattr(self, "_gauge", None):
            gauge.close()
        if writer := getattr(self, "_writer", None):
            await self._keeper.settle()
            await asyncio.to_thread(writer.close)
            await asyncio.to_thread(telemetry.flush)
        if server := getattr(self, "_server", None):
            await server.shutdown()

    async def _end_with(self, engine_client: Any) -> None:
        """End the replica as soon as its engine is dead.

        Serve then starts another one at once, and HAProxy lets callers wait for it. A replica that lives on answers 500
        until three health checks have failed: 10 s to 25 s of errors instead.
        """
        while not engine_client.errored:
            await asyncio.sleep(0.05)
        logger.error("the engine is dead; ending the replica, so that Serve starts another")
        await asyncio.sleep(0.05)  # answers under way get their error, and their record
        await asyncio.to_thread(self._writer.close)
        os._exit(1)
