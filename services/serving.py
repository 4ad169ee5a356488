"""Serving: vLLM on Ray Serve behind HAProxy, with the gateway's chain inside of every replica.

`build` is what `services/serve.yaml` names, once for each base. No router and no ingress of its own stands between
HAProxy and the engine: `serve.ingress()` makes the engine's own ASGI app, in the gateway's chain, the application.
Measured against bare vLLM at 16 clients this keeps 0.85 of the throughput; Ray Serve LLM's default ingress keeps 0.23.
"""

from __future__ import annotations

import asyncio
import logging
import os
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, ValidationError
from ray import serve
from ray.llm._internal.common.callbacks.base import CallbackConfig
from ray.llm._internal.serve.core.configs.accelerators import CPUConfig, GPUConfig
from ray.serve import Application
from ray.serve.llm import LLMConfig, LLMServer, build_llm_deployment
from starlette.types import ASGIApp

from cluster import auth, models
from cluster.auth import Keys
from cluster.decisions import Alias
from cluster.log import Log, LogSettings
from cluster.settings import Settings, Strict, explain
from services.gateway.adapters import Adapters
from services.gateway.chain import Parts, chain, prove_closed
from services.gateway.desired import Desired
from services.gateway.edge import CALLBACK
from services.gateway.forward import HttpForwarder
from services.gateway.keeper import Keeper
from services.gateway.versions import Shelf
from services.gateway.warm import warm_up

logger = logging.getLogger("ray.serve")

NEEDED = ("TRIVIUM_STATE", "RAY_SERVE_ENABLE_HA_PROXY", CALLBACK[0])
"""Without these variables the cluster would serve, but not through our chain: nothing is served instead."""


class ServingSettings(Strict):
    """`args` of one application in services/serve.yaml."""

    model: str
    """`seed`, a folder, or a Hugging Face id."""
    name: str = ""
    """The base's id for clients and in records; default: `seed`, the Hugging Face id, or the folder's last part. A
    full-weight version is served under its own id, `assistant@5`."""
    alias: str | None = None
    """An alias that means this base until the decision log says otherwise."""
    route: str = "/"
    """The application's `route_prefix`: gateways of other bases forward to it."""
    replicas: int = Field(1, ge=1)
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
    most_ongoing: int = 1024
    """Requests that one replica takes at once; beyond it callers get 429."""
    engine: dict[str, Any] = {}
    """More of vLLM's engine arguments, as they are."""


ENGINE_START_S = 3600
"""Longest that an engine may take to start: a large model is downloaded first."""


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
    settings = settings.model_copy(update={"name": settings.name or base_id(settings.model, source)})
    config = llm_config(settings, str(source), gpu=_on_gpu(settings))
    return build_llm_deployment(
        config,
        deployment_cls=serve.ingress()(Gateway),
        name_prefix="Gateway:",
        # Without the number of replicas: Serve replaces replicas whose arguments change, even where it should add one.
        bind_kwargs={"settings": settings.model_dump(exclude={"replicas"}), "source": str(source)},
    )


def base_id(model: str, source: Path | str) -> str:
    """A base's id: `seed`, a Hugging Face id as it is, a folder's last part."""
    if source == models.seed_folder():
        return "seed"
    return source.name if isinstance(source, Path) else model


def llm_config(settings: ServingSettings, source: str, gpu: bool) -> LLMConfig:
    """Our settings in the words of Ray Serve LLM and vLLM."""
    engine: dict[str, Any] = {
        "enable_auto_tool_choice": True,
        "tool_call_parser": settings.tool_parser,
        "tool_strict_level": settings.tool_strictness,
        "enable_prefix_caching": True,
        "scheduling_policy": "priority",  # evaluation waits behind live traffic
        "disable_fastapi_docs": True,
    }
    if settings.max_model_len:
        engine["max_model_len"] = settings.max_model_len
    if settings.max_loras:
        engine |= {"enable_lora": True, "max_loras": settings.max_loras, "max_lora_rank": settings.max_lora_rank}
        engine["max_cpu_loras"] = max(settings.most_adapters, settings.max_loras)
    environment = {}
    if not gpu:
        engine["enforce_eager"] = True
        environment = {
            "VLLM_CPU_KVCACHE_SPACE": str(settings.kv_cache_gib),
            # vLLM would pin its threads to cores, the same ones in every replica. The operating system does better.
            "VLLM_CPU_OMP_THREADS_BIND": "nobind",
            "OMP_NUM_THREADS": str(settings.threads or max(1, (os.cpu_count() or 1) - 1)),
        }
    return LLMConfig(
        model_loading_config={"model_id": settings.name, "model_source": source},
        accelerator_config=GPUConfig() if gpu else CPUConfig(),
        engine_kwargs=engine | settings.engine,
        runtime_env={"env_vars": environment},
        callback_config=CallbackConfig(callback_class="services.engine.NoDownload"),
        deployment_config={
            "num_replicas": settings.replicas,
            "health_check_period_s": 1,
            "health_check_timeout_s": 30,
            "graceful_shutdown_timeout_s": settings.longest_stream_s,
            "graceful_shutdown_wait_loop_s": 0.5,
        },
    )


