"""Files and folders that survive a power cut: whole or not there, and once reported, there for good.

The order is always the same: write a temporary one beside the final one, fsync it, give it the final name, fsync the
folder. A crash between two of these steps leaves at most something temporary, which nobody reads.
"""

from __future__ import annotations

import contextlib
import errno
import os
import secrets
import shutil
from collections.abc import Iterator
from pathlib import Path


def create(path: Path, content: bytes, mode: int = 0o644) -> None:
    """Make a file that must not exist. Of several processes one wins; the others get `FileExistsError`.

    link(2) fails if the name is taken, on every file system that machines share, where `rename` would overwrite.
    """
    temporary = _temporary(path, content, mode)
    try:
        os.link(temporary, path)
    except FileExistsError:
        # NFS can make the link, lose the answer, try again and report that the name is taken: by us.
        if not path.samefile(temporary):
            raise
    finally:
        temporary.unlink()
    sync_folder(path.parent)


def replace(path: Path, content: bytes, mode: int = 0o644) -> None:
    """Put a file where there may be one already; readers see the old content or the new."""
    temporary = _temporary(path, content, mode)
    try:
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink()
        raise
    sync_folder(path.parent)


def make_folder(folder: Path, mode: int = 0o755) -> None:
    """Make a folder and its parents; durable, because a file's name is only as durable as its folder's."""
    if not folder.exists():
        make_folder(folder.parent)
        folder.mkdir(exist_ok=True, mode=mode)
        sync_folder(folder.parent)


@contextlib.contextmanager
def create_folder(folder: Path) -> Iterator[Path]:
    """Fill a folder that must not exist yet, or be empty: a temporary one beside it, which gets its name at the end.

    Raises `FileExistsError` if something is there, at the beginning or by the end. What was written is then removed, as
    it is after any error within the block.
    """
    if folder.exists() and not (folder.is_dir() and not any(folder.iterdir())):
        raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), str(folder))
    make_folder(folder.parent)
    temporary = folder.with_name(f".{folder.name}.{os.getpid()}.{secrets.token_hex(4)}")
    temporary.mkdir()
    try:
        yield temporary
        sync_tree(temporary)
        try:
            temporary.rename(folder)  # rename(2) takes the place of an empty folder, and of no other
        except OSError as error:
            if error.errno in (errno.ENOTEMPTY, errno.EEXIST, errno.ENOTDIR):
                raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), str(folder)) from None
            raise
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise
    sync_folder(folder.parent)


def sync_tree(folder: Path) -> None:
    """Everything below a folder onto the disk, before a rename says that it is complete."""
    for path in [*folder.rglob("*"), folder]:
        if path.is_dir():
            sync_folder(path)
        else:
            with path.open("rb") as file:
                os.fsync(file.fileno())


def sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _temporary(path: Path, content: bytes, mode: int) -> Path:
    temporary = path.with_name(f".{path.name}.{os.getpid()}.{secrets.token_hex(4)}")
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
    except BaseException:  # a full disk: leave nothing behind
        temporary.unlink()
        raise
    return temporary
