"""Open folders one below the other, never through a link, and walk them without recursion.

In a cache that others may write to, a name can become a link at any time, and a tree can have any depth.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from ..system.files import NO_FLOCK, lock_within, open_folder, open_regular, try_lock

_TURN_SECONDS = 2.0


@contextmanager
def opened(path: str) -> Iterator[int]:
    """Open a root; its path comes from the settings, so it may contain links."""
    descriptor = open_folder(path, follow=True)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


@contextmanager
def below(descriptor: int, path: str) -> Iterator[tuple[int, str]]:
    """Open the parent folder of `path` below `descriptor`, without following links; yield it with the last name."""
    *folders, name = path.split("/")
    current = os.dup(descriptor)
    try:
        for folder in folders:
            inner = open_folder(folder, dir_fd=current)
            os.close(current)
            current = inner
        yield current, name
    finally:
        os.close(current)


@contextmanager
def locked(parent: int, name: str) -> Iterator[None]:
    """Hold a download's lock meanwhile, if it exists.

    Raises OSError (EAGAIN) if a downloader holds it.
    """
    try:
        descriptor = open_regular(name, os.O_RDWR, dir_fd=parent)
    except FileNotFoundError:
        yield
        return
    try:
        try:
            free = try_lock(descriptor)
        except OSError as error:
            if error.errno not in NO_FLOCK:
                raise
            free = True
        if not free:
            raise OSError(errno.EAGAIN, "it is being downloaded")
        yield
    finally:
        os.close(descriptor)


@contextmanager
def taking_turns(folder: int) -> Iterator[None]:
    """Keep the removal of a revision apart from a ref that will name it: each side checks first, then acts.

    Both are short; if a halted process holds the lock, do not wait for it any further.
    """
    with suppress(OSError):  # a file system without flock
        lock_within(folder, _TURN_SECONDS)
    yield


def open_to_read(path: str) -> int:
    """Open a file without changing its access time if this user may; links are followed."""
    try:
        # Verifying is not a use: a changed access time would make every repo look recently used.
        return open_regular(path, getattr(os, "O_NOATIME", os.O_RDONLY), follow=True)
    except PermissionError:
        return open_regular(path, follow=True)


def walk(path: str) -> Iterator[os.DirEntry[str]]:
    """Yield every file below a folder, and skip unreadable folders."""
    pending = [path]
    while pending:
        try:
            with os.scandir(pending.pop()) as listing:
                entries = list(listing)
        except OSError:
            continue
        for entry in entries:
            if entry.is_dir(follow_symlinks=False):
                pending.append(entry.path)
            else:
                yield entry


def reason(error: OSError) -> str:
    """Return the reason, in words, why a path could not be removed or read."""
    if error.errno == errno.EBUSY and not isinstance(error.strerror, str):
        return "something is mounted there"
    if error.errno == errno.EBUSY and error.strerror == os.strerror(errno.EBUSY):
        return "something is mounted there"
    text = error.strerror or str(error)
    return text.lower() if text == os.strerror(error.errno or 0) else text
