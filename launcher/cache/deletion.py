"""Trees are deleted by descriptor, never through a link nor into what is mounted in them, and the bytes are counted."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Callable, Collection
from typing import NamedTuple

from .dirs import FOLDER, reason

# So deep, a folder is moved up before it is entered: how many files may be open is for the system to decide.
_DEEPEST = 60

Progress = Callable[[int], None]


class Failure(NamedTuple):
    """Hold a path that could not be removed, and why."""

    path: str
    reason: str


class _Level(NamedTuple):
    parent: int
    name: str
    path: str
    descriptor: int
    names: list[str]


class Deletion:
    """Delete trees and count what that frees: the bytes of files that had no other name."""

    def __init__(self, progress: Progress | None = None, mounts: Collection[str] = ()) -> None:
        self.freed = 0
        self.failures: list[Failure] = []
        self._progress = progress
        self._mounts = mounts
        self._device = 0
        self._first: str | None = None

    def delete(self, parent: int, name: str, path: str) -> None:
        """Delete what is called `name` in the folder `parent`; what cannot go is noted once, and the rest goes."""
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
        found = os.stat(name, dir_fd=parent, follow_symlinks=False)
        os.unlink(name, dir_fd=parent)
        self.count(found)

    def count(self, found: os.stat_result) -> None:
        """Count a file that is gone."""
        if stat.S_ISREG(found.st_mode) and found.st_nlink == 1:
            self.freed += found.st_size
            if self._progress:
                self._progress(found.st_size)

    def _enter(self, stack: list[_Level], parent: int, name: str, path: str) -> None:
        try:
            found = os.stat(name, dir_fd=parent, follow_symlinks=False)
            if not stat.S_ISDIR(found.st_mode):
                os.unlink(name, dir_fd=parent)
                self.count(found)
                return
            if found.st_dev != self._device or path in self._mounts:
                raise OSError(errno.EBUSY, os.strerror(errno.EBUSY))
            if len(stack) >= _DEEPEST:
                higher = os.urandom(8).hex()
                os.rename(name, higher, src_dir_fd=parent, dst_dir_fd=stack[0].descriptor)
                stack[0].names.append(higher)
                return
            if found.st_uid == os.geteuid() and found.st_mode & stat.S_IRWXU != stat.S_IRWXU:
                os.chmod(name, stat.S_IRWXU, dir_fd=parent)
            descriptor = os.open(name, FOLDER, dir_fd=parent)
        except FileNotFoundError:
            return  # another run works on the same trash
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
        try:
            os.rmdir(level.name, dir_fd=level.parent)
        except FileNotFoundError:
            pass
        except OSError as error:
            if self._first is None or error.errno != errno.ENOTEMPTY:  # that it is not empty has a reason noted before
                self._note(error)

    def _note(self, error: OSError) -> None:
        self._first = self._first or reason(error)