def _on_gpu(settings: ServingSettings) -> bool:
    if settings.accelerator != "auto":
        return settings.accelerator == "gpu"
    import ray

    return ray.cluster_resources().get("GPU", 0) > 0


class Gateway(LLMServer):
    """vLLM's server whose app stands behind the gateway's chain; and nothing else of it answers requests."""

    async def __init__(  # type: ignore[misc]  # Serve awaits it
        self, llm_config: LLMConfig, *, settings: dict[str, Any], source: str, **kwargs: Any
    ) -> None:
        self._settings = ServingSettings.model_validate(settings)
        self._source = source
        self._proven = False
        self._tasks: list[asyncio.Task[None]] = []
        from services.engine import OneProcessEngine, use_tight_json

        use_tight_json(self._settings.tool_parser)
        if isinstance(llm_config.accelerator_config, CPUConfig):
            kwargs.setdefault("engine_cls", OneProcessEngine)
        await super().__init__(llm_config, **kwargs)

    async def start(self) -> None:
        """As the base class does, without its telemetry: that is one more process, and nobody asked for it."""
        self.engine = self._engine_cls(self._llm_config)
        await asyncio.wait_for(self.engine.start(), ENGINE_START_S)

    async def __serve_build_asgi_app__(self) -> ASGIApp:
        from services.engine import VllmAdapters

        engine = await super().__serve_build_asgi_app__()
        here, settings = Settings.from_environment(), self._settings
        default = Alias(settings.alias, settings.name, f"{settings.alias}@0") if settings.alias else None
        self._desired = Desired(here.state, default)
        self._shelf = shelf = Shelf(here.state / "models")
        self._adapters = Adapters(
            VllmAdapters(engine, shelf, self._source, settings.max_lora_rank), settings.most_adapters
        )
        self._replica = serve.get_replica_context().replica_tag
        self._writer = Log(here.state / "log", LogSettings()).writer(f"gateway-{self._replica}")
        self._keeper = Keeper(self._writer)
        mint_key = auth.mint_key(here.state)
        app = chain(
            engine,
            Parts(
                served=settings.name,
                keys=Keys(here.state),
                mint_key=mint_key,
                desired=self._desired,
                shelf=shelf,
                adapters=self._adapters,
                forward=HttpForwarder(here.base_url.removesuffix("/v1"), mint_key),
                keeper=self._keeper,
                most_bytes=settings.most_body_bytes,
                most_choices=settings.most_choices,
                most_ongoing=settings.most_ongoing,
            ),
        )
        await warm_up(engine, settings.name)
        await self.reconcile(-1)  # last, so that a replica that becomes ready knows the newest decision
        self._desired.publish(settings.name, settings.route)
        follow = self._desired.follow(lambda: self.reconcile(-1), settings.poll_s)
        self._tasks = [asyncio.create_task(follow), asyncio.create_task(self._end_with(engine.state.engine_client))]
        return app

    async def reconcile(self, sequence: int) -> dict[str, Any]:
        """Follow the decision log up to `sequence` at least, if it is there, and say what this replica holds."""
        await asyncio.to_thread(self._desired.refresh)
        rollout, base = self._desired.rollout, self._settings.name
        if self._settings.max_loras:
            wanted = [v for v in rollout.wanted(base) if not v.endswith("@0") and not self._shelf.is_full(v)]
            await self._adapters.want(wanted)
        weights = [f"{alias.name}@0" for alias in rollout.aliases.values() if alias.base == base]
        return {
            "replica": self._replica,
            "base": base,
            "sequence": rollout.sequence,
            "versions": sorted({*weights, *self._adapters.versions}),
            "errors": self._adapters.errors,
        }

    async def check_health(self) -> None:
        """Serve asks once before the replica is ready, then every second."""
        await super().check_health()
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
        if writer := getattr(self, "_writer", None):
            await self._keeper.settle()
            await asyncio.to_thread(writer.close)
        await super().__del__()

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


async def _closed(self: Gateway, *args: Any, **kwargs: Any) -> Any:
    raise RuntimeError("refusing to serve: requests come in through the gateway's HTTP only, where they are recorded")


# Ray Serve LLM's own ingress would call these by handle, past authentication and record.
for _name in ("chat", "completions", "embeddings", "transcriptions", "score", "tokenize", "detokenize"):
    setattr(Gateway, _name, _closed)
