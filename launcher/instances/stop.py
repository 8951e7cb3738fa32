"""Stop a whole instance and nothing else, until its last process has ended.

Waits end with the event: a process that exits at once costs no time, one that ignores SIGTERM costs the time-out.
"""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple

from ..errors import ExitStatus, LauncherError
from ..ui import text
from .describe import describe, process_document
from .family import descendants, family, foreign_family
from .pidfd import Handle, wait_for_any
from .process import Process, look
from .survey import Survey
from .table import ProcessTable

KILL_SECONDS = 5.0
_FREEZE_ROUNDS = 20
_INTERRUPTS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
_MAX_PIDFDS = 256  # below the usual limit of 1024, so that descriptors stay free for other work


Relatives = Callable[[Process, frozenset[int], ProcessTable], Iterable[Process]]


class Stopped(NamedTuple):
    """Hold the outcome for one instance: how many other processes were stopped, and whether SIGKILL was needed."""

    process: Process
    others: int
    seconds: float
    killed: bool


def stop(
    roots: Iterable[Process],
    timeout: float,
    spare: frozenset[int],
    say: Callable[[str], None],
    relatives: Relatives | None = None,
) -> tuple[Stopped, ...]:
    """Terminate these processes and their families, and kill the remaining ones after `timeout` seconds.

    `spare` are pids that are never stopped: the launcher, its ancestors, and other instances. `relatives` returns the
    family of a root, given its known pids, in the current table; without it, that is every descendant. Another user's
    process is skipped and reported. Raises LauncherError if a process may not be signalled, or survives SIGKILL.
    """
    tree = _Tree(tuple(roots), spare, say, relatives or _all_below)
    try:
        tree.send(signal.SIGTERM)
        killed: frozenset[int] = frozenset()
        if not tree.wait(timeout):
            killed = tree.kill()
            if not tree.wait(KILL_SECONDS):
                raise _undying(tree.living())
        return tree.result(killed)
    finally:
        tree.close()


def _undying(processes: list[Process]) -> LauncherError:
    process = processes[0]
    now = look(process.pid)
    state = f" (state {now.state})" if now else ""
    return LauncherError(
        f"{describe(process)} survives SIGKILL{state}; a driver or a file system may hold it",
        f"try again; ps -o pid,stat,wchan,cmd -p {process.pid} shows what it waits for",
        ExitStatus.RETRY,
    )


