"""A process that dies in the middle of what it does to the disk."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any


def die_at(step: int, names: tuple[str, ...], act: Callable[[], object]) -> None:
    """Act, but die, without any clean-up, right before the step-th call of the functions of `os` with these names."""
    calls = 0

    def counted(call: Callable[..., Any]) -> Callable[..., Any]:
        def wrapped(*arguments: Any, **options: Any) -> Any:
            nonlocal calls
            calls += 1
            if calls == step:
                os._exit(9)
            return call(*arguments, **options)

        return wrapped

    for name in names:
        setattr(os, name, counted(getattr(os, name)))
    act()
