"""Read files with all cores to hash them."""

from __future__ import annotations

import errno
import os
import queue
import threading
import time
from collections.abc import Sequence

from ..system.files import content_hash
from ..ui.console import Progress
from .digests import Wanted
from .dirs import open_to_read
from .memory import Memory, line_of, settled
from .verify import buffer, cores


def read(wanted: Sequence[Wanted], memory: Memory, progress: Progress | None) -> dict[Wanted, str]:
    """Read files, and remember their digests.

    Raises OSError as `digests` does.
    """
    reading = _Reading(memory, progress)
    work: queue.SimpleQueue[Wanted | None] = queue.SimpleQueue()
    threads = [threading.Thread(target=reading.work, args=(work,), daemon=True) for _ in range(cores())]
    for one in (*wanted, *(None for _ in threads)):
        work.put(one)
    try:
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    except BaseException:
        reading.stop.set()
        raise
    if reading.error:
        raise reading.error
    return reading.hashes


class _Reading:
    """Hold what several threads have read."""

    def __init__(self, memory: Memory, progress: Progress | None) -> None:
        self.hashes: dict[Wanted, str] = {}
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
            self.hashes[one] = digest
            if settled(after, began):
                self._memory.remember(line)
            else:
                self._memory.notice(line)
