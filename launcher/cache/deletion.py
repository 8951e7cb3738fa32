"""Delete trees by descriptor, never through a link or into a mount, and count the freed bytes."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Collection
from typing import NamedTuple

from ..system.files import open_folder, open_place
from ..ui.console import Progress
from .dirs import reason

# A deeper folder is moved up before it is entered, because the system limits the number of open files.
_DEEPEST = 60


class Failure(NamedTuple):
    """Hold a path that could not be removed, and the reason."""

    path: str
    reason: str


class _Level(NamedTuple):
    parent: int
    name: str
    path: str
    descriptor: int
    names: list[str]


def freed_by(status: os.stat_result) -> int:
    """Return the bytes that unlinking a file frees: none if it has another name."""
    return status.st_size if stat.S_ISREG(status.st_mode) and status.st_nlink == 1 else 0


class Deletion:
    """Delete trees and count the freed bytes: those of files without another name.

    Paths in `kept` stay, and so do the folders above them.
    """

    def __init__(
        self, progress: Progress | None = None, mounts: Collection[str] = (), kept: Collection[str] = ()
    ) -> None:
        self.freed = 0
        self.failures: list[Failure] = []
        self._progress = progress
        self._mounts = mounts
        self._kept = frozenset(kept)
        self._above = frozenset(above for path in kept for above in _folders_above(path))
        self._device = 0
        self._first: str | None = None

    @property
    def mounts(self) -> Collection[str]:
        """Return the mount points, which are never entered."""
        return self._mounts

    def take_over(self, other: Deletion) -> None:
        """Add the freed bytes and the problems of another deletion."""
        self.freed += other.freed
        self.failures += other.failures

    def delete(self, parent: int, name: str, path: str) -> None:
        """Delete the entry `name` of the folder `parent`; note the first failure, and delete the rest."""
        self._first = None
        try:
            self._device = os.stat(name, dir_fd=parent, follow_symlinks=False).st_dev
        except FileNotFoundError:
            return
        stack: list[_Level] = []
        self._enter(stack, parent, name, path)
        while stack:
            level = stack[-1]
            if level.names:
                inner = level.names.pop()
                self._enter(stack, level.descriptor, inner, f"{level.path}/{inner}")
                continue
            stack.pop()
            os.close(level.descriptor)
            self._remove(level)
        if self._first is not None:
            self.failures.append(Failure(path, self._first))

    def unlink(self, parent: int, name: str) -> None:
        """Unlink one file and count it."""
        status = os.stat(name, dir_fd=parent, follow_symlinks=False)
        os.unlink(name, dir_fd=parent)
        self.count(status, name)

    def count(self, status: os.stat_result, name: str) -> None:
        """Count a removed file."""
        freed = freed_by(status)
        self.freed += freed
        if freed and self._progress:
            self._progress(freed, name)

    def _enter(self, stack: list[_Level], parent: int, name: str, path: str) -> None:
        if path in self._kept:
            return
        try:
            status = os.stat(name, dir_fd=parent, follow_symlinks=False)
            if not stat.S_ISDIR(status.st_mode):
                os.unlink(name, dir_fd=parent)
                self.count(status, name)
                return
            if status.st_dev != self._device or path in self._mounts:
                raise OSError(errno.EBUSY, os.strerror(errno.EBUSY))
            if len(stack) >= _DEEPEST and not self._kept:
                higher = os.urandom(8).hex()
                os.rename(name, higher, src_dir_fd=parent, dst_dir_fd=stack[0].descriptor)
                stack[0].names.append(higher)
                return
            descriptor = _open(parent, name)
        except FileNotFoundError:
            return  # another run deletes the same trash
        except OSError as error:
            self._note(error)
            return
        try:
            names = os.listdir(descriptor)
        except OSError as error:
            self._note(error)
            names = []
        stack.append(_Level(parent, name, path, descriptor, names))

    def _remove(self, level: _Level) -> None:
        if level.path in self._above:
            return
        try:
            os.rmdir(level.name, dir_fd=level.parent)
        except FileNotFoundError:
            pass
        except OSError as error:
            if self._first is None or error.errno != errno.ENOTEMPTY:  # the reason is noted already
                self._note(error)

    def _note(self, error: OSError) -> None:
        self._first = self._first or reason(error)


def _open(parent: int, name: str) -> int:
    """Open a folder, made writable first if we own it; raise OSError for a link in its place.

    chmod(2) follows links, so the mode is changed through a descriptor of the folder.
    """
    place = open_place(name, os.O_DIRECTORY, dir_fd=parent)
    try:
        status = os.fstat(place)
        if status.st_uid != os.geteuid() or status.st_mode & stat.S_IRWXU == stat.S_IRWXU:
            return open_folder(".", dir_fd=place)
        by_descriptor = f"/proc/self/fd/{place}"
        os.chmod(by_descriptor, stat.S_IRWXU)
        return open_folder(by_descriptor, follow=True)
    finally:
        os.close(place)


def _folders_above(path: str) -> tuple[str, ...]:
    parts = path.split("/")
    return tuple("/".join(parts[:number]) for number in range(1, len(parts)))
