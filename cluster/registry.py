"""Model versions under state, `models/NAME/N/`: the files that serve. MLflow mirrors them for people to look at.

The folder is the truth and MLflow a copy (design, section 2). A version exists once its `version.json` does, which is
written last.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from cluster import durable, models
from cluster.mirror import Mirror
from cluster.records import Decision, Lineage, Version
from cluster.settings import Settings

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")
"""What an alias may be called: also a folder's name and a registered model's in MLflow."""
ADAPTER_FILES = ("adapter_config.json", "adapter_model.safetensors")
FULL_SUFFIXES = (".safetensors", ".json", ".txt", ".model", ".jinja")
MOST_RANK = 4096
"""For an adapter whose rank nobody named; the engine has its own limit."""


def parse(version: str) -> tuple[str, int]:
    """`assistant@3` -> ("assistant", 3). Raises `ValueError` for anything else."""
    name, _, number = version.partition("@")
    if not NAME.fullmatch(name) or not re.fullmatch(r"0|[1-9][0-9]{0,8}", number):
        raise ValueError(f"{version!r} is not a version; write it as NAME@N, for example assistant@2")
    return name, int(number)


class Registry:
    """The versions of one state folder."""

    def __init__(self, settings: Settings) -> None:
        self.root = settings.state / "models"
        """Where each version has its folder, NAME/N."""
        self._mirror = Mirror(settings)

    def create(
        self,
        name: str,
        base: str,
        form: Literal["adapter", "full"],
        rank: int | None,
        parent: str | None,
        lineage: Lineage | None,
        source_folder: Path,
    ) -> Version:
        """Copy a trained model in as the next version of `name`, durably; others see it whole or not at all.

        Raises `ValueError` for a folder without safetensors, with pickled weights, or of another base or rank.
        """
        check_name(name)
        files = _checked_files(source_folder, form, rank)
        number, folder = self._allocate(name)
        try:
            digests = {file.name: _copy(file, folder / file.name) for file in files}
            durable.sync_folder(folder)
            version = Version(
                name=name,
                number=number,
                base=base,
                form=form,
                rank=rank,
                parent=parent,
                created=time.time(),
                lineage=lineage,
                files=digests,
            )
            _write(folder, version)
        except BaseException:
            shutil.rmtree(folder, ignore_errors=True)
            raise
        return version

    def discard(self, version: str) -> None:
        """Remove a version that nobody was ever served by, such as a policy between two steps of its training.

        Its empty folder stays, so that no other version gets its number: an engine may still have it.
        Raises `ValueError` for one with a lineage: those are there to stay.
        """
        if self.get(version).lineage:
            raise ValueError(f"{version} was made by a cycle; it stays, so that what it answered can be explained")
        folder = self.folder(version)
        for file in sorted(
            folder.iterdir(), key=lambda file: file.name != "version.json"
        ):  # first, so it is gone at once
            file.unlink()

    def create_base(self, name: str, base: str) -> Version:
        """Version 0 of an alias, `name@0`: the base itself, which has no files here. Made once; then returned."""
        check_name(name)
        folder = self.root / name / "0"
        durable.make_folder(folder)
        try:
            _write(folder, Version(name=name, number=0, base=base, form="base", created=time.time()))
        except FileExistsError:
            version = self.get(f"{name}@0")
            if version.base != base:
                raise ValueError(
                    f"{name}@0 is the base {version.base}, not {base}, and versions never change; "
                    f"choose another alias for {base}, or another state folder (TRIVIUM_STATE)"
                ) from None
        return self.get(f"{name}@0")

    def get(self, version: str) -> Version:
        """The version of an id such as `assistant@3`. Raises `ValueError` if there is none."""
        name, _ = parse(version)
        try:
            return Version.model_validate_json((self.folder(version) / "version.json").read_bytes())
        except FileNotFoundError:
            known = ", ".join(v.id for v in self.versions(name)[-5:]) or "none yet"
            raise ValueError(f"there is no version {version} in the registry; the newest of {name}: {known}") from None

    def find(self, version: str) -> Version | None:
        """The version of an id; None if there is none."""
        try:
            return self.get(version)
        except ValueError:
            return None

    def folder(self, version: Version | str) -> Path:
        """Where a version's files are."""
        name, number = parse(version if isinstance(version, str) else version.id)
        return self.root / name / str(number)

    def check(self, version: Version) -> None:
        """Raises `ValueError` that names a file of the version which is not there, or not as it was registered."""
        folder = self.folder(version)
        for name, digest in version.files.items():
            if not (folder / name).is_file():
                raise ValueError(f"{version.id} has lost {name}; put it back into {folder} from a backup")
            if (found := sha256(folder / name)) != digest:
                raise ValueError(
                    f"{version.id} is torn: {name} has the SHA-256 {found[:12]}..., and {digest[:12]}... was "
                    f"registered; put the file back into {folder} from a backup"
                )

    def versions(self, name: str) -> list[Version]:
        """All complete versions of an alias, oldest first."""
        check_name(name)
        found = (self.root / name).glob("*/version.json")
        return sorted((Version.model_validate_json(file.read_bytes()) for file in found), key=lambda v: v.number)

    def names(self) -> list[str]:
        """Aliases that have versions."""
        return sorted({file.parent.parent.name for file in self.root.glob("*/*/version.json")})

    def _allocate(self, name: str) -> tuple[int, Path]:
        """The next number, taken by a mkdir that only one process can win."""
        durable.make_folder(self.root / name)
        while True:
            taken = [int(entry.name) for entry in (self.root / name).iterdir() if entry.name.isdecimal()]
            folder = self.root / name / str(max(taken, default=0) + 1)
            try:
                folder.mkdir()
            except FileExistsError:
                continue
            durable.sync_folder(folder.parent)
            return int(folder.name), folder

    # What MLflow shows; all of it best effort (`cluster.mirror`).

    def mirror_version(self, version: Version, run_id: str | None = None) -> bool:
        """Show a version and its lineage in MLflow. False, and a warning in the log, if MLflow is away."""
        return self._mirror.show_version(version, run_id)

    def mirror_aliases(self, decisions: Sequence[Decision]) -> bool:
        """Bring what MLflow shows up to the decision log: versions, verdicts, aliases. False if MLflow is away."""
        return self._mirror.show_decisions(decisions, self.versions)

    def log_run(
        self, version: str, parameters: Mapping[str, Any], history: Sequence[Mapping[str, float]]
    ) -> str | None:
        """Show a training in MLflow: `history` has one entry of metrics for each `step`. The run's id, or None."""
        return self._mirror.show_run(version, parameters, history)


