"""Folders are opened one below the other, never through a link, and walked without recursion.

In a cache that others may write to, a name can become a link at any time, and how deep a folder goes is for whoever
made it to decide.
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
    """Open a root; that one may be reached by a link, for its name comes from the settings."""
    descriptor = open_folder(path, follow=True)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


@contextmanager
def below(descriptor: int, path: str) -> Iterator[tuple[int, str]]:
    """Open the folder of `path` below `descriptor`, no part of it being a link; yield it with the last name."""
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
    """Hold a download's lock meanwhile, where there is one.

    Raises OSError (EAGAIN) when a downloader has it.
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
    """Keep a removal of a revision and a ref that is about to lead to it apart: each looks first, then acts.

    Either takes less than a moment; a holder that was halted in it is not waited for any longer.
    """
    with suppress(OSError):  # a file system that knows no flock
        lock_within(folder, _TURN_SECONDS)
    yield


def walk(path: str) -> Iterator[os.DirEntry[str]]:
    """Yield everything below a folder that is no folder itself; what cannot be read is left out."""
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
    """Return in words why something could not be removed or read."""
    if error.errno == errno.EBUSY and not isinstance(error.strerror, str):
        return "something is mounted there"
    if error.errno == errno.EBUSY and error.strerror == os.strerror(errno.EBUSY):
        return "something is mounted there"
    text = error.strerror or str(error)
    return text.lower() if text == os.strerror(error.errno or 0) else text
