"""A process with its line of ancestors, and what shells and other wrappers in it do.

Pure: the facts are asked of a table of processes.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from types import MappingProxyType
from typing import NamedTuple, Protocol

from .command_line import script_argument

SHELLS = frozenset("sh bash dash ash zsh ksh mksh fish busybox".split())
# Inits that start one child, adopt orphans, and end when that child does.
INITS = frozenset("tini docker-init podman-init catatonit dumb-init".split())
# Programs that run one command, and end with it.
_WRAPPERS = INITS | frozenset(
    "uv uvx conda mamba micromamba poetry pdm pipenv pixi hatch rye sudo doas su runuser setsid timeout time script "
    "xvfb-run accelerate accelerate-launch torchrun start_app.py start-app launcher".split()
)
_SHELL_OPTIONS_WITH_VALUE = ("--rcfile", "--init-file")


class Kin(NamedTuple):
    """Hold what is known of one process in a line.

    `background` tells that it ignores SIGINT and SIGQUIT, as the jobs of a shell without job control do (POSIX, Shell
    Command Language, 2.11). `environ` is empty where it cannot be read.
    """

    pid: int
    ppid: int
    session: int
    start: float
    name: str
    argv: tuple[str, ...]
    environ: Mapping[str, str] = MappingProxyType({})
    folder: str | None = None
    cgroup: str = ""
    background: bool = False


class Table(Protocol):
    """Give what is known of the living processes, each by its pid."""

    def kin(self, pid: int) -> Kin | None:
        """Return a process, or None when it is gone or cannot be seen."""

    def children(self, pid: int) -> Sequence[int]:
        """Return the children of a process."""

    def cgroups(self) -> Mapping[int, str]:
        """Return the text of proc_pid_cgroup(5) of every process."""


def line(pid: int, table: Table) -> tuple[Kin, ...]:
    """Return a process and its ancestors, nearest first, as far as they can be seen."""
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
    """Return whether a shell was given nothing to run: somebody types its commands."""
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
    """Return whether a process runs one command, or a script, and ends with it."""
    if is_shell(process):
        return not is_interactive(process)
    return not programs(process).isdisjoint(_WRAPPERS)


def waits_for(wrapper: Kin, child: Kin, table: Table) -> bool:
    """Return whether a wrapper goes on when this child ends.

    A shell that has another child in the foreground waits for that one. Where all are in the background, it may wait
    for any of them.
    """
    if not is_shell(wrapper) or not child.background:
        return True
    others = (table.kin(pid) for pid in table.children(wrapper.pid) if pid != child.pid)
    return not any(other and not other.background for other in others)


def programs(process: Kin) -> frozenset[str]:
    """Return the names that a process's program goes by: its own, its command's, and its script's or module's."""
    command = os.path.basename(process.argv[0]).lstrip("-") if process.argv else ""
    names = {process.name, command}
    if process.name.startswith("PM2 v") or command.startswith("PM2 v"):
        names.add("pm2")  # it writes a title over its command line: PM2 v5.3.0: God Daemon (/root/.pm2)
    if command.lower().startswith(("python", "pypy")):
        script = script_argument(process.argv)
        if script and script.kind == "script":
            names.add(os.path.basename(script.text))
        elif script:
            names |= {script.text.partition(".")[0], script.text.rpartition(".")[2]}
    return frozenset(names)
