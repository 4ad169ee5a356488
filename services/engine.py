"""vLLM under Ray Serve LLM: what we ask of it differently, and how adapters get into it.

It imports vLLM, which takes 13 s: for a CPU engine only its replicas do.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel
from ray.llm._internal.common.callbacks.base import CallbackBase, CallbackConfig
from ray.llm._internal.serve.core.configs.accelerators import CPUConfig, GPUConfig
from ray.llm._internal.serve.engines.vllm.vllm_engine import VLLMEngine
from ray.serve.llm import LLMConfig, LLMServer
from vllm.config import StructuredOutputsConfig
from vllm.entrypoints.serve.engine.protocol import ErrorResponse
from vllm.entrypoints.serve.lora.protocol import LoadLoRAAdapterRequest, UnloadLoRAAdapterRequest
from vllm.tool_parsers import ToolParserManager
from vllm.tool_parsers.abstract_tool_parser import ToolParser
from vllm.tool_parsers.tool_strict_level import ToolStrictLevel
from vllm.v1.engine import utils as engine_processes
from xgrammar.structural_tag import JSONSchemaFormat

from cluster import models
from services import prefork
from services.gateway.versions import Shelf

if TYPE_CHECKING:
    from services.serving import ServingSettings

ENGINE_START_S = 3600
"""Longest that an engine may take to start: a large model is downloaded first."""


def llm_config(settings: ServingSettings, source: str, gpu: bool) -> LLMConfig:
    """Our settings in the words of Ray Serve LLM and vLLM."""
    engine: dict[str, Any] = {
        "enable_auto_tool_choice": True,
        "tool_call_parser": settings.tool_parser,
        "tool_strict_level": settings.tool_strictness,
        "enable_prefix_caching": True,
        "scheduling_policy": "priority",  # evaluation waits behind live traffic
        # `auto` would try a caller's schema on other libraries when xgrammar takes it not: one of them unrolls
        # references into an expression in the replica's event loop, and xgrammar compiles it in the end all the same.
        "structured_outputs_config": StructuredOutputsConfig(backend="xgrammar"),
        "disable_fastapi_docs": True,
    }
    if settings.most_tokens:
        engine["override_generation_config"] = {"max_new_tokens": settings.most_tokens}  # for who names no number
    if settings.max_model_len:
        engine["max_model_len"] = settings.max_model_len
    if settings.max_loras:
        engine |= {"enable_lora": True, "max_loras": settings.max_loras, "max_lora_rank": settings.max_lora_rank}
        engine["max_cpu_loras"] = max(settings.most_adapters, settings.max_loras)
    if not gpu:
        engine["enforce_eager"] = True
    return LLMConfig(
        model_loading_config={"model_id": settings.name, "model_source": source},
        accelerator_config=GPUConfig() if gpu else CPUConfig(),
        engine_kwargs=engine | settings.engine,
        callback_config=CallbackConfig(callback_class="services.engine.NoDownload"),
    )


def placement(settings: ServingSettings, source: str) -> dict[str, Any]:
    """What Ray Serve LLM asks of Serve for a replica and its engine on GPUs."""
    options = LLMServer.get_deployment_options(llm_config(settings, source, gpu=True))
    wanted = ("placement_group_bundles", "placement_group_strategy", "ray_actor_options")
    return {name: options[name] for name in wanted if name in options}


def server(settings: ServingSettings, source: str, gpu: bool) -> Server:
    """A replica's server; its `start` starts the engine."""
    hold_arguments(settings.tool_parser)
    config = llm_config(settings, source, gpu)
    made: Any = Server.sync_init(config, engine_cls=VLLMEngine if gpu else OneProcessEngine)
    return made


class Server(LLMServer):
    """Ray Serve LLM's server, which somebody else starts and ends."""

    async def start(self) -> None:
        """As the base class does, without its telemetry: that is one more process, and nobody asked for it."""
        self.engine = self._engine_cls(self._llm_config)
        await asyncio.wait_for(self.engine.start(), ENGINE_START_S)

    async def shutdown(self) -> None:
        if self.engine is not None:
            await self.engine.shutdown()

    def __del__(self) -> None:  # type: ignore[override]
        """Nothing: the base class returns a coroutine, for Serve to await."""


class NoDownload(CallbackBase):
    """Skips Ray's download task: it starts a process that imports vLLM, to find a model that vLLM finds by itself."""

    async def on_before_node_init(self) -> None:
        self.ctx.run_init_node = False


