"""Hash files with all cores, and remember the digests, so that no file is read twice."""

from __future__ import annotations

import errno
import os
import queue
import threading
import time
from collections.abc import Iterable, Mapping
from typing import NamedTuple

from ..system.files import content_hash
from ..ui.console import Progress
from .memory import Memory, line_of, settled
from .verify import buffer, cores, open_to_read

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
    read = _Read(memory, progress)
    work: queue.SimpleQueue[Wanted | None] = queue.SimpleQueue()
    for one in dict.fromkeys(wanted):
        status = os.stat(one.path)
        known = memory.hash_of(status, one.like)
        if known:
            memory.knows(line_of(status, known))
            read.found[one] = known
            read.tell(status.st_size, one.path)
        else:
            work.put(one)
    threads = [threading.Thread(target=read.work, args=(work,), daemon=True) for _ in range(cores())]
    try:
        for thread in threads if not work.empty() else ():
            work.put(None)
            thread.start()
        for thread in threads:
            if thread.ident:
                thread.join()
    except BaseException:
        read.stop.set()
        raise
    if read.error:
        raise read.error
    return read.found


class _Read:
    """Hold the digests that several threads have computed."""

    def __init__(self, memory: Memory, progress: Progress | None) -> None:
        self.found: dict[Wanted, str] = {}
        self.error: OSError | None = None
        self.stop = threading.Event()
        self._memory = memory
        self._progress = progress
        self._guard = threading.Lock()

    def tell(self, count: int, path: str) -> bool:
        """Report the progress; return whether to continue."""
        if self._progress:
            with self._guard:
                self._progress(count, os.path.basename(path))
        return not self.stop.is_set()

    def work(self, wanted: queue.SimpleQueue[Wanted | None]) -> None:
        """Read one file after the other until none is left."""
        block = buffer()
        while not self.stop.is_set():
            one = wanted.get()
            if one is None:
                return
            try:
                self._read(one, block)
            except OSError as error:
                self.error = error
                self.stop.set()

    def _read(self, one: Wanted, block: memoryview) -> None:
        began = time.time()
        descriptor = open_to_read(one.path)
        try:
            before = os.fstat(descriptor)
            digest = content_hash(descriptor, one.like, buffer=block, proceed=lambda count: self.tell(count, one.path))
            after = os.fstat(descriptor)
        finally:
            os.close(descriptor)
        if digest is None:
            return
        line = line_of(after, digest)
        if line != line_of(before, digest):
            raise BlockingIOError(errno.EAGAIN, "it changed while it was read", one.path)
        with self._guard:
            self.found[one] = digest
            if settled(after, began):
                self._memory.remember(line)