def check_name(name: str) -> None:
    """Raises `ValueError` if an alias cannot be called that."""
    if not NAME.fullmatch(name):
        raise ValueError(f"{name!r} cannot be an alias; use letters, digits, '.', '_' and '-'")


def _checked_files(source: Path, form: str, rank: int | None) -> list[Path]:
    """The files that make up the model; nothing pickled, because loading a pickle runs what is in it."""
    if not source.is_dir():
        raise ValueError(f"{source} is not a folder; give the one that holds the trained model")
    if form == "full":
        models.check_model(source)
        return [file for file in sorted(source.iterdir()) if file.is_file() and file.suffix in FULL_SUFFIXES]
    config_file = source / "adapter_config.json"
    config = json.loads(config_file.read_bytes()) if config_file.is_file() else {}
    if rank is not None and config and config.get("r") != rank:
        raise ValueError(
            f"the adapter in {source} has rank {config.get('r')}, not {rank}; give the one it was made with"
        )
    # Against the base that it says it was trained on; the engine checks again, against the base that it serves.
    trained_on = config.get("base_model_name_or_path") or "unknown"
    models.check_adapter(source, trained_on, rank or MOST_RANK)
    files = [source / name for name in ADAPTER_FILES]
    if absent := [file.name for file in files if not file.is_file()]:
        raise ValueError(f"{source} has no {absent[0]}; an adapter is saved by peft's save_pretrained")
    return files


def _copy(source: Path, target: Path) -> str:
    """A durable copy that nobody writes to again. Returns the SHA-256 of what was copied."""
    shutil.copyfile(source, target)
    target.chmod(0o444)
    descriptor = os.open(target, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
    return sha256(source)


def sha256(file: Path) -> str:
    """Of a file's content, in hexadecimal."""
    with file.open("rb") as content:
        return hashlib.file_digest(content, "sha256").hexdigest()


def _write(folder: Path, version: Version) -> None:
    durable.create(folder / "version.json", version.model_dump_json(indent=1).encode())
