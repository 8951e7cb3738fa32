"""Files that root brings into another user's folder become that user's, who could not update or remove them otherwise.

huggingface_hub writes as the running user. Afterwards everything that root has just written below the folder is given
to the folder's owner: by descriptor, never through a link, and no file that has another name or is older.
"""

from __future__ import annotations

import os
import stat
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress

from ..system.files import existing_folder, open_folder, open_place

# The clock of a file system may lag by a tick.
_TICK_SECONDS = 1.0


@contextmanager
def handed_over(folders: Iterable[str]) -> Iterator[None]:
    """Give the files that root writes below these folders meanwhile to the folders' owners."""
    since = time.time() - _TICK_SECONDS
    owners = {folder: _owner(folder) for folder in set(folders)} if _can_hand_over() else {}
    try:
        yield
    finally:
        for folder, (ancestor, owner) in owners.items():
            if owner.st_uid != 0:
                with suppress(OSError):
                    _hand_over(folder, ancestor, owner, since)


def _can_hand_over() -> bool:
    return os.geteuid() == 0 and hasattr(os, "O_PATH") and os.path.isdir("/proc/self/fd")


def _owner(folder: str) -> tuple[str, os.stat_result]:
    """Return the nearest existing folder at or above this path, and its owner."""
    folder = existing_folder(folder)
    return folder, os.stat(folder)


def _hand_over(folder: str, ancestor: str, owner: os.stat_result, since: float) -> None:
    descriptor = open_folder(ancestor, follow=True)
    try:
        for part in filter(None, os.path.relpath(folder, ancestor).split("/")):
            if part != ".":
                inner = open_folder(part, dir_fd=descriptor)
                os.close(descriptor)
                descriptor = inner
                _give(descriptor, owner, since)
        for _, folders, files, parent in os.fwalk(".", dir_fd=descriptor):
            for name in (*folders, *files):
                with suppress(OSError):
                    entry = open_place(name, dir_fd=parent)
                    try:
                        _give(entry, owner, since)
                    finally:
                        os.close(entry)
    finally:
        os.close(descriptor)


def _give(descriptor: int, owner: os.stat_result, since: float) -> None:
    """Give an open entry to the owner, unless it is not root's, has another name, or is older."""
    status = os.fstat(descriptor)
    if status.st_uid != 0 or status.st_dev != owner.st_dev:
        return
    new = (
        status.st_mtime >= since
        and status.st_nlink == 1
        and (stat.S_ISREG(status.st_mode) or stat.S_ISLNK(status.st_mode))
    )
    if new or stat.S_ISDIR(status.st_mode):
        with suppress(OSError):  # a server or user namespace without this owner: it stays root's
            # fchown(2) refuses an O_PATH descriptor: see proc(5), /proc/self/fd.
            os.chown(f"/proc/self/fd/{descriptor}", owner.st_uid, owner.st_gid if status.st_gid == 0 else -1)
