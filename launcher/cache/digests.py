"""Hash files with all cores, and remember the digests, so that no file is read twice."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from typing import NamedTuple

from ..ui.console import Progress
from .memory import Memory, line_of

SHA256, GIT_SHA1 = "0" * 64, "0" * 40
"""Return the pattern of each form of digest."""


class Wanted(NamedTuple):
    """Hold a file to be read, and the form of its digest: 64 hex digits for SHA-256, 40 for git's SHA-1."""

    path: str
    like: str = SHA256


def digests(wanted: Iterable[Wanted], memory: Memory, progress: Progress | None = None) -> Mapping[Wanted, str]:
    """Return the digest of each file; the threads report their progress one at a time.

    Raises OSError for an unreadable file, and BlockingIOError (EAGAIN) for one that changed while it was read.
    """
    hashes: dict[Wanted, str] = {}
    unread = []
    for file in dict.fromkeys(wanted):
        status = os.stat(file.path)
        known = memory.hash_of(status, file.like)
        if known is None:
            unread.append(file)
            continue
        memory.knows(line_of(status, known))
        hashes[file] = known
        if progress:
            progress(status.st_size, os.path.basename(file.path))
    if unread:
        from . import reading  # most launches read no file

        hashes |= reading.read(unread, memory, progress)
    return hashes
