"""A made-up table of processes, for rules that are pure."""

from __future__ import annotations

import copy
import os
from collections.abc import Collection, Mapping, Sequence
from typing import Any

from launcher.instances.kin import Kin, Table
from launcher.instances.process import Process
from launcher.system.marker import NAME, Marker

HERE = "4026531836"
PYTHON = "/usr/bin/python3.11"


class MadeUp(Kin):
    """Hold a process that is told what it is."""

    environ: Mapping[str, str] = {}
    folder: str | None = None
    cgroup = ""
    background = False
    listeners: frozenset[str] = frozenset()

    def but(self, **changes: Any) -> MadeUp:
        """Return the same process with other facts."""
        facts = {name: changes.pop(name) for name in tuple(changes) if name in Process._fields}
        other = copy.copy(self)
        other.process = self.process._replace(**facts)
        for name, value in changes.items():
            setattr(other, name, value)
        return other


def one(pid: int, ppid: int, command: str, session: int = 1, **more: Any) -> MadeUp:
    """Make a process; it has started at the tick of its pid's number."""
    argv = more.pop("argv", tuple(command.split()))
    name = more.pop("name", argv[0].rpartition("/")[2][:15])
    exe = PYTHON if argv[0].startswith("python") else f"/usr/bin/{name}"
    if mark := more.pop("marker", None):
        more["environ"] = {**more.get("environ", {}), NAME: mark.text()}
    return MadeUp(Process(pid, ppid, float(pid), os.geteuid(), name, "sleeping", argv, exe), session).but(**more)


class Box(Table):
    """Hold made-up processes. `threads` has the start of the oldest thread of some, `scripts` what some Pythons run."""

    def __init__(
        self, *processes: MadeUp, threads: Mapping[int, float] | None = None, scripts: Mapping[int, str] | None = None
    ) -> None:
        self.processes = {process.pid: process for process in processes}
        self.threads = threads or {}
        self.scripts = scripts or {}

    def kin(self, pid: int) -> Kin | None:
        return self.processes.get(pid)

    def children(self, pid: int) -> Sequence[int]:
        return [process.pid for process in self.processes.values() if process.ppid == pid]

    def session(self, pid: int) -> int:
        return self.processes[pid].session if pid in self.processes else 0

    def in_session(self, session: int) -> frozenset[int]:
        return frozenset(pid for pid, process in self.processes.items() if process.session == session)

    def below(self, roots: Collection[int]) -> frozenset[int]:
        found: set[int] = set()
        while new := {p.pid for p in self.processes.values() if p.ppid in found.union(roots)} - found.union(roots):
            found |= new
        return frozenset(found)

    @property
    def marked(self) -> Mapping[int, Marker]:
        return {pid: process.marker for pid, process in self.processes.items() if process.marker}

    def ran_since(self, pid: int) -> float | None:
        return self.threads.get(pid)

    @property
    def now(self) -> float:
        return 1000.0

    def inner(self, pid: int) -> tuple[str, int]:
        return HERE, pid

    def script(self, pid: int) -> str | None:
        return self.scripts.get(pid)

    def cgroups(self) -> Mapping[int, str]:
        return {process.pid: process.cgroup for process in self.processes.values()}
