"""Read the facts about a process and its relatives from psutil, on every system."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, NamedTuple, TypeVar

from ..system import requirements
from .proof import DELETED, age, all_threads_ended, arguments, start_of

if TYPE_CHECKING:
    import psutil

T = TypeVar("T")


class Process(NamedTuple):
    """Hold a snapshot of one process: `pid` and `start` (clock ticks since boot) identify it for ever.

    `uid` is None if the real, effective and saved user differ or cannot be read. `exe` is None if it is hidden. `state`
    is one of psutil's names.
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
        """Return whether it is a zombie: dead, but not yet reaped by its parent."""
        return self.state in ("zombie", "dead") and all_threads_ended(self.pid)

    @property
    def age(self) -> float:
        """Return the seconds since its start."""
        return age(self.start)


def look(pid: int) -> Process | None:
    """Return the process as it is now, or None if it has ended or is invisible."""
    start = start_of(pid)
    process = ask(pid, lambda asked: _facts(asked, start)) if start is not None else None
    # Another process may have received the pid between the two reads.
    return process if process and start_of(pid) == start else None


def environment(pid: int) -> Mapping[str, str] | None:
    """Return a process's environment at its exec, or None if it cannot be read."""
    return ask(pid, lambda process: process.environ())


def cgroup(pid: int) -> str:
    """Return the text of proc_pid_cgroup(5); blank without one."""
    try:
        return Path(f"/proc/{pid}/cgroup").read_text(errors="surrogateescape")  # a name may have any bytes
    except OSError:
        return ""


def lineage(pid: int) -> tuple[int, ...]:
    """Return a pid and all its ancestors, nearest first."""
    line: list[int] = []
    parent: int | None = pid
    while parent and parent not in line:
        line.append(parent)
        parent = ask(parent, lambda process: process.ppid())
    return tuple(line)


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

    Raises LauncherError if it is too old: net_connections() was connections() before 6.0.
    """
    import psutil

    if psutil.version_info < (6,):
        raise requirements.missing([requirements.REQUIREMENTS["psutil"]], f"version {psutil.__version__} is too old")
    return psutil


def ask(pid: int, question: Callable[[psutil.Process], T]) -> T | None:
    """Return psutil's answer about a process, or None if it has ended or is hidden."""
    psutil = psutil_module()
    try:
        return question(psutil.Process(pid))
    except (psutil.Error, OSError, ValueError):
        return None  # ValueError: psutil rejects a pid below 0, and a record may contain any number
