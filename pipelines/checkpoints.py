"""Checkpoints of a training: sealed with digests, so that a torn one is known and the one before it is taken.

Ray Train copies a worker's folder to the run's storage; what a worker, a disk or a machine that dies leaves there may
be less than the whole. Each worker writes last a file with the SHA-256 of everything that it adds.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path

from cluster.registry import sha256

SEAL = "seal-{rank}.json"


def seal(folder: Path, rank: int, workers: int) -> None:
    """Say what belongs to a checkpoint's folder, as this worker has it."""
    files = [path for path in sorted(folder.rglob("*")) if path.is_file() and not path.name.startswith("seal-")]
    digests = {str(path.relative_to(folder)): sha256(path) for path in files}
    (folder / SEAL.format(rank=rank)).write_text(json.dumps({"workers": workers, "files": digests}))


def sound(folder: Path) -> bool:
    """Whether everything is there that the workers said, as they said it."""
    try:
        first = json.loads((folder / SEAL.format(rank=0)).read_text())
        seals = [json.loads((folder / SEAL.format(rank=rank)).read_text()) for rank in range(first["workers"])]
        return all(sha256(folder / name) == digest for one in seals for name, digest in one["files"].items())
    except (OSError, ValueError, KeyError):
        return False


def newest(storage: Path) -> Path | None:
    """The newest sound checkpoint in a run's storage."""
    found = sorted((path for path in storage.glob("checkpoint_*") if path.is_dir()), key=lambda path: path.name)
    return next((path for path in reversed(found) if sound(path)), None)


def fetch(checkpoint: Path | None, scratch: Path) -> Path | None:
    """A checkpoint as a local folder, under the name that Hugging Face's trainer expects."""
    if checkpoint is None:
        return None
    return Path(shutil.copytree(checkpoint, scratch / "checkpoint-0"))
