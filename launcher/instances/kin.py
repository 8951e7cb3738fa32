"""Describe a process, its ancestors, and the behaviour of shells and other wrappers among them.

Pure: a table of processes supplies the facts.
"""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Protocol

from ..system import marker
from ..system.marker import Marker
from .command_line import script_argument
from .process import Process

SHELLS = frozenset("sh bash dash ash zsh ksh mksh fish busybox".split())
# Inits that start one child, adopt orphans, and exit with that child.
INITS = frozenset("tini docker-init podman-init catatonit dumb-init".split())
# Programs that run one command, and exit with it.
_WRAPPERS = INITS | frozenset(
    "uv uvx conda mamba micromamba poetry pdm pipenv pixi hatch rye sudo doas su runuser setsid timeout time script "
    "xvfb-run accelerate accelerate-launch torchrun start_app.py start-app launcher".split()
)
_SHELL_OPTIONS_WITH_VALUE = ("--rcfile", "--init-file")


class Kin(ABC):
    """Hold the facts about one process in addition to its command line."""

    def __init__(self, process: Process, session: int) -> None:
        self.process = process
        self.session = session

    @property
    @abstractmethod
    def environ(self) -> Mapping[str, str]:
        """Return its environment; empty if it cannot be read."""

    @property
    @abstractmethod
    def folder(self) -> str | None:
        """Return its current folder."""

    @property
    @abstractmethod
    def cgroup(self) -> str:
        """Return the text of proc_pid_cgroup(5)."""

    @property
    @abstractmethod
    def background(self) -> bool:
        """Return whether it ignores SIGINT and SIGQUIT, as a script's background jobs (`&`) do.

        POSIX, Shell Command Language, 2.11, for a shell without job control.
        """

    @property
    @abstractmethod
    def listeners(self) -> frozenset[str]:
        """Return the inodes of its listening TCP sockets, also of inherited ones; empty if they are hidden."""

    @property
    def marker(self) -> Marker | None:
        """Return the marker in its environment."""
        return marker.parse(self.environ.get(marker.NAME))

    @property
    def pid(self) -> int:
        """Return its pid."""
        return self.process.pid

    @property
    def ppid(self) -> int:
        """Return its parent's pid."""
        return self.process.ppid

    @property
    def start(self) -> float:
        """Return when it started, in clock ticks since boot."""
        return self.process.start

    @property
    def name(self) -> str:
        """Return the name of its program, at most 15 characters: comm(5)."""
        return self.process.name

    @property
    def argv(self) -> tuple[str, ...]:
        """Return its command line."""
        return self.process.argv


class Table(Protocol):
    """Supply the facts about living processes, each by its pid."""

    def kin(self, pid: int) -> Kin | None:
        """Return a process, or None if it has ended or is invisible."""

    def children(self, pid: int) -> Sequence[int]:
        """Return the children of a process."""

    def session(self, pid: int) -> int:
        """Return the session of a process, 0 if unknown."""

    def in_session(self, session: int) -> frozenset[int]:
        """Return the members of a session."""

    def below(self, roots: Collection[int]) -> frozenset[int]:
        """Return every descendant of these processes, without them."""

    @property
    def marked(self) -> Mapping[int, Marker]:
        """Return every process that has a marker in its environment."""

    def ran_since(self, pid: int) -> float | None:
        """Return the start of the oldest additional thread of a process, in the unit of its start.

        An exec ends all threads except one (execve(2)), so the process has run the same program since then.
        """

    @property
    def now(self) -> float:
        """Return the time of the look, in the unit of a process's start."""

    def inner(self, pid: int) -> tuple[str, int]:
        """Return the number of a process's own pid namespace, and its pid there."""

    def script(self, pid: int) -> str | None:
        """Return the file that a Python runs, links resolved, if its path is valid here."""

    def cgroups(self) -> Mapping[int, str]:
        """Return the text of proc_pid_cgroup(5) of every process."""


def line(pid: int, table: Table) -> tuple[Kin, ...]:
    """Return a process and its visible ancestors, nearest first."""
    return tuple(_line(pid, table))


def _line(pid: int, table: Table) -> Iterator[Kin]:
    met: set[int] = set()
    while pid > 0 and pid not in met and (kin := table.kin(pid)):
        yield kin
        met.add(pid)
        pid = kin.ppid


def is_shell(process: Kin) -> bool:
    """Return whether a process is a shell."""
    return not programs(process).isdisjoint(SHELLS)


def is_interactive(process: Kin) -> bool:
    """Return whether a shell is interactive: it has no command or script to run."""
    words = iter(process.argv[1:])
    for word in words:
        if word in _SHELL_OPTIONS_WITH_VALUE:
            next(words, None)
        elif word.startswith("--"):
            continue
        elif word[:1] in ("-", "+") and len(word) > 1:
            if "c" in word:
                return False
            if word[0] == "-" and "i" in word:
                return True
            if word[-1] in "oO":
                next(words, None)
        else:
            return False
    return True


def is_wrapper(process: Kin) -> bool:
    """Return whether a process runs one command, or a script, and exits with it."""
    if is_shell(process):
        return not is_interactive(process)
    return not programs(process).isdisjoint(_WRAPPERS)


def waits_for(wrapper: Kin, child: Kin, table: Table) -> bool:
    """Return whether a wrapper continues when this child ends.

    A shell with another child in the foreground waits for that one. If all are in the background, it may wait for any
    of them.
    """
    if not is_shell(wrapper) or not child.background:
        return True
    others = (table.kin(pid) for pid in table.children(wrapper.pid) if pid != child.pid)
    return not any(other and not other.background for other in others)


def programs(process: Kin) -> frozenset[str]:
    """Return the names of a process's program: its own, its command's, and its script's or module's."""
    command = os.path.basename(process.argv[0]).lstrip("-") if process.argv else ""
    names = {process.name, command}
    if process.name.startswith("PM2 v") or command.startswith("PM2 v"):
        names.add("pm2")  # it overwrites its command line with a title: PM2 v5.3.0: God Daemon (/root/.pm2)
    if command.lower().startswith(("python", "pypy")):
        script = script_argument(process.argv)
        if script and script.kind == "script":
            names.add(os.path.basename(script.text))
        elif script:
            names |= {script.text.partition(".")[0], script.text.rpartition(".")[2]}
    return frozenset(names)