class _Tree:
    """Hold the processes of the instances to be stopped; the set grows while they fork."""

    def __init__(
        self, roots: tuple[Process, ...], spare: frozenset[int], say: Callable[[str], None], relatives: Relatives
    ) -> None:
        self._roots = roots
        self._spare = spare
        self._say = say
        self._relatives = relatives
        self._left: set[int] = set()
        self._begun = time.monotonic()
        self._ended: dict[int, float] = {}
        self._owner: dict[int, int] = {}
        self._handles: dict[int, Handle] = {}
        self._signal = signal.SIGTERM
        for root in roots:
            self._add(root, root.pid)
        self._grow()

    def send(self, number: signal.Signals) -> None:
        self._signal = number
        for handle in tuple(self._handles.values()):
            self._send(handle)

    def wait(self, timeout: float) -> bool:
        """Wait until all have ended and no new one has come; return whether that was within `timeout` seconds."""
        deadline = time.monotonic() + timeout
        while True:
            while living := self._living():
                remaining = deadline - time.monotonic()
                if remaining <= 0:
                    return False
                wait_for_any(living, remaining)
            new = self._grow()
            if not new:
                return True
            for handle in new:
                self._send(handle)

    def kill(self) -> frozenset[int]:
        """Freeze the remaining processes and their forks, then kill them; return the killed pids.

        This takes milliseconds, and a signal to the launcher waits for it: half of it would leave a frozen instance
        that holds the port. If the launcher is killed just then, the next launch stops the frozen processes.
        """
        earlier = signal.pthread_sigmask(signal.SIG_BLOCK, _INTERRUPTS)
        try:
            for _ in range(_FREEZE_ROUNDS):
                for handle in self._living():
                    handle.send(signal.SIGSTOP)
                if not self._grow():
                    break
            killed = frozenset(process.pid for process in self.living())
            self.send(signal.SIGKILL)
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, earlier)
        return killed

    def living(self) -> list[Process]:
        return [handle.process for handle in self._living()]

    def result(self, killed: frozenset[int]) -> tuple[Stopped, ...]:
        stopped = []
        for root in self._roots:
            pids = [pid for pid, owner in self._owner.items() if owner == root.pid]
            ended = max((self._ended.get(pid, self._begun) for pid in pids), default=self._begun)
            stopped.append(Stopped(root, len(pids) - 1, ended - self._begun, not killed.isdisjoint(pids)))
        return tuple(stopped)

    def close(self) -> None:
        for handle in self._handles.values():
            handle.close()

    def _living(self) -> list[Handle]:
        living = []
        for pid, handle in self._handles.items():
            if handle.ended():
                self._ended.setdefault(pid, time.monotonic())
            else:
                living.append(handle)
        return living

    def _send(self, handle: Handle) -> None:
        handle.send(self._signal)
        # A suspended process (Ctrl-Z) handles SIGTERM only after SIGCONT.
        process = look(handle.process.pid) if not handle.ended() else None
        if self._signal == signal.SIGTERM and process and process.state == "stopped":
            handle.send(signal.SIGCONT)

    def _add(self, process: Process, owner: int) -> Handle | None:
        if process.pid in self._handles or process.pid in self._spare or process.pid <= 1:
            return None
        if process.uid != os.geteuid():
            if process.pid not in self._left:
                self._left.add(process.pid)
                self._say(f"left: {describe(process)}: user {text.user(process.uid)}'s, below pid {owner}")
            return None
        self._owner[process.pid] = owner
        self._handles[process.pid] = Handle(process, pidfd=len(self._handles) < _MAX_PIDFDS)
        return self._handles[process.pid]

    def _grow(self) -> list[Handle]:
        """Add the processes that were forked since the last look."""
        new = []
        table = ProcessTable()
        for root in self._roots:
            pids = frozenset(
                pid for pid, owner in self._owner.items() if owner == root.pid and not self._handles[pid].reused()
            )
            for process in self._relatives(root, pids, table):
                handle = self._add(process, root.pid)
                if handle:
                    new.append(handle)
        return new


def relatives_of(survey: Survey) -> Relatives:
    """Return a function that finds the families of a survey's instances and leftovers as they grow.

    If the port is taken from another app, its family is all of its descendants, except other instances.
    """
    instances = {instance.pid: instance for instance in survey.stale}
    leftovers = frozenset(member.process.pid for member in survey.leftovers)
    known = {instance.pid: instance.known for instance in survey.stale}

    def relatives(root: Process, pids: frozenset[int], table: ProcessTable) -> Iterable[Process]:
        instance = instances.get(root.pid)
        if root.pid in leftovers:
            return descendants(pids, table, survey.bounds)
        if instance is None:
            return foreign_family(pids, table, survey.bounds)
        # They are proven by what they run, however short their time: a child of the same tick is not proven by its age.
        runs = [process for process in instance.runs if (now := table.kin(process.pid)) and now.start == process.start]
        roots = pids.intersection((instance.pid,)).union(process.pid for process in runs)
        kin = family(roots, table, survey.bounds, known[root.pid]._replace(pids=pids - roots))
        known[root.pid] = kin.known
        return (*runs, *kin.own)

    return relatives


def _all_below(_: Process, pids: frozenset[int], table: ProcessTable) -> Iterable[Process]:
    return [kin.process for pid in table.below(pids) if (kin := table.kin(pid))]


def stopped_document(stopped: Stopped) -> Mapping[str, Any]:
    """Return a stopped instance for `--json`."""
    return {
        **process_document(stopped.process),
        "others": stopped.others,
        "seconds": round(stopped.seconds, 3),
        "killed": stopped.killed,
    }
