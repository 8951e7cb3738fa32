"""Who descends from whom, by one look at the whole process table."""

from __future__ import annotations

import os
from collections.abc import Collection
from typing import NamedTuple

from .process import LINUX, look, pids, read


class _Kin(NamedTuple):
    ppid: int
    session: int
    start: float
    gone: bool


class Family:
    """Hold the kinship of every living process, as it was when this was made."""

    def __init__(self) -> None:
        self._kin = {pid: kin for pid in pids() if (kin := _kin(pid)) and not kin.gone}

    def below(self, roots: Collection[int], spare: Collection[int] = ()) -> tuple[tuple[int, float], ...]:
        """Return every descendant of these pids as (pid, start), not following those in `spare`.

        A session number is inherited and is not given anew while a member lives (setsid(2)): whoever is in a session
        that a root leads descends from it, even when all in between are dead. A process group proves nothing: it may
        hold the other side of a pipe.
        """
        children: dict[int, list[int]] = {}
        found: dict[int, None] = {}
        for pid, kin in self._kin.items():
            children.setdefault(kin.ppid, []).append(pid)
            if kin.session in roots and pid not in roots and pid not in spare:
                found[pid] = None
        pending = [*roots, *found]
        while pending:
            for child in children.get(pending.pop(), ()):
                if child not in roots and child not in found and child not in spare:
                    found[child] = None
                    pending.append(child)
        return tuple((pid, self._kin[pid].start) for pid in found)


def lineage(pid: int) -> tuple[int, ...]:
    """Return a pid and all its ancestors, nearest first."""
    line: list[int] = []
    while pid > 0 and pid not in line:
        line.append(pid)
        kin = _kin(pid)
        if kin is None:
            break
        pid = kin.ppid
    return tuple(line)


def start_of(pid: int) -> float | None:
    """Return when a process started, as `Process.start` has it, or None when it is gone; a zombie is still there."""
    kin = _kin(pid)
    return kin.start if kin else None


def _kin(pid: int) -> _Kin | None:
    if not LINUX:
        process = look(pid)
        try:
            return _Kin(process.ppid, os.getsid(pid), process.start, process.gone) if process else None
        except OSError:
            return None
    try:
        line = read(f"/proc/{pid}/stat")
    except OSError:
        return None
    after = line[line.rindex(b")") + 2 :].split(None, 20)
    return _Kin(int(after[1]), int(after[3]), float(after[19]), after[0] in (b"Z", b"X"))
