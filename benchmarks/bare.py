"""vLLM's own server, but with the model in the engine's process, as ours has it (`services.engine.OneProcessEngine`).

On CPUs vLLM takes `--distributed-executor-backend uni` for `mp`: a worker process beside the engine's, and the two poll
for each other. Beside such a server ours would be praised for what its path does not do. Takes vLLM's arguments.
"""

from __future__ import annotations

import runpy
from typing import Any


def main() -> None:
    from vllm.platforms.cpu import CpuPlatform

    check = CpuPlatform.check_and_update_config

    def check_and_keep(cls: type, config: Any) -> None:
        check(config)
        config.parallel_config.distributed_executor_backend = "uni"

    CpuPlatform.check_and_update_config = classmethod(check_and_keep)  # type: ignore[method-assign, assignment]
    runpy.run_module("vllm.entrypoints.openai.api_server", run_name="__main__")


if __name__ == "__main__":
    main()
