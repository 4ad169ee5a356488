"""The thin file layer under the log: every operation whose order decides what survives a crash goes through here.

POSIX promises nothing about bytes before `fsync` of the file, nor about a name before `fsync` of its folder. The tests
put a layer here that forgets exactly those.
"""

from __future__ import annotations

import errno
import fcntl
import os
from pathlib import Path


class File:
    """A file open for appending. `append` returns once the bytes are on disk."""

    def __init__(self, path: Path) -> None:
        # O_DSYNC makes write and fsync one system call: the GIL is given up and won back once, not twice, and on a busy
        # event loop each time costs up to the interpreter's switch interval (5 ms).
        self._descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_APPEND | os.O_DSYNC, 0o600)

    def append(self, data: bytes) -> None:
        """Raises `OSError`; then any part of the bytes may be there, and may vanish again: cut the file or leave it."""
        view = memoryview(data)
        while view:
            view = view[os.write(self._descriptor, view) :]

    def truncate(self, size: int) -> None:
        os.ftruncate(self._descriptor, size)
        os.fsync(self._descriptor)

    def linked(self) -> bool:
        """False once the file has no name any more: what is appended then is lost with the process."""
        return os.fstat(self._descriptor).st_nlink > 0

    def close(self) -> None:
        os.close(self._descriptor)


class Lock:
    """An advisory lock (flock) that the kernel frees when its holder dies."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor

    def release(self) -> None:
        os.close(self._descriptor)

    def __enter__(self) -> Lock:
        return self

    def __exit__(self, *_: object) -> None:
        self.release()


class OsFiles:
    """The operating system's files."""

    def create(self, path: Path) -> File:
        """A new file for appending. Its name lasts only after `sync_folder`."""
        return File(path)

    def make_folder(self, path: Path) -> None:
        """Make a folder and those above it, each one's name on disk on return. One that exists is fine."""
        if not path.is_dir():
            self.make_folder(path.parent)
            path.mkdir(mode=0o700, exist_ok=True)
        self.sync_folder(path.parent)

    def sync_folder(self, path: Path) -> None:
        self._sync(path)

    def sync_file(self, path: Path) -> None:
        """Bring to disk what somebody else (deltalake) wrote."""
        self._sync(path)

    def write(self, path: Path, data: bytes) -> None:
        """Replace a small file, durably and atomically."""
        temporary = path.with_name(f".{path.name}.{os.getpid()}")
        self.unlink(temporary)
        file = self.create(temporary)
        try:
            file.append(data)
        finally:
            file.close()
        self.rename(temporary, path)
        self.sync_folder(path.parent)

    def rename(self, source: Path, target: Path) -> None:
        os.rename(source, target)

    def unlink(self, path: Path) -> None:
        """Remove a file; one that is gone is fine."""
        path.unlink(missing_ok=True)

    def remove_folder(self, path: Path) -> None:
        path.rmdir()

    def lock(self, path: Path, *, wait: bool = True, create: bool = True) -> Lock | None:
        """Hold `path` exclusively; None if somebody else does and `wait` is false."""
        descriptor = os.open(path, os.O_RDWR | (os.O_CREAT if create else 0), 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        except OSError as error:
            os.close(descriptor)
            if error.errno in (errno.EAGAIN, errno.EACCES):
                return None
            raise
        return Lock(descriptor)

    def _sync(self, path: Path) -> None:
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
