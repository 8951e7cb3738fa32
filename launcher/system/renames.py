"""Whether a rename would work is found out without one, so that nothing is missing for a moment.

The kernel checks what it checks of any rename (rights, sticky bit, immutable files, mounts) before it notices that a
folder with something in it cannot be replaced: rename(2), `vfs_rename` in fs/namei.c.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager, suppress

# What is left to say when nothing else speaks against it: the target is a folder, and not an empty one.
_ONLY_IN_THE_WAY = (errno.EISDIR, errno.ENOTEMPTY, errno.EEXIST)
PREFIX = ".start_app-probe-"


@contextmanager
def probe(folder: str, mounts: Collection[str] = (), *, dir_fd: int | None = None) -> Iterator[Callable[[str], None]]:
    """Yield what raises the OSError that a rename of a path into `folder` would raise, and moves nothing.

    `mounts` are the paths that something is mounted on: of a file the kernel says that too late. Raises OSError where
    nothing can be made in `folder`.
    """
    name = os.path.join(folder, f"{PREFIX}{os.urandom(4).hex()}")
    os.mkdir(name, 0o700, dir_fd=dir_fd)
    try:
        os.mkdir(f"{name}/full", 0o700, dir_fd=dir_fd)

        def refuse(path: str) -> None:
            if path in mounts:
                raise OSError(errno.EBUSY, os.strerror(errno.EBUSY), path)
            try:
                os.rename(path, name, src_dir_fd=dir_fd, dst_dir_fd=dir_fd)
            except OSError as error:
                if error.errno not in _ONLY_IN_THE_WAY:
                    raise
            else:  # this file system replaces what it should not
                os.rename(name, path, src_dir_fd=dir_fd, dst_dir_fd=dir_fd)

        yield refuse
    finally:
        with suppress(OSError):
            os.rmdir(f"{name}/full", dir_fd=dir_fd)
        with suppress(OSError):
            os.rmdir(name, dir_fd=dir_fd)
