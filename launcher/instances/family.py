"""Who descends from whom, by one look at the whole process table."""

from __future__ import annotations

import os
import time
from typing import NamedTuple

from .processes import LINUX, look, pids, read


class _Kin(NamedTuple):
    # A tuple and not a dataclass: there is one for each process of the machine at each look.
    ppid: int
    group: int
    session: int
    start: float


class Family:
    """Hold the kinship of every living process, as it was when this was made."""

    def __init__(self) -> None:
        self._kin = {pid: kin for pid in pids() if (kin := _kin(pid))}

    def below(self, roots: frozenset[int], since: float | None = None) -> tuple[int, ...]:
        """Return every descendant of these pids, and what a dead one of them left behind.

        A session number is inherited and is not given anew while a member lives (setsid(2)), so whoever is in a
        session that a root leads descends from it. A process group may hold the other side of a pipe as well: there
        only those count that started after `since` (clock ticks since boot).
        """
        children: dict[int, list[int]] = {}
        found: dict[int, None] = {}
        for pid, kin in self._kin.items():
            children.setdefault(kin.ppid, []).append(pid)
            led = kin.session in roots or (since is not None and kin.group in roots and kin.start >= since)
            if led and pid not in roots:
                found[pid] = None
        pending = [*roots, *found]
        while pending:
            for child in children.get(pending.pop(), ()):
                if child not in roots and child not in found:
                    found[child] = None
                    pending.append(child)
        return tuple(found)


def lineage(pid: int) -> tuple[int, ...]:
    """Return a pid and all its ancestors, nearest first."""
    line: list[int] = []
    while pid > 0 and pid not in line:
        line.append(pid)
        process = look(pid)
        if process is None:
            break
        pid = process.ppid
    return tuple(line)


def ticks_now() -> float:
    """Return this instant in the unit of `Process.start`."""
    if LINUX:
        return time.clock_gettime(time.CLOCK_BOOTTIME) * os.sysconf("SC_CLK_TCK") // 1
    return time.time()


def _kin(pid: int) -> _Kin | None:
    if not LINUX:
        process = look(pid)
        try:
            return _Kin(process.ppid, os.getpgid(pid), os.getsid(pid), process.start) if process else None
        except OSError:
            return None
    try:
        line = read(f"/proc/{pid}/stat")
    except OSError:
        return None
    after = line[line.rindex(b")") + 2 :].split(None, 20)
    return None if after[0] in b"ZX" else _Kin(int(after[1]), int(after[2]), int(after[3]), float(after[19]))
