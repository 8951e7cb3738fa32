"""Hold every living process with its parent and session, from one look at the system."""

from __future__ import annotations

import os
from collections.abc import Collection, Mapping, Sequence
from functools import cached_property

from ..system import marker
from ..system.marker import Marker
from .kin import Kin
from .port import listening_inodes
from .process import cgroup, environment, look, psutil_module
from .proof import current_folder, ignores_interrupts, innermost_pid, marked, pids, ran_since, start_of, ticks_now
from .script import own_script


class ProcessTable:
    """Hold the tree of processes as of the first request; other facts are read on demand."""

    def __init__(self) -> None:
        self._kin: dict[int, Kin | None] = {}
        self._scripts: dict[tuple[str | None, tuple[str, ...]], str | None] = {}
        self._now = ticks_now()

    @cached_property
    def _kinship(self) -> Mapping[int, tuple[int, int]]:
        return _kinship()

    @cached_property
    def _children(self) -> Mapping[int, Sequence[int]]:
        children: dict[int, list[int]] = {}
        for pid, (ppid, _) in self._kinship.items():
            children.setdefault(ppid, []).append(pid)
        return children

    def kin(self, pid: int) -> Kin | None:
        """Return a process, or None if it has ended or is invisible."""
        if pid not in self._kin:
            kin = _kin_of(pid)
            # Another process with the same pid has another parent, or another session.
            same = kin and self._kinship.get(pid) in (None, (kin.ppid, kin.session))
            self._kin[pid] = kin if same else None
        return self._kin[pid]

    def children(self, pid: int) -> Sequence[int]:
        """Return the children of a process."""
        return self._children.get(pid, ())

    def session(self, pid: int) -> int:
        """Return the session of a process, 0 if unknown."""
        return self._kinship.get(pid, (0, 0))[1]

    def in_session(self, session: int) -> frozenset[int]:
        """Return the members of a session."""
        return frozenset(pid for pid, (_, of_it) in self._kinship.items() if of_it == session)

    def below(self, roots: Collection[int]) -> frozenset[int]:
        """Return every descendant of these processes, without them."""
        descendants: set[int] = set()
        pending = list(roots)
        while pending:
            new = [pid for pid in self.children(pending.pop()) if pid not in descendants and pid not in roots]
            descendants.update(new)
            pending += new
        return frozenset(descendants)

    @cached_property
    def marked(self) -> Mapping[int, Marker]:
        """Return every process that has a marker in its environment."""
        markers = {pid: marker.parse(value) for pid, value in marked(marker.NAME)}
        # A launcher rehearses the start with a marker that names no process yet.
        return {pid: mark for pid, mark in markers.items() if mark and mark.pid}

    def ran_since(self, pid: int) -> float | None:
        """Return the start of the oldest additional thread of a process, None without one."""
        return ran_since(pid)

    @property
    def now(self) -> float:
        """Return the time of the look, in the unit of a process's start."""
        return self._now

    def inner(self, pid: int) -> tuple[str, int]:
        """Return the number of a process's own pid namespace, and its pid there."""
        return innermost_pid(pid)

    def script(self, pid: int) -> str | None:
        """Return the file that a Python runs, links resolved, if its path is valid here."""
        kin = self.kin(pid)
        if kin is None:
            return None
        same = (kin.folder, kin.argv)  # the workers of a pool are many, and alike
        if same not in self._scripts:
            self._scripts[same] = own_script(kin.process)
        return self._scripts[same]

    def cgroups(self) -> Mapping[int, str]:
        """Return the text of proc_pid_cgroup(5) of every process."""
        return {pid: cgroup(pid) for pid in pids()}


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


class _Seen(Kin):
    """Hold one process; rarely needed facts are read on demand."""

    @cached_property
    def environ(self) -> Mapping[str, str]:
        variables = environment(self.pid)
        return variables if variables and start_of(self.pid) == self.start else {}

    @cached_property
    def folder(self) -> str | None:
        return current_folder(self.pid)

    @cached_property
    def cgroup(self) -> str:
        return cgroup(self.pid)

    @cached_property
    def background(self) -> bool:
        return ignores_interrupts(self.pid)

    @cached_property
    def listeners(self) -> frozenset[str]:
        return listening_inodes(self.pid)


def _kin_of(pid: int) -> Kin | None:
    process = look(pid)
    if process is None or process.gone:
        return None
    try:
        return _Seen(process, os.getsid(pid))
    except OSError:
        return None
