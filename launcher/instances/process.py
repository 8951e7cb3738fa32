"""What is known of a process and its kin, as psutil has it on every system."""

from __future__ import annotations

import os
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, NamedTuple, TypeVar

from ..system import requirements
from .proof import DELETED, age, all_threads_ended, arguments, start_of

if TYPE_CHECKING:
    import psutil

T = TypeVar("T")


class Process(NamedTuple):
    """Hold one process as it was seen: `pid` and `start` (clock ticks since boot) name it for ever.

    `uid` is None when the real, effective and saved user differ or cannot be read. `exe` is None where it is hidden.
    `state` is one of psutil's names.
    """

    pid: int
    ppid: int
    start: float
    uid: int | None
    name: str
    state: str
    argv: tuple[str, ...]
    exe: str | None

    @property
    def gone(self) -> bool:
        """Return whether it is a zombie: dead, and only waiting for its parent to notice."""
        return self.state in ("zombie", "dead") and all_threads_ended(self.pid)

    @property
    def age(self) -> float:
        """Return the seconds since its start."""
        return age(self.start)


def look(pid: int) -> Process | None:
    """Return the process as it is now, or None when it is gone or cannot be seen at all."""
    start = start_of(pid)
    process = _ask(pid, lambda asked: _facts(asked, start)) if start is not None else None
    # The pid may have passed to another process between the two looks.
    return process if process and start_of(pid) == start else None


def environment(pid: int) -> Mapping[str, str] | None:
    """Return a process's environment as it was at its exec, or None where it cannot be read."""
    return _ask(pid, lambda process: process.environ())


def cgroup(pid: int) -> str:
    """Return the text of proc_pid_cgroup(5), blank where there is none."""
    try:
        return Path(f"/proc/{pid}/cgroup").read_text()
    except OSError:
        return ""


def lineage(pid: int) -> tuple[int, ...]:
    """Return a pid and all its ancestors, nearest first."""
    line: list[int] = []
    parent: int | None = pid
    while parent and parent not in line:
        line.append(parent)
        parent = _ask(parent, lambda process: process.ppid())
    return tuple(line)


class Family:
    """Hold the kinship of every living process, as it was when this was made."""

    def __init__(self) -> None:
        self._kin = _table()

    def below(self, roots: Collection[int], spare: Collection[int] = ()) -> tuple[tuple[int, float], ...]:
        """Return every living descendant of these pids as (pid, start), not following those in `spare`.

        A session number is inherited and is not given anew while a member lives (setsid(2)): whoever is in a session
        that a root leads descends from it, even when all in between are dead. A process group proves nothing: it may
        hold the other side of a pipe.
        """
        children: dict[int, list[int]] = {}
        descendants: dict[int, None] = {}
        for pid, (ppid, session) in self._kin.items():
            children.setdefault(ppid, []).append(pid)
            if session in roots and pid not in roots and pid not in spare:
                descendants[pid] = None
        pending = [*roots, *descendants]
        while pending:
            for child in children.get(pending.pop(), ()):
                if child not in roots and child not in descendants and child not in spare:
                    descendants[child] = None
                    pending.append(child)
        starts = ((pid, self._start(pid)) for pid in descendants)
        return tuple((pid, start) for pid, start in starts if start is not None)

    def _start(self, pid: int) -> float | None:
        # The kinship is compared after the start was read: a stranger to whom the pid has passed has another one.
        start = start_of(pid)
        return start if start is not None and _ask(pid, _kin) == self._kin[pid] else None


def _table() -> Mapping[int, tuple[int, int]]:
    psutil = psutil_module()
    kin: dict[int, tuple[int, int]] = {}
    try:
        for process in psutil.process_iter():
            try:
                kin[process.pid] = process.ppid(), os.getsid(process.pid)
            except (psutil.Error, OSError):
                continue
    except OSError:
        pass  # psutil 6 needs /proc/stat, which ProcSubset=pid hides
    return kin


def _kin(process: psutil.Process) -> tuple[int, int] | None:
    gone = process.status() == "zombie" and all_threads_ended(process.pid)
    return None if gone else (process.ppid(), os.getsid(process.pid))


def _facts(process: psutil.Process, start: float) -> Process:
    psutil = psutil_module()
    with process.oneshot():
        uids = process.uids()
        try:
            exe = process.exe().removesuffix(DELETED) or None
        except psutil.Error:
            exe = None
        return Process(
            pid=process.pid,
            ppid=process.ppid(),
            start=start,
            uid=uids.real if uids.real == uids.effective == uids.saved else None,
            name=process.name(),
            state=process.status(),
            argv=arguments(process.pid),
            exe=exe,
        )


def psutil_module() -> ModuleType:
    """Return psutil.

    Raises LauncherError where it is too old: net_connections() was connections() before 6.0.
    """
    import psutil

    if psutil.version_info < (6,):
        raise requirements.missing([requirements.REQUIREMENTS["psutil"]], f"version {psutil.__version__} is too old")
    return psutil


def _ask(pid: int, question: Callable[[psutil.Process], T]) -> T | None:
    psutil = psutil_module()
    try:
        return question(psutil.Process(pid))
    except (psutil.Error, OSError, ValueError):
        return None  # ValueError: psutil knows no pid below 0, and a record may hold any number
