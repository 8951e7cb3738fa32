"""Find out without a rename whether one would work, so that no file is missing for a moment.

The kernel makes its usual checks of a rename (permissions, sticky bit, immutable files, mounts) before it refuses to
replace a folder that is not empty: rename(2), `vfs_rename` in fs/namei.c.
"""

from __future__ import annotations

import errno
import os
import re
import time
from collections.abc import Collection, Iterator
from contextlib import contextmanager, suppress

# The remaining errors of a rename that is otherwise possible: the target is a folder, and not empty.
_ONLY_IN_THE_WAY = (errno.EISDIR, errno.ENOTEMPTY, errno.EEXIST)
PREFIX = ".start_app-probe-"
_NAME = rf"{re.escape(PREFIX)}[0-9a-f]{{8}}"
_OLD_SECONDS = 3600


class Probe:
    """Hold a folder that no rename can replace."""

    def __init__(self, folder: str, name: str, mounts: Collection[str], dir_fd: int | None) -> None:
        self._own = os.path.join(folder, name)
        self._full = f"{self._own}/full"
        self._name = name
        self._mounts = mounts
        self._dir_fd = dir_fd

    def leave(self, path: str) -> None:
        """Raise the OSError that a rename of this path into the probe's folder would raise, and move nothing."""
        if path in self._mounts:  # for a file the kernel would check this too late
            raise OSError(errno.EBUSY, os.strerror(errno.EBUSY), path)
        try:
            self._rename(path, self._full)
        except OSError as error:
            if error.errno not in _ONLY_IN_THE_WAY:
                raise
        else:  # this file system replaces a non-empty folder
            self._rename(self._full, path)

    def enter(self, folder: str) -> None:
        """Raise the OSError that a rename from the probe's folder into this one would raise."""
        new = os.path.join(folder, self._name)
        os.mkdir(f"{self._own}/new", 0o700, dir_fd=self._dir_fd)
        try:
            self._rename(f"{self._own}/new", new)
            os.rmdir(new, dir_fd=self._dir_fd)
        except OSError as error:
            with suppress(OSError):
                os.rmdir(f"{self._own}/new", dir_fd=self._dir_fd)
            error.filename = folder
            raise

    def _rename(self, path: str, to: str) -> None:
        os.rename(path, to, src_dir_fd=self._dir_fd, dst_dir_fd=self._dir_fd)


@contextmanager
def probe(folder: str, mounts: Collection[str] = (), *, dir_fd: int | None = None) -> Iterator[Probe]:
    """Yield a probe for renames out of `folder` and into it; `mounts` are the mount points.

    Raises OSError if nothing can be created in `folder`.
    """
    _sweep(folder, dir_fd)
    name = f"{PREFIX}{os.urandom(4).hex()}"
    own = os.path.join(folder, name)
    os.mkdir(own, 0o700, dir_fd=dir_fd)
    try:
        # Use a nested folder too: a folder that gets a new parent must be writable itself.
        for path in (f"{own}/full", f"{own}/full/inside"):
            os.mkdir(path, 0o700, dir_fd=dir_fd)
        yield Probe(folder, name, mounts, dir_fd)
    finally:
        _remove(own, dir_fd)


def _sweep(folder: str, dir_fd: int | None) -> None:
    """Remove the probes of killed launchers: a probe lasts for milliseconds."""
    with suppress(OSError):
        for name in os.listdir(folder if dir_fd is None else dir_fd):
            own = os.path.join(folder, name)
            if re.fullmatch(_NAME, name) and os.stat(own, dir_fd=dir_fd).st_mtime < time.time() - _OLD_SECONDS:
                _remove(own, dir_fd)


def _remove(own: str, dir_fd: int | None) -> None:
    for path in (f"{own}/new", f"{own}/full/inside", f"{own}/full", own):
        with suppress(OSError):  # a folder with something in it stays
            os.rmdir(path, dir_fd=dir_fd)
