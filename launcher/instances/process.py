"""What is known of a process and its kin, as psutil has it on every system."""

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
    process = ask(pid, lambda asked: _facts(asked, start)) if start is not None else None
    # The pid may have passed to another process between the two looks.
    return process if process and start_of(pid) == start else None


def environment(pid: int) -> Mapping[str, str] | None:
    """Return a process's environment as it was at its exec, or None where it cannot be read."""
    return ask(pid, lambda process: process.environ())


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

    Raises LauncherError where it is too old: net_connections() was connections() before 6.0.
    """
    import psutil

    if psutil.version_info < (6,):
        raise requirements.missing([requirements.REQUIREMENTS["psutil"]], f"version {psutil.__version__} is too old")
    return psutil


def ask(pid: int, question: Callable[[psutil.Process], T]) -> T | None:
    """Return what psutil answers of a process, or None when it is gone or hidden."""
    psutil = psutil_module()
    try:
        return question(psutil.Process(pid))
    except (psutil.Error, OSError, ValueError):
        return None  # ValueError: psutil knows no pid below 0, and a record may hold any number
