"""What an engine holds: what it could not load is told, whatever the reason, and the rest is served."""

from __future__ import annotations

from pathlib import Path

import pytest

from cluster.records import Version
from services.gateway.adapters import Adapters
from services.gateway.versions import Shelf


class Fragile:
    """An engine that takes every version but two."""

    async def load(self, version: str) -> None:
        if version == "assistant@2":
            raise ValueError("rank 99 is too much")
        if version == "assistant@3":
            raise IndexError

    async def unload(self, version: str) -> None: ...


async def test_what_cannot_be_loaded_is_told_and_the_rest_is_held() -> None:
    adapters = Adapters(Fragile(), most=8)
    await adapters.want(["assistant@1", "assistant@2", "assistant@3", "assistant@4"])
    assert adapters.versions == ["assistant@1", "assistant@4"]
    assert adapters.errors == {"assistant@2": "rank 99 is too much", "assistant@3": "IndexError()"}

    await adapters.want(["assistant@1"])
    assert adapters.errors == {}


@pytest.mark.parametrize(("form", "full"), [("adapter", False), ("full", True)])
def test_shelf_knows_whole_weights_from_adapters(tmp_path: Path, form: str, full: bool) -> None:
    version = Version(name="assistant", number=7, base="seed", form=form, created=0)  # type: ignore[arg-type]
    (tmp_path / "assistant" / "7").mkdir(parents=True)
    (tmp_path / "assistant" / "7" / "version.json").write_text(version.model_dump_json())
    assert Shelf(tmp_path).is_full("assistant@7") is full
    assert not Shelf(tmp_path).is_full("assistant@8")
