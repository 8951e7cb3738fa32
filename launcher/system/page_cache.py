"""Read files into the page cache before they are needed, as far as there is free memory."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress

_BLOCK = 1 << 20
_STEP = 8 << 20  # the distance between the checks whether a file is cached
_THREADS = 4
_CGROUPS = "/sys/fs/cgroup"


def missing(descriptor: int, size: int) -> Iterator[tuple[int, int]]:
    """Yield the parts of a file, as offset and bytes, whose ends are not in the page cache.

    If the file system cannot tell (preadv2(2), RWF_NOWAIT), yield the whole file.
    """
    for offset in range(0, size, _STEP):
        count = min(_STEP, size - offset)
        if not (_is_resident(descriptor, offset) and _is_resident(descriptor, offset + count - 1)):
            yield offset, count


def _is_resident(descriptor: int, offset: int) -> bool:
    flag = getattr(os, "RWF_NOWAIT", None)
    if flag is None:
        return False
    try:
        return os.preadv(descriptor, [bytearray(1)], offset, flag) == 1
    except OSError:
        return False


def read(parts: Sequence[tuple[int, int, int]], seconds: float, proceed: Callable[[int], None]) -> int:
    """Read parts of open files, as descriptor, offset and bytes, until the time limit; return the number of bytes read.

    `proceed` receives the bytes of each step, from one thread at a time.
    """
    deadline, guard, pending, done = time.monotonic() + seconds, threading.Lock(), list(reversed(parts)), [0]
    stop = threading.Event()

    def work() -> None:
        block = memoryview(bytearray(_BLOCK))
        while not stop.is_set():
            with guard:
                if not pending:
                    return
                descriptor, offset, count = pending.pop()
            end = offset + count
            while offset < end and not stop.is_set() and time.monotonic() < deadline:
                try:
                    got = os.preadv(descriptor, [block[: min(_BLOCK, end - offset)]], offset)
                except OSError:
                    break  # the app will report the problem
                if not got:
                    break
                offset += got
                with guard:
                    done[0] += got
                    proceed(got)

    threads = [threading.Thread(target=work, daemon=True) for _ in range(min(_THREADS, len(parts)))]
    for thread in threads:
        thread.start()
    try:
        for thread in threads:
            thread.join()
    except BaseException:
        stop.set()
        raise
    return done[0]


def available() -> int | None:
    """Return how many bytes the page cache can take without swapping: of the system, and of this process's cgroups."""
    limits = [limit for limit in (_of_system(), *_of_cgroups()) if limit is not None]
    return min(limits, default=None)


def _of_system() -> int | None:
    with suppress(OSError, ValueError, IndexError), open("/proc/meminfo", encoding="ascii") as file:
        for line in file:
            if line.startswith("MemAvailable:"):
                return int(line.split()[1]) << 10
    return None


def _of_cgroups() -> Iterator[int]:
    """Yield the free memory of each cgroup above this process: cgroup v2, memory.max; v1, memory.limit_in_bytes."""
    try:
        with open("/proc/self/cgroup", encoding="utf-8", errors="surrogateescape") as file:
            lines = file.read().splitlines()
    except OSError:
        return
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if not controllers:
            base, names = _CGROUPS, ("memory.max", "memory.current", ("active_file", "inactive_file"))
        elif "memory" in controllers.split(","):
            base = f"{_CGROUPS}/memory"
            names = ("memory.limit_in_bytes", "memory.usage_in_bytes", ("total_active_file", "total_inactive_file"))
        else:
            continue
        while True:
            left = _left(f"{base}{path}", *names)
            if left is not None:
                yield left
            if path in ("", "/"):
                break
            path = os.path.dirname(path)


def _left(folder: str, limit: str, usage: str, cached: tuple[str, ...]) -> int | None:
    """Return how much memory a cgroup can still use; its cached files can be evicted."""
    try:
        most, used = _number(f"{folder}/{limit}"), _number(f"{folder}/{usage}")
        with open(f"{folder}/memory.stat", encoding="ascii") as file:
            counts = dict(line.split()[:2] for line in file)
    except (OSError, ValueError):
        return None  # it has no such limit
    return max(0, most - used + sum(int(counts.get(name, "0")) for name in cached))


def _number(path: str) -> int:
    with open(path, encoding="ascii") as file:
        return int(file.read())
