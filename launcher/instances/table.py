"""Every living process with its parent and session, as one look at the system has found them."""

from __future__ import annotations

import os
from collections.abc import Collection, Mapping, Sequence
from typing import TYPE_CHECKING

from .kin import Kin
from .process import ask, cgroup, environment, look, psutil_module
from .proof import all_threads_ended, current_folder, ignores_interrupts, pids, start_of

if TYPE_CHECKING:
    import psutil


class ProcessTable:
    """Hold who descends from whom, as it was when this was made. More of a process is read when it is asked for."""

    def __init__(self) -> None:
        self._kinship = _kinship()
        self._children: dict[int, list[int]] = {}
        for pid, (ppid, _) in self._kinship.items():
            self._children.setdefault(ppid, []).append(pid)
        self._kin: dict[int, Kin | None] = {}

    def kin(self, pid: int) -> Kin | None:
        """Return a process, or None when it is gone or cannot be seen."""
        if pid not in self._kin:
            self._kin[pid] = _kin_of(pid)
        return self._kin[pid]

    def children(self, pid: int) -> Sequence[int]:
        """Return the children of a process."""
        return self._children.get(pid, ())

    def cgroups(self) -> Mapping[int, str]:
        """Return the text of proc_pid_cgroup(5) of every process."""
        return {pid: cgroup(pid) for pid in pids()}

    def below(self, roots: Collection[int], spare: Collection[int] = ()) -> tuple[tuple[int, float], ...]:
        """Return every living descendant of these pids as (pid, start), not following those in `spare`.

        A session number is inherited and is not given anew while a member lives (setsid(2)): whoever is in a session
        that a root leads descends from it, even when all in between are dead. A process group proves nothing: it may
        hold the other side of a pipe.
        """
        descendants: dict[int, None] = {}
        for pid, (_, session) in self._kinship.items():
            if session in roots and pid not in roots and pid not in spare:
                descendants[pid] = None
        pending = [*roots, *descendants]
        while pending:
            for child in self.children(pending.pop()):
                if child not in roots and child not in descendants and child not in spare:
                    descendants[child] = None
                    pending.append(child)
        starts = ((pid, self._start(pid)) for pid in descendants)
        return tuple((pid, start) for pid, start in starts if start is not None)

    def _start(self, pid: int) -> float | None:
        # The kinship is compared after the start was read: a stranger to whom the pid has passed has another one.
        start = start_of(pid)
        return start if start is not None and ask(pid, _kinship_of) == self._kinship[pid] else None


def _kinship() -> Mapping[int, tuple[int, int]]:
    psutil = psutil_module()
    kinship: dict[int, tuple[int, int]] = {}
    try:
        for process in psutil.process_iter():
            try:
                kinship[process.pid] = process.ppid(), os.getsid(process.pid)
            except (psutil.Error, OSError):
                continue
    except OSError:
        pass  # psutil 6 needs /proc/stat, which ProcSubset=pid hides
    return kinship


def _kinship_of(process: psutil.Process) -> tuple[int, int] | None:
    gone = process.status() == "zombie" and all_threads_ended(process.pid)
    return None if gone else (process.ppid(), os.getsid(process.pid))


def _kin_of(pid: int) -> Kin | None:
    process = look(pid)
    if process is None or process.gone:
        return None
    try:
        session = os.getsid(pid)
    except OSError:
        return None
    return Kin(
        pid=pid,
        ppid=process.ppid,
        session=session,
        start=process.start,
        name=process.name,
        argv=process.argv,
        environ=environment(pid) or {},
        folder=current_folder(pid),
        cgroup=cgroup(pid),
        background=ignores_interrupts(pid),
    )
