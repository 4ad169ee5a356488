"""`trivium export`."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import click


@click.command()
@click.argument("version")
@click.option(
    "--format",
    "form",
    type=click.Choice(["merged", "adapter", "onnx"]),
    default="merged",
    show_default=True,
    help="What others shall load.",
)
@click.option(
    "--out", type=click.Path(path_type=Path), required=True, help="The new folder: not there yet, or an empty one."
)
@click.option("--base", metavar="MODEL", help="Folder or Hugging Face id of the base's weights, where its id is none.")
def export(version: str, form: Literal["merged", "adapter", "onnx"], out: Path, base: str | None) -> None:
    """Write VERSION into a folder that needs no Trivium, with a model card of where it comes from.

    \b
    VERSION  assistant@3, or an alias: then its champion.
    merged   base and adapter as one model, in the base's precision, with tokenizer and chat template:
             for transformers' from_pretrained and for `vllm serve FOLDER`.
    adapter  the adapter alone, as peft writes it: for those who have the base.
    onnx     a graph in fp32, for ONNX Runtime: input_ids and attention_mask in, logits out; no key-value cache.

    \b
    trivium export assistant --out ./assistant                      # what users get now
    trivium export assistant@3 --format onnx --out ./assistant-onnx
    trivium export support@2 --base ./Qwen3-4B --out ./support      # a base that was served from a folder

    Files are checked against what was registered, and what is written answers as the version does, or nothing is
    written. A cluster need not run. The card, README.md, has recipe, data, verdict and canary in it: numbers and
    digests, and the names of tools; no rows.
    """
    from cluster.priority import give_way
    from cluster.settings import Settings
    from pipelines.export.exporter import export as write

    give_way()
    folder = write(Settings.from_environment(), version, form, out, base, click.echo)
    size = sum(file.stat().st_size for file in folder.iterdir())
    click.echo(f"{folder}: {', '.join(sorted(file.name for file in folder.iterdir()))}; {size / 1e6:,.1f} MB")