class OneProcessEngine(VLLMEngine):
    """vLLM on CPU with the model in the engine's own process instead of a worker process beside it.

    vLLM keeps them apart on CPU so that it can pin OpenMP's threads; ours are not pinned. One process less saves its
    start (an import of vLLM), 1 GB of memory, and two processes that poll for each other on the same few cores.
    """

    def _prepare_engine_config(self, callback_ctx: Any) -> Any:
        engine, frontend, config = super()._prepare_engine_config(callback_ctx)
        if config.parallel_config.world_size == 1:
            config.parallel_config.distributed_executor_backend = "uni"
            engine_processes.get_mp_context = prefork.Context  # type: ignore[assignment]
        return engine, frontend, config


def hold_arguments(name: str) -> None:
    """Hold the arguments of constrained calls to what their tool takes, and spaces to one where JSON allows any number.

    vLLM fixes which tool a forced call (`tool_choice`) names, and its arguments only where the tool says `strict`, as
    OpenAI does; else any JSON would do. A small model that was tuned on other tools then lost itself in keys and
    strings of its own until its tokens were used up, in 6 of 40 such calls. Now the keys are the tool's parameters, and
    a string is no longer than the tool's `maxLength`.

    Where the grammar forbids what a model is about to write (a quoted `true`, say), spaces are a way out without an
    end: 240 of them after `"on"`, seen with the seed model.
    """
    parser: Any = ToolParserManager.get_tool_parser(name)
    if not getattr(parser, "holds_arguments", False):
        ToolParserManager.register_module(name, module=type(parser.__name__, (HoldsArguments, parser), {}))


class HoldsArguments(ToolParser):
    """Mixed into vLLM's parser of a model family."""

    holds_arguments = True

    def get_structural_tag(self, request: Any, **options: Any) -> Any:
        tag = super().get_structural_tag(request, **options)
        if tag is not None:
            # vLLM's builders leave a tool's parameters out of the tag unless it is strict.
            strict = super().get_structural_tag(request, **options | {"strict_level": ToolStrictLevel.PARAMETER})
            _hold(tag, strict)
        return tag


def _hold(node: Any, strict: Any) -> None:
    """Change a part of a structural tag; `strict` is the same part where every tool is strict."""
    if isinstance(node, JSONSchemaFormat):
        node.max_whitespace_cnt = 1
        if node.json_schema is True:
            node.json_schema, node.any_order = _loosened(getattr(strict, "json_schema", True)), True
    elif isinstance(node, BaseModel):
        for name in type(node).model_fields:
            _hold(getattr(node, name), getattr(strict, name, None))
    elif isinstance(node, (list, tuple)):
        for place, part in enumerate(node):
            _hold(part, strict[place] if isinstance(strict, (list, tuple)) and len(strict) == len(node) else None)


def _loosened(schema: Any) -> dict[str, Any]:
    """An object with the parameters of `schema`."""
    anything = {"type": "object"}
    if not isinstance(schema, dict) or not isinstance(schema.get("properties"), dict):
        return anything
    if any(schema.get(key) for key in ("additionalProperties", "patternProperties", "$ref", "allOf", "anyOf", "oneOf")):
        return anything
    wanted = {name: _loosened_value(value) for name, value in schema["properties"].items()}
    return anything | {"properties": wanted, "additionalProperties": False, "maxProperties": len(wanted)}


def _loosened_value(schema: Any) -> dict[str, Any]:
    """Strings are strings that end where `schema` says; other values are open: small models quote numbers."""
    if not isinstance(schema, dict) or schema.get("type") != "string":
        return {}
    most = schema.get("maxLength")
    # xgrammar 0.2.8 fails on what is not a whole number of 64 bits, and nobody's call may; no answer is 2**31 long.
    return {"type": "string"} | ({"maxLength": most} if type(most) is int and 0 <= most < 2**31 else {})


class VllmAdapters:
    """Adapters in vLLM, through the same door that its HTTP interface uses."""

    def __init__(self, app: Any, shelf: Shelf, base: str, most_rank: int) -> None:
        self._models, self._client = app.state.openai_serving_models, app.state.engine_client
        self._shelf, self._base, self._most_rank = shelf, base, most_rank

    async def load(self, version: str) -> None:
        name, _, number = version.rpartition("@")
        folder = self._shelf.folder(name, int(number))
        await asyncio.to_thread(models.check_adapter, folder, self._base, self._most_rank)
        answer = await self._models.load_lora_adapter(LoadLoRAAdapterRequest(lora_name=version, lora_path=str(folder)))
        if isinstance(answer, ErrorResponse):
            raise ValueError(answer.error.message)

    async def unload(self, version: str) -> None:
        request = self._models.lora_requests.get(version)
        if request is not None:
            await self._models.unload_lora_adapter(UnloadLoRAAdapterRequest(lora_name=version))
            await self._client.remove_lora(request.lora_int_id)
