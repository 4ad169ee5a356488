"""What ours is measured against, around the same engine: its arguments, and Ray Serve LLM's default ingress.

It imports vLLM, which takes 13 s, so benchmarks run it as a program of its own:

    python -m benchmarks.peers arguments ARGS          prints the engine's arguments as JSON
    python -m benchmarks.peers default-ingress ARGS PORT   serves on PORT until its standard input ends

ARGS is an application's `args` in services/serve.yaml, as JSON.
"""

from __future__ import annotations

import dataclasses
import json
import os
import sys
from typing import Any

from ray import serve
from ray.serve.llm import LLMConfig, build_openai_app

from cluster import models
from services.engine import llm_config
from services.serving import ServingSettings, cpu_environment


def configuration(args: dict[str, Any]) -> LLMConfig:
    """The engine as ours has it, in Ray Serve LLM's words."""
    source = models.resolve(args["model"])
    settings = ServingSettings.model_validate({"name": models.base_id(args["model"], source), **args})
    config = llm_config(settings, str(source), gpu=False)
    return config.model_copy(update={"runtime_env": {"env_vars": cpu_environment(settings)}})


def said(config: Any) -> dict[str, Any]:
    """What a configuration of vLLM's says beyond its defaults."""
    given = {field.name: (getattr(config, field.name), field.default) for field in dataclasses.fields(config)}
    return {name: value for name, (value, default) in given.items() if value != default}


def serve_default_ingress(args: dict[str, Any], port: int) -> None:
    """On a Ray of its own that ends with this process."""
    import ray

    # One process for an engine, as in ours: Ray Serve LLM takes no such argument on CPUs, but it takes an engine class.
    os.environ["RAYLLM_VLLM_ENGINE_CLS"] = "services.engine.OneProcessEngine"
    ray.init(num_cpus=8, include_dashboard=False, log_to_driver=False)
    quiet = {"enable_access_log": False}
    serve.start(http_options={"host": "127.0.0.1", "port": port}, logging_config=quiet)
    serve.run(build_openai_app({"llm_configs": [configuration(args)]}), logging_config=quiet)
    sys.stdin.read()


def main() -> None:
    match sys.argv[1:]:
        case ["arguments", args]:
            print(json.dumps(configuration(json.loads(args)).engine_kwargs, default=said))
        case ["default-ingress", args, port]:
            serve_default_ingress(json.loads(args), int(port))
        case _:
            sys.exit(__doc__)


if __name__ == "__main__":
    main()
