"""Descriptors: waiting for a flock, keeping clear of the standard streams, giving a file to its folder's owner."""

from __future__ import annotations

import fcntl
import os
import time

_POLL_SECONDS = 0.005


def lock_within(descriptor: int, seconds: float) -> bool:
    """Take the lock of an open file, waiting at the most so long for it; tell whether it was had.

    Raises OSError on a file system that knows no flock.
    """
    deadline = time.monotonic() + seconds
    while True:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() >= deadline:
                return False
            time.sleep(_POLL_SECONDS)
        else:
            return True


def above_streams(descriptor: int) -> int:
    """Return a descriptor that is none of the standard streams, which may have been closed."""
    if descriptor > 2:
        return descriptor
    above = fcntl.fcntl(descriptor, fcntl.F_DUPFD_CLOEXEC, 3)
    os.close(descriptor)
    return above


def give_to_owner(descriptor: int, owner: os.stat_result) -> None:
    """Hand a file of root's to the owner of the folder: it must not keep that user from launching there."""
    if os.geteuid() == 0 and os.fstat(descriptor).st_uid == 0 and owner.st_uid != 0:
        os.fchown(descriptor, owner.st_uid, owner.st_gid)
